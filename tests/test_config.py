import json

import pytest

from cnnjax import config
from cnnjax.config import ConfigError, Experiment, Train
from experiments import EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_valid_documented_and_survives_json(name):
    experiment = EXPERIMENTS[name]()
    assert experiment.name == name
    assert config.from_json(config.to_json(config.check(experiment))) == experiment
    text = EXPERIMENTS[name].__doc__
    assert "python launch.py" in text and (name in text or name == "digits_lenet")


def test_fields_of_older_runs_that_changed_nothing_are_passed_over():
    tree = json.loads(config.to_json(Experiment()))
    tree["heatmaps"]["flip_test"] = False
    assert config.from_json(json.dumps(tree)) == Experiment()
    tree["heatmaps"]["flip_test"] = True
    with pytest.raises(ConfigError, match="unknown field heatmaps.flip_test"):
        config.from_json(json.dumps(tree))


def test_every_field_has_help():
    for name, field, _ in config.fields(Experiment()):
        assert name == "name" or field.metadata["help"], name


@pytest.mark.parametrize(
    ("train", "steps"),
    [
        (Train(epochs=2), 200),
        (Train(epochs=0.5), 50),
        (Train(epochs=0.001), 1),
        (Train(steps=7), 7),
        (Train(examples=1280), 10),
    ],
)
def test_total_steps(train, steps):
    assert config.total_steps(train, num_examples=12_800, batch_size=128) == steps


def test_replace_and_differences():
    old = Experiment()
    new = config.replace(old, {"train.epochs": 3.0, "task": "other"})
    assert new.train.epochs == 3.0 and old.train.epochs == 1
    assert config.differences(old, new) == ["task: 'classification' -> 'other'", "train.epochs: 1 -> 3.0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.steps": 3}, "exactly one of"),
        ({"train.epochs": 0.0}, "exactly one of"),
        ({"data.batch_size": 0}, "data.batch_size=0"),
        ({"data.batch_size": 1.5}, "expected int"),
        ({"data.batch_size": True}, "expected int"),
        ({"optimizer.learning_rate": "x"}, "expected float"),
        ({"optimizer.learning_rate": -1.0}, "must not be negative"),
        ({"optimizer.name": "sgdd"}, "choose one of sgd"),
        ({"data.validation": 1.0}, "data.validation=1.0"),
        ({"data.mean": ("a",)}, "expected float"),
        ({"nonsense.x": 1}, "unknown field"),
    ],
)
def test_check_names_the_field(changes, message):
    with pytest.raises(ConfigError, match=message):
        config.check(config.replace(Experiment(), changes))
