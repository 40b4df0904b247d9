"""Faces on photographs warped to others, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.config import ConfigError
from cnnjax.faces.warp import fit_similarity
from cnnjax.predict import warping
from cnnjax.tasks.result import Result

SQUARE = np.array([[10.0, 10], [30, 10], [30, 30], [10, 30], [20, 20]])


def test_a_face_takes_the_shape_of_another_where_it_is():
    image = np.zeros((40, 60, 3), np.uint8)
    image[19:22, 19:22] = [200, 100, 50]
    other = SQUARE * 3 + [50, 7]
    other[4] += [15, 0]  # the middle is further to the right, by 5 of these pixels
    frames = warping.warped_frames(image, SQUARE, other)
    np.testing.assert_array_equal(frames[0], image)
    x, y = np.rint(fit_similarity(other, SQUARE)(other)[4]).astype(int)
    assert x > 22 and frames[-1][y, x].tolist() == [200, 100, 50]
    large = warping.warped_frames(np.zeros((20, 1280, 3), np.uint8), SQUARE[:, ::-1] * [1, 0.4], SQUARE)
    assert large[0].shape == (10, 640, 3)
    with pytest.raises(ConfigError, match="5 points cannot be warped to 4"):
        warping.warped_frames(image, SQUARE, SQUARE[:4])


def result(points):
    return Result(40, 60, (), points=points, point_names=tuple("abcde"))


def test_points_are_remembered_as_they_go_by():
    said = [
        (Path("a.png"), (None, result(np.stack([SQUARE, SQUARE + 1])))),
        (Path("none.png"), (None, result(np.zeros((0, 5, 2))))),
        (Path("bad.png"), ConfigError("bad.png: damaged")),
        (Path("b.png"), (None, result(2 * SQUARE[None]))),
    ]
    points = {}
    assert list(warping.remembering(said, points)) == said
    assert (
        list(points) == [Path("a.png"), Path("b.png")] and points[Path("a.png")].tolist() == SQUARE.tolist()
    )
    mean = warping.mean_shape(points)
    np.testing.assert_allclose(fit_similarity(mean, SQUARE)(mean), SQUARE, atol=1e-9)  # both are this shape
    with pytest.raises(ConfigError, match="which are 1: give two"):
        warping.mean_shape({Path("a.png"): SQUARE})
    assert warping.points_of("a.png", said[:1]).tolist() == SQUARE.tolist()
    with pytest.raises(ConfigError, match="no points are placed on it"):
        warping.points_of("none.png", said[1:2])
    with pytest.raises(ConfigError, match="damaged"):
        warping.points_of("bad.png", said[2:3])


def test_a_picture_and_a_gif_of_each(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(noise).save(tmp_path / name)
    points = {tmp_path / name: SQUARE for name in ("a.png", "b.png")}
    assert warping.write_warped(points, SQUARE[::-1], tmp_path / "out") == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "001_a.gif", "001_a.png", "002_b.gif", "002_b.png",
    ]  # fmt: skip
    with Image.open(tmp_path / "out" / "001_a.gif") as gif:
        assert gif.size == (60, 40) and gif.n_frames > 10
    with pytest.raises(ConfigError, match="on none of --inputs"):
        warping.write_warped({}, SQUARE, tmp_path / "out")
