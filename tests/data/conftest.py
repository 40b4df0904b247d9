import socket

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty cache of decoded data for every test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CNNJAX_CACHE", str(folder))
    return folder


@pytest.fixture
def offline(monkeypatch):
    """No connection can be made and no name looked up."""

    def refuse(*arguments, **options):
        raise OSError("the network is blocked by the test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
