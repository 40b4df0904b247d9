"""Which checkpoint is the best, and which one is loaded."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import config
from cnnjax.config import ConfigError
from cnnjax.data.dataset import Dataset
from cnnjax.runs import plan, refusals, run, train
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.workdir import Workdir

QUICK = config.replace(
    config.Experiment(),
    {
        "model.name": "softmax_regression", "data.batch_size": 10, "train.epochs": 0.0, "train.steps": 8,
        "train.evaluate_every": 1.0, "train.checkpoint_every": 0.5, "train.keep_last": 9,
        "optimizer.learning_rate": 0.01,
    },
)  # fmt: skip


def dataset(validation):
    """Digits of which the test split's labels are those of training, the validation split's those of chance."""
    rng = np.random.default_rng(0)
    split = {
        "image": rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8),
        "label": rng.integers(0, 10, 40).astype(np.int32),
    }
    other = {**split, "label": ((split["label"] + 1) % 10).astype(np.int32)}
    classes = tuple("0123456789")
    return Dataset("x", split, split, classes, validation=other if validation else None)


@pytest.mark.parametrize("validation", [False, True])
def test_the_best_checkpoint_is_chosen_on_validation_and_step_0_is_a_step(tmp_path, monkeypatch, validation):
    """The more is learned, the better the test split and the worse the validation split."""
    monkeypatch.setattr(plan, "load", lambda *_: dataset(validation))
    workdir = Workdir(tmp_path)
    train.train_run(QUICK, workdir, None, "")
    lines = [json.loads(line) for line in workdir.metrics.read_text().splitlines()]
    judged = "validation" if validation else "test"
    scores = {line["step"]: line["accuracy"] for line in lines if line["split"] == judged}
    best = max(step for step, score in scores.items() if score == max(scores.values()))
    assert run.restore(workdir, "best").step == best
    assert f"best evaluation on the {judged} split" in (tmp_path / "report.html").read_text()
    assert run.restore(workdir, "2").step == 2


def test_step_0_is_a_checkpoint_like_others(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "load", lambda *_: dataset(False))
    trained = Workdir(tmp_path / "trained")
    train.train_run(QUICK, trained, None, "")
    last = run.restore(trained)
    with CheckpointStore(trained.checkpoints) as store:
        about = {name: value for name, value in store.describe(8).items() if name != "checksum"}
    workdir = Workdir(tmp_path / "both")
    with CheckpointStore(workdir.checkpoints) as store:
        store.save(0, jax.tree.map(jnp.zeros_like, last.state), 0.9, about)
        store.save(8, last.state, 0.1, about)
    workdir.write_config(QUICK)
    for checkpoint, step in (("0", 0), ("best", 0), ("8", 8), ("last", 8)):
        found = run.restore(workdir, checkpoint)
        assert found.step == step
        assert np.any(found.state.params["output"]["kernel"]) == (step == 8)


def test_best_where_nothing_was_evaluated_is_refused(tmp_path):
    state = {"a": np.zeros(3, np.float32)}
    about = {"experiment": {}, "classes": ["a"], "image_shape": [1, 1, 1]}
    workdir = Workdir(tmp_path)
    with CheckpointStore(workdir.checkpoints) as store:
        store.save(3, jax.tree.map(jnp.asarray, state), None, about)
    workdir.write_config(QUICK)
    with pytest.raises(
        ConfigError, match="checkpoint=best: no checkpoint of .* was evaluated; choose last or one of 3"
    ):
        run.restore(workdir, "best")


def test_a_line_of_metrics_without_a_split_is_damage(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.metrics.write_text('{"step": 1, "split": "train", "loss": 2.0}\n{"step": 1, "loss": 2.0}\n')
    assert workdir.read_metrics() == [{"step": 1, "split": "train", "loss": 2.0}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.name": "lenet"}, "did you mean lenet5"),
        ({"task": "classify"}, "choose one of classification"),
        ({"data.name": "folder:/nonexistent"}, "/nonexistent is not a folder"),
        ({"model.options": ("width=3",)}, "is no NAME=VALUE of softmax_regression"),
    ],
)
def test_wrong_names_are_told_before_data_are_read(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(plan, "load", lambda *_: pytest.fail("the data were read"))
    with pytest.raises(ConfigError, match=message):
        train.train_run(config.replace(QUICK, changes), Workdir(tmp_path / "run"), None, "")


def test_another_experiment_in_the_workdir_is_told_before_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "load", lambda *_: dataset(False))
    workdir = Workdir(tmp_path)
    train.train_run(QUICK, workdir, None, "")
    monkeypatch.setattr(plan, "load", lambda *_: pytest.fail("the data were read"))
    with pytest.raises(ConfigError, match="optimizer.learning_rate: 0.01 -> 0.5"):
        train.train_run(config.replace(QUICK, {"optimizer.learning_rate": 0.5}), workdir, None, "")
    read = config.replace(QUICK, {"classification.label_smoothing": 0.5})
    with pytest.raises(ConfigError, match="classification.label_smoothing"):
        refusals.refuse_another_experiment(workdir, read)
    # What only other tasks read: its defaults may differ between versions.
    unread = config.replace(QUICK, {"cascade.enough": 0.5, "mtcnn.steps": (1, 2, 3)})
    refusals.refuse_another_experiment(workdir, unread)
