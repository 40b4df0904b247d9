"""The benchmark of two stages, with our side made up and a peer that is, too."""

import sys

import pytest

from cnnjax.benchmarks import two_stage
from cnnjax.benchmarks.detector import OBJECTS
from cnnjax.benchmarks.options import Options
from cnnjax.config import ConfigError


class Ours:
    train_compilation, infer_compilation = 1.5, 2.5

    def __init__(self, experiment, arrays, classes):
        assert arrays["masks"].shape == (2, OBJECTS, 16, 16) and arrays["masks"].any((2, 3)).all()
        assert (experiment.model.name, classes) == ("maskrcnn_small", 4)
        assert experiment.detection.max_detections == 20

    def change(self, changed):
        pass

    def train(self):
        pass

    def infer(self):
        return 40


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    monkeypatch.setattr(two_stage, "Detector", Ours)


def compared(**options):
    return list(two_stage.compare("maskrcnn_small", 16, 2, 4, 20, Options(repetitions=2, **options)))


def test_without_a_peer_it_says_so():
    training, inference = compared()
    assert training.subject == "training step, maskrcnn_small, 16x16, batch 2"
    assert len(training.values["cnnjax, ms"]) == 2 and training.values["compilation, s"] == [1.5]
    assert inference.values["detections per image"] == [20] and inference.values["compilation, s"] == [2.5]
    assert "--benchmark.torchvision" in inference.note and not inference.peers


def test_the_peer_answers_in_turns_from_a_process_of_its_own(tmp_path, monkeypatch):
    peer = tmp_path / "peer.py"
    peer.write_text(
        "import json, sys, pathlib\n"
        "name, file = sys.argv[1:]\n"
        "assert name == 'maskrcnn_small' and pathlib.Path(file).stat().st_size\n"
        "print(json.dumps({'torchvision': '0'}), 907645, flush=True)\n"
        "for line in sys.stdin: print({'train': 0, 'infer': 36}[line.strip()], flush=True)\n"
    )
    monkeypatch.setattr(two_stage, "_PEER", peer)
    training, inference = compared(torchvision=sys.executable)
    assert len(training.values["torchvision / cnnjax"]) == 2 and training.peers == {"torchvision": "0"}
    assert inference.values["torchvision's"] == [18]
    peer.write_text("raise SystemExit('no torchvision here')")
    with pytest.raises(ConfigError, match=r"benchmark.torchvision=.*: no torchvision here"):
        compared(torchvision=sys.executable)
    with pytest.raises(ConfigError, match="benchmark.torchvision='/no/python': No such file"):
        compared(torchvision="/no/python")
