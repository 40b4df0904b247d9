"""`import cnnjax` from a program: its documented examples, own data, modules and tasks, and what it says too late."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

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
run = cj.train(cj.Experiment(train=cj.Train(epochs=10)), "run", **mine)
run = cj.train(cj.Experiment(train=cj.Train(epochs=20)), "run", **mine)
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
    found = doctest.testmod(cj, verbose=False, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0 and found.attempted >= 10
    for name in ("train", "load_run"):
        assert ">>>" in getattr(cj, name).__doc__


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
