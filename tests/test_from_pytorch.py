"""docs/coming-from-pytorch.md: every name of ours exists, and the two training steps compute the same."""

import dataclasses
import pkgutil
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver

import launch as launcher
from cnnjax.network import Network
from cnnjax.runs.run import Run
from cnnjax.training.step import TrainState

TEXT = (Path(__file__).parents[1] / "docs" / "coming-from-pytorch.md").read_text()
_CELL = re.compile(r"^```(py|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OURS = sorted(
    {
        span
        for row in re.findall(r"^\| .* \| (.*) \|$", TEXT, re.MULTILINE)
        for span in re.findall(r"`([^`]+)`", row)
    }
)


@pytest.mark.parametrize("flags", [span for span in OURS if span.startswith(("--", "python launch.py"))])
def test_flags_of_ours_are_there(flags):
    known = []
    for word in shlex.split(flags.removeprefix("python launch.py")):
        name, _, value = word.removeprefix("--").partition("=")
        assert name in launcher.FLAGS, name
        boolean = launcher.FLAGS[name].boolean
        known += [word] if value or boolean else []
    with flagsaver.flagsaver():
        launcher.parse_flags(["launch.py", *known])


@pytest.mark.parametrize("span", [span for span in OURS if re.match(r"(cj|cnnjax|run)\.\w", span)])
def test_names_of_ours_are_there(span):
    name = span.partition("(")[0]
    owner, _, last = name.rpartition(".")
    parts = {"run": Run, "run.network": Network, "run.state": TrainState}
    if owner in parts:
        assert last in {*dir(parts[owner]), *(field.name for field in dataclasses.fields(parts[owner]))}
    else:
        pkgutil.resolve_name(re.sub(r"^cj\b", "cnnjax", name))


def test_the_training_step_is_that_of_torch():
    torch = pytest.importorskip("torch", reason="the step beside it is torch's")
    ours, theirs = {"__name__": "page"}, {"__name__": "page"}
    for kind, cell in _CELL.findall(TEXT):
        exec(cell, ours if kind == "python" else theirs)
    layer = theirs["model"][1]
    (dense,) = ours["state_before"].params.values()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.array(dense["kernel"]).T))
        layer.bias.copy_(torch.tensor(np.array(dense["bias"])))
    pixels = torch.tensor(ours["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    loss = theirs["train_step"](pixels, torch.tensor(ours["labels"].astype(np.int64)))
    np.testing.assert_allclose(ours["metrics"]["loss"], loss, rtol=1e-5)
    (stepped,) = ours["state"].params.values()
    np.testing.assert_allclose(stepped["kernel"].T, layer.weight.detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stepped["bias"], layer.bias.detach().numpy(), rtol=1e-4, atol=1e-6)
