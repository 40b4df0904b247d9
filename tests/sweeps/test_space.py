"""The words of a sweep: grids, settings that change together, ranges; and what they cannot mean."""

import numpy as np
import pytest

from cnnjax import config, experiments
from cnnjax.config import ConfigError
from cnnjax.sweeps import space

BASE = experiments.digits_lenet()


def test_a_grid_is_every_combination_in_order():
    found = space.parse(["optimizer.learning_rate=0.05,0.1,2e-1", "train.seed=0:2"])
    wanted = [{"optimizer.learning_rate": r, "train.seed": s} for r in (0.05, 0.1, 0.2) for s in (0, 1)]
    assert list(found.combinations(1)) == wanted and found.count(1) == 6
    given = space.of_mapping({"optimizer.learning_rate": [0.05, 0.1, 0.2], "train.seed": range(2)})
    assert given == found == space.of_json(found.to_json())


def test_settings_of_one_word_change_together():
    found = space.parse(["optimizer.name=sgd,adamw;optimizer.learning_rate=0.1,0.001", "train.seed=0:4:2"])
    assert [tuple(c.values()) for c in found.combinations(1)] == [
        ("sgd", 0.1, 0), ("sgd", 0.1, 2), ("adamw", 0.001, 0), ("adamw", 0.001, 2)
    ]  # fmt: skip
    names = ("optimizer.name", "optimizer.learning_rate")
    given = space.of_mapping({names: [("sgd", 0.1), ("adamw", 0.001)], "train.seed": [0, 2]})
    assert given == found == space.of_json(found.to_json())


def test_lists_truths_and_whole_numbers_are_of_their_fields_type():
    found = space.parse(["augment.sizes=32+48,64", "optimizer.nesterov=true,false", "optimizer.momentum=0"])
    first = next(found.combinations(1))
    assert first == {"augment.sizes": (32, 48), "optimizer.nesterov": True, "optimizer.momentum": 0.0}
    assert space.describe(first) == "sizes=32+48,nesterov=true,momentum=0"
    assert isinstance(first["optimizer.momentum"], float)


def test_draws_lie_in_their_range_with_the_density_that_is_asked_for_and_are_the_same_again():
    found = space.parse(["optimizer.learning_rate=1e-4..1:log", "augment.rotate=0..20", "augment.crop=1..4"])
    drawn = list(found.combinations(4000, seed=3))
    rates, angles, crops = np.array([tuple(one.values()) for one in drawn]).T
    assert rates.min() >= 1e-4 and rates.max() <= 1 and angles.min() >= 0 and angles.max() <= 20
    quantiles = np.quantile(np.log10(rates), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quantiles, [-3, -2, -1], atol=0.12)  # three standard errors
    np.testing.assert_allclose(np.quantile(angles, [0.25, 0.5, 0.75]), [5, 10, 15], atol=0.6)
    np.testing.assert_allclose(np.bincount(crops.astype(int))[1:] / 4000, 0.25, atol=0.03)
    assert drawn[:10] == list(found.combinations(10, seed=3)) and drawn[0] != next(found.combinations(1, 4))
    with_seeds = space.parse(["optimizer.learning_rate=1e-4..1:log", "train.seed=0:3"])
    assert with_seeds.count(5) == len(list(with_seeds.combinations(5))) == 15


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.learning_rat=1,2"], "there is no such setting; did you mean optimizer.learning_rate"),
        (["train.log_every=1,2"], "train.log_every: it has no effect on the numbers of a run"),
        (["visualize.size=1,2"], "no effect"),
        (["data.validation=0.1,0.2"], "judged on other images"),
        (["optimizer.learning_rate"], "expected name=values"),
        (["optimizer.learning_rate="], "there are no values"),
        (["train.seed=5:5"], "there are no values"),
        (["train.seed=0:5:0"], "steps of 0"),
        (["train.seed=0:99999999999"], "values of one setting"),
        (["train.seed=1.5"], "'1.5' is no int"),
        (["optimizer.learning_rate=0.1,,0.2"], "'' is no float"),
        (["optimizer.nesterov=maybe"], "expected true or false"),
        (["optimizer.learning_rate=0.1,0.1"], "a value is there twice"),
        (["train.seed=1,2", "train.seed=3"], "train.seed: it is given twice"),
        (["train.seed=1,2;data.limit=3"], "2 of train.seed and 1 of data.limit values"),
        (["optimizer.learning_rate=0..1:log"], "a logarithm needs numbers above 0"),
        (["optimizer.learning_rate=1..0.1"], "the range is empty"),
        (["optimizer.learning_rate=0.1..1;train.seed=1"], "ranges do not go together"),
        ([], "a sweep needs settings"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told_in_one_line(words, message):
    with pytest.raises(ConfigError, match=message) as told:
        space.parse(words)
    assert len(str(told.value).splitlines()) == 1


NAME, RATE = "optimizer.name", "optimizer.learning_rate"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "a sweep needs settings, as .*, not None"),
        ([RATE], "a sweep needs settings"),
        ({}, "a sweep needs settings"),
        ({RATE: []}, "there are no values"),
        ({RATE: 0.1}, "give a list of values, not 0.1"),
        ({5: [1]}, "sweep of 5: there is no such setting"),
        ({(): [1]}, "there is no such setting"),
        ({(NAME, RATE): [1]}, "give rows of 2 values each"),
        ({(NAME, RATE): [("sgd",)]}, "give rows of 2 values each"),
        ({(NAME, RATE): "sgd"}, "give rows of 2 values each, not 'sgd'"),
        ({"train.seed": range(10**12)}, "more than 1,000,000 values"),
    ],
)
def test_what_a_program_cannot_mean_is_told_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as told:
        space.of_mapping(settings)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(("value", "least"), [(-1, 0), (0, 1), (1.5, 0), ("2", 0), (None, 0)])
def test_what_is_no_count_is_told_in_one_line(value, least):
    with pytest.raises(ConfigError, match=f"jobs={value!r}: expected a whole number, {least} or more"):
        space.check_count("jobs", value, least)
    assert space.check_count("jobs", least, least) is None


def test_every_combination_is_checked_before_any_runs():
    def tried(*words):
        return space.experiments(BASE, list(space.parse(words).combinations(1)))

    with pytest.raises(ConfigError, match="learning_rate=-1: optimizer.learning_rate=-1.0: must not be"):
        tried("optimizer.learning_rate=0.1,-1")
    with pytest.raises(ConfigError, match="optimizer.nesterov has no effect with optimizer.name=adamw"):
        tried("optimizer.nesterov=true")
    with pytest.raises(ConfigError, match="did you mean lenet5"):
        tried("model.name=lenet5,lenet6")
    ((changes, experiment),) = tried("train.steps=7")  # replaces a length in epochs
    assert (experiment.train.steps, experiment.train.epochs) == (7, 0) and changes == {"train.steps": 7}
    assert config.differences(BASE, tried("train.seed=1")[0][1]) == ["train.seed: 0 -> 1"]


def test_names_of_folders_are_those_of_the_settings_and_never_meet():
    assert (
        space.folder_name({"optimizer.learning_rate": 0.05, "train.seed": 3}) == "learning_rate=0.05,seed=3"
    )
    a, b = (space.folder_name({"data.name": f"folder:/a/{x}"}) for x in "/-")
    assert a != b and "/" not in a + b
    assert len(space.folder_name({"model.options": tuple(f"width={i}" for i in range(500))})) < 130
    assert (
        space.describe({"classification.label_smoothing": 0.1, "detection.label_smoothing": 0.2}).count(".")
        == 4
    )
