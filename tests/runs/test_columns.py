"""Preprocessing that is a part of the network: contrast and the width of digits."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import config
from cnnjax.config import Data, Experiment
from cnnjax.data.sources import load
from cnnjax.network import Preprocessing
from cnnjax.ops import contrast
from cnnjax.runs.plan import with_statistics
from cnnjax.runs.refusals import refuse_without_effect

SMALL = (
    "--data.limit=64",
    "--data.batch_size=32",
    "--train.steps=2",
    "--train.epochs=0",
    "--model.name=lenet5",
)


@pytest.mark.parametrize("name", contrast.CONTRASTS)
def test_mean_and_deviation_are_of_what_the_network_sees(name):
    data = Data(name="digits", image_size=28, limit=64, contrast=name)
    dataset = load(data)
    filled = with_statistics(Experiment(data=data), dataset).data
    even = np.asarray(contrast.CONTRASTS[name](jnp.asarray(dataset.train["image"], jnp.float32) / 255))
    np.testing.assert_allclose(filled.mean, even.mean(), atol=0.5 / 255)
    np.testing.assert_allclose(filled.std, even.std(), atol=0.5 / 255)
    seen = np.asarray(Preprocessing.of(filled)(dataset.train["image"]))
    np.testing.assert_allclose([seen.mean(), seen.std()], [0, 1], atol=0.02)


def test_width_is_changed_before_contrast():
    images = load(Data(name="digits", image_size=28, limit=8)).train["image"]
    both = Preprocessing(digit_width=10, contrast="histeq")
    shares = jnp.asarray(images, jnp.float32) / 255
    np.testing.assert_allclose(both(images), contrast.equalize(contrast.fit_width(shares, 10)), atol=1e-6)


@pytest.mark.full
def test_a_run_keeps_its_column_and_answers_through_it(launch, tmp_path):
    run = tmp_path / "run"
    column = ("--data.contrast=clahe", "--data.digit_width=12", "--data.image_size=28")
    assert launch("--experiment=digits_lenet", *SMALL, *column, f"--workdir={run}").code == 0
    written = json.loads((run / "config.json").read_text())["data"]
    assert (written["contrast"], written["digit_width"]) == ("clahe", 12)
    refused = launch(*SMALL, *column[1:], f"--workdir={run}", "--data.contrast=none")
    assert refused.code == 1 and "data.contrast" in refused.err
    evaluated = launch("--mode=evaluate", f"--workdir={run}")
    assert evaluated.code == 0, evaluated.err
    # Of another run that begins from it the column is the same, unless the user says otherwise.
    begun = (
        "--experiment=digits_lenet",
        *SMALL,
        f"--train.init_from={run}",
        f"--workdir={tmp_path / 'next'}",
    )
    assert launch(*begun, "--data.image_size=28", "--data.digit_width=0").code == 0
    written = json.loads((tmp_path / "next" / "config.json").read_text())["data"]
    assert (written["contrast"], written["digit_width"]) == ("clahe", 0)


def test_a_width_is_of_digits_alone():
    with pytest.raises(config.ConfigError, match="digit_width"):
        boxes = Experiment(task="grid_detection", data=Data(name="shapes", digit_width=10))
        refuse_without_effect(boxes, {"data.digit_width"})
