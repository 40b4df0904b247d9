import io
import warnings

import numpy as np
import pytest
from PIL import Image

from cnnjax.drawing.figures import compared_curves, save
from cnnjax.faces import figures
from cnnjax.faces.boosting import Stage
from cnnjax.faces.cascade import of_stumps
from cnnjax.faces.haar import all_features
from cnnjax.faces.search import Step
from cnnjax.faces.shape_model import ShapeModel

LINES = ((0, 3, True),)
SQUARE = np.array([[0, 0], [1, 0], [0.5, 1]])


def pictures():
    modes = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 2)))[0].T
    model = ShapeModel(SQUARE, modes, np.array([0.04, 0.01]))
    features = all_features((8, 8))[::500]
    one = np.ones(len(features))
    cascade = of_stumps(features, one, np.stack([one, one], 1), np.array([len(features)]), np.zeros(1))
    steps = [Step(-1, 0, SQUARE * 20), *(Step(1 - i // 5, i % 5 + 1, SQUARE * (20 + i)) for i in range(9))]
    stages = [Stage(3, 1.0, 1.0, 0.4, 0.4, 400), Stage(9, 0.98, 0.99, 0.1, 0.04, 40)]
    face = np.arange(64, dtype=np.uint8).reshape(8, 8)
    return {
        "shape_modes": (figures.shape_modes(model, LINES), 14),
        "search_steps": (figures.search_steps(np.zeros((40, 40), np.uint8), steps, LINES), 12),
        "chosen_features": (figures.chosen_features(cascade, face), 6),
        "stage_rates": (figures.stage_rates(stages), 2),
        "mined_windows": (figures.mined_windows(np.stack([face] * 5)), 1),
    }


@pytest.mark.parametrize(
    "name", ["shape_modes", "search_steps", "chosen_features", "stage_rates", "mined_windows"]
)
def test_figures_are_drawn(name, tmp_path):
    picture, axes = pictures()[name]
    assert picture.name == name and picture.title and len(picture.figure.axes) == axes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(picture.figure, tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).std() > 5


def test_modes_are_drawn_at_three_deviations():
    picture, _ = pictures()["shape_modes"]
    first, last = (picture.figure.axes[i].lines[0].get_xydata()[:3] for i in (0, 6))
    np.testing.assert_allclose((first + last) / 2, SQUARE)
    assert np.linalg.norm(last - first) == pytest.approx(6 * 0.2)


def test_numbers_of_logarithmic_axes_are_no_formulas():
    stages = [Stage(3, 1.0, 1.0, 0.4, 0.4, 400), Stage(9, 0.98, 0.99, 0.1, 0.004, 40)]
    lines = [{"step": n, "loss": 10.0**-n, "split": "train"} for n in range(4)]
    drawn = (figures.stage_rates(stages), compared_curves({"one": lines}, "accuracy"))
    for picture, axis in zip(drawn, (1, 0), strict=True):
        save(picture.figure, io.BytesIO(), "png")
        labels = [label.get_text() for label in picture.figure.axes[axis].get_yticklabels()]
        assert any(labels) and not any("$" in label for label in labels)
