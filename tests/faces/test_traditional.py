import numpy as np
import pytest

from cnnjax.faces import traditional
from cnnjax.faces.crops import face_squares
from cnnjax.faces.search import Searching, fit_shape_model
from cnnjax.faces.shape_model import normalized_error
from cnnjax.faces.traditional import Traditional


def test_the_mean_shape_is_put_into_the_box(monkeypatch):
    """A box twice as large and elsewhere: the search starts with points twice as large, there."""
    rng = np.random.default_rng(0)
    points = rng.uniform(30, 90, (68, 2)) + rng.normal(0, 1, (6, 68, 2))
    images = rng.integers(0, 256, (6, 128, 128)).astype(np.uint8)
    model = fit_shape_model(images, points, Searching(reach=(1,), iterations=1))
    x, y, side = face_squares(model.start[None])[0]
    box = np.array([10, 20, 10 + 2 * side, 20 + 2 * side])
    monkeypatch.setattr(traditional, "detect", lambda *a: (box[None], np.array([7])))
    (face,) = Traditional(cascade=None, shape=model)(np.zeros((300, 300), np.uint8))
    centre = np.array([x, y])
    np.testing.assert_allclose(face.steps[0].points, box[:2] + side + 2 * (model.start - centre))
    assert face.windows == 7 and len(face.steps) == 2


def test_without_faces_the_result_is_empty(frontal, shared):
    rng = np.random.default_rng(0)
    points = rng.uniform(30, 90, (68, 2)) + rng.normal(0, 1, (3, 68, 2))
    model = fit_shape_model(np.zeros((3, 128, 128), np.uint8), points, Searching(reach=(1,)))
    assert Traditional(frontal, model)(np.full((60, 60), 128, np.uint8)) == []


def test_faces_of_a_photograph(frontal, shared):
    """OpenCV's cascade and 150 faces: the points lie better than where the box alone would put them."""
    from test_real_faces import landmarks

    images, points = landmarks(shared, "train")
    whole = Traditional(frontal, fit_shape_model(images[:150], points[:150]))
    errors, found = [], 0
    images, points = landmarks(shared, "test")
    for image, known in zip(images[:12], points[:12], strict=True):
        faces = whole(image, least=50)
        if faces:
            found += 1
            errors.append([normalized_error(p, known) for p in (faces[0].steps[0].points, faces[0].points)])
    start, end = np.median(np.array(errors), axis=0)
    assert found >= 6 and end < start and end == pytest.approx(0.1, abs=0.1)
