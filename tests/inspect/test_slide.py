"""Sliding a trained classifier over a canvas, both ways."""

import numpy as np
import pytest
from PIL import Image

from cnnjax.inspect.slide import draw_canvas

QUICK = ("--experiment=digits_sliding", "--data.limit=40", "--train.steps=1", "--data.batch_size=20")


@pytest.mark.full
def test_one_pass_equals_the_windows(launch, tmp_path):
    assert launch(*QUICK, f"--workdir={tmp_path}").code == 0
    result = launch("--mode=slide", f"--workdir={tmp_path}")
    assert result.code == 0, result.err
    # 160 pixels, windows of 32 at stride 4.
    assert result.out.startswith("1,089 windows")
    difference = float(result.out.splitlines()[0].split()[-1])
    assert difference < 1e-4
    assert (tmp_path / "slide" / "slide.txt").read_text().strip() in result.out
    with Image.open(tmp_path / "slide" / "slide.png") as picture:
        assert picture.width > 400


def test_a_network_without_convolutional_form_says_so(launch, tmp_path):
    softmax = (*QUICK, "--model.name=softmax_regression", f"--workdir={tmp_path}")
    assert launch(*softmax).code == 0
    result = launch("--mode=slide", f"--workdir={tmp_path}")
    assert result.code != 0 and len(result.err.strip().splitlines()) == 1
    assert "no convolutional form" in result.err


def test_canvas_holds_images_on_their_background():
    images = np.full((3, 8, 8, 1), 9, np.uint8)
    images[:, 2:6, 2:6] = 200
    canvas = draw_canvas(images, seed=0)
    assert canvas.shape == (40, 40, 1)
    values, counts = np.unique(canvas, return_counts=True)
    assert values.tolist() == [9, 200]
    assert 0.5 * 12 * 16 <= counts[1] <= 12 * 16
    np.testing.assert_array_equal(canvas, draw_canvas(images, seed=0))
