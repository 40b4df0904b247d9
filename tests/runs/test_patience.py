"""Early stopping: when it stops, what it leaves, how it goes on, and what it refuses."""

import dataclasses

import jax
import numpy as np
import pytest

from cnnjax.config import ConfigError, Data, Experiment, Model, Optimizer, Train, replace
from cnnjax.runs.beginning import find
from cnnjax.runs.journal import Journal
from cnnjax.runs.run import restore
from cnnjax.runs.train import train_run
from cnnjax.runs.workdir import Workdir
from cnnjax.training.evaluate import Evaluator

# Ten training images in batches of ten: a step is an epoch, after which is evaluated.
EXPERIMENT = Experiment(
    data=Data(limit=20, batch_size=10, validation=0.5),
    model=Model(name="softmax_regression"),
    optimizer=Optimizer(name="sgd", learning_rate=0.1, schedule="constant"),
    train=Train(steps=7, patience=2, checkpoint_every=0),
)
ACCURACY = {1: 0.1, 2: 0.5, 3: 0.45, 4: 0.4, 5: 0.6, 6: 0.3, 7: 0.2}  # by step: the best is 2, and later 5


@pytest.fixture
def scripted(monkeypatch):
    """Runs are judged by these numbers instead of what they are worth."""
    at = {"step": 0}
    evaluate, measure = Journal._evaluate, Evaluator.__call__

    def noticed(self, step, state):
        at["step"] = step
        return evaluate(self, step, state)

    def judged(self, variables):
        found = measure(self, variables)
        said = {"accuracy": ACCURACY[at["step"]]}
        return dataclasses.replace(found, per_seed=[{**one, **said} for one in found.per_seed])

    monkeypatch.setattr(Journal, "_evaluate", noticed)
    monkeypatch.setattr(Evaluator, "__call__", judged)


def steps_of(workdir):
    return sorted(int(path.name) for path in workdir.checkpoints.iterdir() if path.name.isdecimal())


@pytest.mark.full
def test_it_stops_keeps_the_best_and_goes_on_as_if_it_had_never_been_interrupted(scripted, tmp_path, capsys):
    whole, parts = Workdir(tmp_path / "whole"), Workdir(tmp_path / "parts")
    evaluation = train_run(EXPERIMENT, whole)
    assert "stopped early: 2 evaluations were not better" in capsys.readouterr().out
    note = "training stopped early; the result is that of the best checkpoint, step 2"
    assert note in evaluation.notes and note in (whole.path / "report.html").read_text()
    assert steps_of(whole) == [2, 3, 4]  # the two newest and the best
    assert restore(whole).step == 2 and restore(whole, "last").step == 4
    source = find(replace(EXPERIMENT, {"train.init_from": str(whole.path)}))
    begun = source.read(None, {})[0]["output", "kernel"]  # what another run begins from
    np.testing.assert_array_equal(begun, restore(whole, "2").state.params["output"]["kernel"])
    # Interrupted after an evaluation that was not better, it remembers this one.
    train_run(replace(EXPERIMENT, {"train.steps": 3}), parts)
    train_run(EXPERIMENT, parts)
    assert steps_of(parts) == [2, 3, 4]
    for step in ("2", "4"):
        one, other = (restore(workdir, step).state for workdir in (whole, parts))
        jax.tree.map(np.testing.assert_array_equal, one, other)
    # Launched again it does nothing more; with more patience it goes on.
    lines = parts.metrics.read_text()
    train_run(EXPERIMENT, parts)
    assert steps_of(parts) == [2, 3, 4] and parts.metrics.read_text() == lines
    train_run(replace(EXPERIMENT, {"train.patience": 3}), parts)
    assert steps_of(parts) == [5, 6, 7] and restore(parts).step == 5
    evaluated = [line["step"] for line in parts.read_metrics() if line["split"] == "test"]
    assert evaluated == [1, 2, 3, 4, 5, 6, 7]


def test_the_test_split_is_not_what_stops(tmp_path):
    with pytest.raises(ConfigError, match=r"train.patience needs a validation split.*--data.validation=0.1"):
        train_run(replace(EXPERIMENT, {"data.validation": 0.0}), Workdir(tmp_path))
