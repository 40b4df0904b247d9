from functools import partial

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from cnnjax.config import Data
from cnnjax.data import images
from cnnjax.data.formats import landmarks as files
from cnnjax.detection.judge import points
from cnnjax.faces.landmarks import crop_faces, place_points, square_around
from cnnjax.models import create_model
from cnnjax.weights.convert import FACE_API, load_weights


def test_squares_around_boxes():
    assert_allclose(square_around(np.array([[10, 20, 30, 60]]), 1.5), [[-10, 10, 50, 70]])
    assert square_around(np.zeros((0, 4))).shape == (0, 4)


def test_crops_are_cut_at_the_border():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = 200
    crops, inside = crop_faces(image, np.array([[-5, -5, 10, 10], [20, 0, 40, 20]]), 8)
    assert_allclose(inside, [[0, 0, 10, 10], [20, 0, 30, 20]])
    assert (crops[0] == 0).all() and (crops[1] == 200).all()


def test_points_are_placed_in_the_photograph():
    def network(x):  # says the centre and a corner, for any batch of a power of 2
        assert len(x) in (1, 2, 4, 8)
        return np.tile([0.5, 0.5, 0, 1.0], (len(x), 1))

    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[20, 20, 40, 40], [60, 10, 80, 50], [0, 0, 10, 10]])
    placed = place_points(network, FACE_API, image, boxes, share=1.0)
    assert_allclose(placed[:, 0], [[30, 30], [70, 30], [5, 5]])
    assert_allclose(placed[:, 1], [[20, 40], [50, 50], [0, 10]])
    assert place_points(network, FACE_API, image, np.zeros((0, 4))).shape == (0, 0, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "share", "error"),
    [
        ("face_landmarks68", "face_landmark_68_model", 1.5, 0.0620),
        ("face_landmarks68_tiny", "face_landmark_68_tiny_model", 1.35, 0.0667),
    ],
)
def test_published_networks_on_the_400_test_faces(shared, name, file, share, error):
    split = files.read_csv(shared("data/landmarks68/test.csv"), shared("data/landmarks68/test"))
    model = create_model(name)
    template = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 112, 112, 3), np.float32))
    path = shared(f"data/weights/face_api/{file}-weights_manifest.json")
    network = jax.jit(partial(model.apply, load_weights(path, name, template)))
    placed = []
    for name, real in zip(split.files, split.points, strict=True):
        photograph = images.read_image(split.folder / name, Data())
        box = np.concatenate([real.min(axis=0), real.max(axis=0)])
        placed.append(place_points(network, FACE_API, photograph, box, share)[0])
    errors = points.nme_outer_eyes(np.array(placed), split.points, split.visible)
    assert_allclose(errors.mean(), error, atol=0.0005)
