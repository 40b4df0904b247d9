"""The benchmark of decoding, on few images: ours, and a peer that is made up."""

import sys

import pytest

from cnnjax.benchmarks import decoding
from cnnjax.benchmarks.options import Options
from cnnjax.config import ConfigError


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    decoding.write_photographs(folder, 6)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(decoding, "BATCH", 2)


def test_without_a_peer_it_says_so(photographs):
    found = decoding.compared(photographs, 0, 3, Options(repetitions=2))
    assert len(found.values["cnnjax, images/s"]) == 2 and min(found.values["cnnjax, images/s"]) > 0
    assert "--benchmark.torchvision" in found.note and not found.peers


def test_the_peer_reads_the_same_files_with_the_same_settings(photographs, tmp_path, monkeypatch):
    peer = tmp_path / "peer.py"
    peer.write_text(
        "import json, sys, pathlib\n"
        "folder, workers, batch, side, smallest, first, batches = sys.argv[1:]\n"
        "files = list(pathlib.Path(folder).rglob('*.jpg'))\n"
        "assert (len(files), workers, batch, side, smallest, batches) == (6, '0', '2', '224', '0.08', '3'), sys.argv\n"
        "print(json.dumps({'images_per_second': 5.0, 'versions': {'torchvision': '0'}}))\n"
    )
    monkeypatch.setattr(decoding, "_PEER", peer)
    found = decoding.compared(photographs, 0, 3, Options(repetitions=1, torchvision=sys.executable))
    assert found.values["torch, images/s"] == [5.0] and found.peers == {"torchvision": "0"} and not found.note
    assert found.values["cnnjax / torch"] == [found.values["cnnjax, images/s"][0] / 5]
    peer.write_text("raise SystemExit('no torchvision here')")
    with pytest.raises(ConfigError, match=r"benchmark.torchvision=.*: no torchvision here"):
        decoding.theirs(sys.executable, photographs, 0, 3)
    with pytest.raises(ConfigError, match="benchmark.torchvision='/no/python': No such file"):
        decoding.theirs("/no/python", photographs, 0, 3)
