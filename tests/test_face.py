"""`import cnnjax` from a program: its documented examples, own data, modules and tasks, and what it says too late."""

import dataclasses
import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax as cj
from cnnjax.config import ConfigError

ROOT = Path(__file__).parents[1]
# All that a researcher writes for a network, a loss and data that nobody else has.
SCRIPT = """
import dataclasses, flax.linen as nn, jax, jax.numpy as jnp, numpy as np, optax
import cnnjax as cj

class Mine(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(1)(x.reshape(len(x), -1))

@dataclasses.dataclass(frozen=True)
class Bright(cj.Task):
    targets, headline = ("label",), "accuracy"
    def loss(self, outputs, batch):
        return optax.sigmoid_binary_cross_entropy(outputs[:, 0], batch["label"].astype(jnp.float32))
    def metrics(self, outputs, batch):
        right = (outputs[:, 0] > 0) == (batch["label"] > 0)
        return {"loss": self.loss(outputs, batch), "accuracy": right.astype(jnp.float32)}

x = np.random.default_rng(0).integers(0, 256, (512, 4, 4, 1), np.uint8)
y = (x.mean(axis=(1, 2, 3)) > 127).astype(np.int32)
mine = dict(data=cj.Dataset.of_arrays(x, y, x[:100], y[:100]), model=Mine(), task=Bright())
quick = cj.Optimizer(learning_rate=0.05)
run = cj.train(cj.Experiment(optimizer=quick, train=cj.Train(epochs=10)), "run", **mine)
run = cj.train(cj.Experiment(optimizer=quick, train=cj.Train(epochs=20)), "run", **mine)
print(run.step, run.metrics["accuracy"], run.evaluate().mean["accuracy"], run.predict([x[0]])[0].to_json())
"""


def python(code, folder):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_examples_of_the_docstrings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = {one.name: one for one in doctest.DocTestFinder().find(cj, "cj") if one.examples}
    runner = doctest.DocTestRunner()
    for name in ("cj", "cj.train", "cj.load_run", "cj.sweep", "cj.search"):  # which loads what train has made
        runner.run(examples.pop(name))
    assert not examples and runner.failures == 0 and runner.tries >= 10


def test_every_name_is_there_and_a_misspelt_one_is_not():
    for name in cj.__all__:
        assert getattr(cj, name) is not None
    assert set(cj.__all__) <= set(dir(cj)) and cj.experiments.mnist_lenet().name == "mnist_lenet"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = cj.trian
    with pytest.raises(AttributeError, match="no experiment 'mnist_lenat'"):
        _ = cj.experiments.mnist_lenat


@pytest.mark.full
def test_a_module_and_a_task_of_ones_own_train_resume_evaluate_and_predict(tmp_path):
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) <= 25
    found = python(SCRIPT, tmp_path)
    assert found.returncode == 0, found.stderr
    last = found.stdout.splitlines()[-1]
    step, trained, evaluated, prediction = last.split(maxsplit=3)
    assert step == "80" and float(trained) == float(evaluated) > 0.9 and "outputs" in prediction
    assert "going on from step 40 of 80" in found.stdout
    alone = python('import cnnjax as cj; cj.load_run("run")', tmp_path)
    assert "model Mine was given by a program" in alone.stderr
    launched = subprocess.run(
        [sys.executable, ROOT / "launch.py", "--mode=evaluate", "--workdir=run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    (line,) = launched.stderr.splitlines()
    assert launched.returncode == 1 and line.startswith("error: model Mine was given by a program")


def test_what_is_given_and_does_not_fit_is_told_in_one_line(tmp_path):
    x = np.zeros((8, 4, 4, 1), np.uint8)
    data = cj.Dataset.of_arrays(x, np.zeros(8, np.int32), x, np.zeros(8, np.int32))
    detector = cj.Experiment(task="grid_detection", train=cj.Train(epochs=1))
    with pytest.raises(ConfigError, match="has one label per image; task=grid_detection learns boxes"):
        cj.train(detector, tmp_path / "run", data=data)
    with pytest.raises(ConfigError, match="does not exist"):
        cj.load_run(tmp_path / "nothing")
    assert not (tmp_path / "run").exists()


def test_the_cpu_flag_is_set_while_it_can_be_and_said_where_it_cannot(tmp_path):
    program = "import os, jax\n{}\nimport cnnjax as cj\ntry: cj.load_run('x')\nexcept cj.ConfigError: pass\nprint(os.environ['XLA_FLAGS'])"
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    for before, said in (("", False), ("jax.numpy.zeros(1)", True)):
        found = subprocess.run(
            [sys.executable, "-c", program.format(before)],
            cwd=tmp_path,
            env={**env, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr
        assert "ynn_fusion_type" in found.stdout
        assert ("JAX has computed before" in found.stderr) == said


class Regression(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(6)(nn.relu(nn.Dense(64)(x.reshape(len(x), -1))))


@dataclasses.dataclass(frozen=True)
class BoxAndPoint(cj.Task):
    """Where the box of a bright square is, and its centre: two kinds of targets, each a part of the loss."""

    targets, headline = ("boxes", "valid", "points"), "minus_loss"

    def loss(self, outputs, batch):
        box, point = batch["boxes"][:, 0] / 16, batch["points"][:, 0] / 16
        return {
            "box": jnp.sum((outputs[:, :4] - box) ** 2, axis=-1),
            "point": jnp.sum((outputs[:, 4:] - point) ** 2, axis=-1),
        }

    def metrics(self, outputs, batch):
        parts = self.loss(outputs, batch)
        return {**parts, "minus_loss": -parts["box"] - parts["point"]}


@pytest.mark.full
def test_one_task_learns_from_boxes_and_points_at_once(tmp_path):
    rng = np.random.default_rng(0)
    corners, sides = rng.integers(0, 9, (256, 2)), rng.integers(3, 8, 256)
    x = np.zeros((256, 16, 16, 1), np.uint8)
    for image, (left, top), side in zip(x, corners, sides, strict=True):
        image[top : top + side, left : left + side] = 255
    boxes = np.concatenate([corners, corners + sides[:, None]], axis=1).astype(np.float32)
    targets = {
        "boxes": boxes[:, None],
        "classes": np.zeros((256, 1), np.int32),
        "valid": np.ones((256, 1), bool),
    }
    targets |= {"points": (boxes[:, None, :2] + boxes[:, None, 2:]) / 2, "visible": np.ones((256, 1), bool)}
    targets |= {"flip_points": np.zeros((256, 1), np.int32)}
    experiment = cj.Experiment(
        data=cj.Data(batch_size=32, mean=(0.0,), std=(1.0,)),
        augment=cj.Augment(flip="random", flip_vertical=True),
        optimizer=cj.Optimizer(learning_rate=5e-3),
        train=cj.Train(epochs=30, evaluate_every=0, log_every=8),
    )
    data = cj.Dataset.of_arrays(x, targets)
    run = cj.train(experiment, tmp_path / "run", data=data, model=Regression(), task=BoxAndPoint())
    # The mean is off by 0.2 of the image for each number: that is what guessing costs.
    assert run.metrics["box"] < 0.04 and run.metrics["point"] < 0.02
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, last = (next(line for line in order if line["split"] == "train") for order in (lines, lines[::-1]))
    assert last["loss/box"] < first["loss/box"] / 3 and last["loss/point"] < first["loss/point"] / 3
