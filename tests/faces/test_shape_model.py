import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.faces.shape_model import align, fit_shape, normalized_error
from cnnjax.faces.warp import fit_similarity


def turned(shape, degrees, scale, shift):
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return scale * shape @ rotation.T + shift


@pytest.fixture
def made():
    """Shapes of 12 points with two known modes, moved, turned and scaled."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(12, 2))
    mean -= mean.mean(0)
    mean /= np.sqrt((mean**2).sum(1).mean())
    # Changes of shape alone: at right angles to shifts, to scale and to rotation.
    moves = [np.tile([1, 0], 12), np.tile([0, 1], 12), mean.ravel(), (mean @ [[0, 1], [-1, 0]]).ravel()]
    free = rng.normal(size=(24, 2))
    basis = np.linalg.qr(np.stack([*moves, *free.T], 1))[0]
    modes = basis[:, 4:].T
    parameters = rng.normal(size=(300, 2)) * [0.06, 0.03]
    shapes = mean + (parameters @ modes).reshape(-1, 12, 2)
    moved = [turned(s, rng.uniform(-40, 40), rng.uniform(10, 40), rng.uniform(0, 100, 2)) for s in shapes]
    return mean, modes, parameters, np.stack(moved)


def test_known_modes_are_found(made):
    from scipy.linalg import subspace_angles

    mean, modes, parameters, shapes = made
    model = fit_shape(shapes, 0.99)
    assert len(model.modes) == 2
    turned_modes = turned(model.modes.reshape(2, 12, 2), *angle_to(model.mean, mean)).reshape(2, -1)
    assert np.degrees(subspace_angles(turned_modes.T, modes.T)).max() < 1.5
    np.testing.assert_allclose(np.sqrt(model.variances), parameters.std(0, ddof=1), rtol=0.05)
    np.testing.assert_allclose(model.modes @ model.modes.T, np.eye(2), atol=1e-12)


def angle_to(shape, other):
    product = np.sum(np.conj(shape @ [1, 1j]) * (other @ [1, 1j]))
    return np.degrees(np.angle(product)), 1.0, np.zeros(2)


def test_alignment_is_least_squares(made):
    *_, shapes = made
    aligned, mean = align(shapes)
    assert np.sqrt((mean**2).sum(1).mean()) == pytest.approx(1) and np.abs(mean.mean(0)).max() < 1e-12
    plain = shapes.mean(0) - shapes.mean((0, 1))
    assert abs(angle_to(mean, plain)[0]) < 1e-6
    for shape, found in zip(shapes[:5], aligned[:5], strict=True):
        np.testing.assert_allclose(found, fit_similarity(shape, mean)(shape), atol=1e-9)


def test_mirrored_shapes_are_not_turned_into_each_other():
    rng = np.random.default_rng(1)
    shape = rng.normal(size=(6, 2))
    aligned, _ = align(np.stack([shape, shape * [-1, 1]]))
    assert np.abs(aligned[0] - aligned[1]).max() > 0.1


def test_parameters_stay_within_three_deviations(made):
    *_, shapes = made
    model = fit_shape(shapes, 0.99)
    far = np.array([9.0, -9.0])
    limited = model.limit(far)
    np.testing.assert_allclose(limited, [3, -3] * np.sqrt(model.variances))
    strange = turned(model.shape(far), 25, 30, [50, 60])
    points, parameters = model.project(strange)
    np.testing.assert_allclose(np.abs(parameters), 3 * np.sqrt(model.variances))
    assert np.abs(points - strange).max() > 1
    inside = turned(model.shape(np.sqrt(model.variances)), 25, 30, [50, 60])
    np.testing.assert_allclose(model.project(inside)[0], inside, atol=0.1)


def test_the_mean_is_placed(made):
    *_, shapes = made
    model = fit_shape(shapes, 0.99)
    np.testing.assert_allclose(
        model.place(turned(model.mean, 70, 12, [3, 4])), turned(model.mean, 70, 12, [3, 4])
    )


def test_error_by_hand():
    known = np.zeros((68, 2))
    known[36], known[45] = [20, 50], [80, 50]
    assert normalized_error(known + [3, 4], known) == pytest.approx(0.0833333, rel=1e-6)


def test_bad_input_is_one_line(made):
    *_, shapes = made
    with pytest.raises(ConfigError, match="at least two shapes"):
        fit_shape(shapes[:1])
    with pytest.raises(ConfigError, match="finite"):
        fit_shape(np.where(shapes == shapes[0, 0, 0], np.nan, shapes))
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        fit_shape(shapes, 1.5)


def test_numbers_of_real_faces(shared):
    from test_real_faces import landmarks

    shapes, others = landmarks(shared, "train")[1], landmarks(shared, "test")[1]
    every = fit_shape(shapes, 1.0)
    share = every.variances / every.variances.sum()
    np.testing.assert_allclose(100 * share[:5], [60.4, 17.7, 6.9, 3.6, 1.7], atol=0.05)
    assert [int(np.sum(np.cumsum(share) < e)) + 1 for e in (0.9, 0.95, 0.98, 0.99)] == [5, 14, 57, 85]
    for explained, count, error in ((0.9, 5, 0.0322), (0.95, 14, 0.0237), (0.98, 57, 0.0168)):
        model = fit_shape(shapes, explained)
        assert len(model.modes) == count
        found = np.stack([model.project(points)[0] for points in others])
        assert normalized_error(found, others).mean() == pytest.approx(error, abs=1e-4)
    placed = np.stack([model.place(points) for points in others])
    assert normalized_error(placed, others).mean() == pytest.approx(0.0861, abs=1e-4)
    errors = normalized_error(np.broadcast_to(shapes.mean(0), others.shape), others)
    assert (errors.mean(), np.median(errors)) == pytest.approx((0.2003, 0.1655), abs=1e-4)
