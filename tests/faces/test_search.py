import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.distance import mahalanobis

from cnnjax.config import ConfigError
from cnnjax.faces.search import (
    LINES68,
    Searching,
    fit_shape_model,
    make_levels,
    normalize,
    sample_profiles,
    unit_normals,
)
from cnnjax.faces.shape_model import normalized_error

RING = ((0, 16, True),)
OPTIONS = Searching(explained=0.95, half_length=4, reach=(3, 3))


def ellipse(centre, width, height):
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.asarray(centre) + np.stack([width * np.cos(angle), height * np.sin(angle)], 1)


def picture(centre, width, height, rng):
    """A bright ellipse on a dark ground, blurred, with noise."""
    y, x = np.mgrid[:80, :80]
    inside = ((x - centre[0]) / width) ** 2 + ((y - centre[1]) / height) ** 2 < 1
    image = gaussian_filter(np.where(inside, 190.0, 60.0), 1) + rng.normal(0, 4, (80, 80))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def learned():
    rng = np.random.default_rng(0)
    images, points = [], []
    for _ in range(60):
        centre, sides = rng.uniform(34, 46, 2), rng.uniform(14, 26, 2)
        images.append(picture(centre, *sides, rng))
        points.append(ellipse(centre, *sides))
    return np.stack(images), np.stack(points)


def test_normals_by_hand():
    line = np.array([[0, 0], [1, 0], [2, 0], [0, 5], [1, 5], [1, 6], [0, 6.0]])
    normals = unit_normals(line, ((0, 3, False), (3, 7, True)))
    np.testing.assert_allclose(normals[:3], [[0, 1]] * 3)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(np.abs(normals[3:]), np.full((4, 2), half))
    assert sorted(i for begin, end, _ in LINES68 for i in range(begin, end)) == list(range(68))


def test_profiles_are_differences_of_scipy_s_samples():
    rng = np.random.default_rng(1)
    image = rng.uniform(0, 255, (30, 30))
    points, normals = rng.uniform(8, 22, (5, 2)), np.array([[0.6, 0.8]] * 5)
    found = sample_profiles(image, points, normals, 3)
    assert found.shape == (5, 7)
    for row, (x, y) in zip(found, points, strict=True):
        steps = np.arange(-3.5, 4)
        samples = map_coordinates(image, [y + 0.8 * steps, x + 0.6 * steps], order=1)
        np.testing.assert_allclose(row, np.diff(samples), rtol=1e-9)


def test_profiles_are_shares_of_their_sum():
    assert normalize(np.array([[1.0, -3.0], [0, 0]])).tolist() == [[0.25, -0.75], [0, 0]]


def test_levels_are_means_of_four_pixels():
    levels = make_levels(np.array([[1, 3, 10], [5, 7, 10]], np.uint8), 2)
    assert levels[1].tolist() == [[4, 10]]


def test_the_nearest_profile_is_scipy_s(learned):
    images, points = learned
    model = fit_shape_model(images, points, OPTIONS, RING)
    start = points[0] + [1.5, -1]
    wanted, moved = model._look(make_levels(images[0], 1)[0], start, 0, 1.0)
    normals = unit_normals(start, RING)
    for index in range(16):
        distances = []
        for step in range(-3, 4):
            place = start[index : index + 1] + step * normals[index]
            profile = normalize(
                sample_profiles(images[0].astype(float), place, normals[index : index + 1], 4)
            )[0]
            distances.append(
                mahalanobis(profile, model.profile_mean[0, index], model.profile_inverse[0, index])
            )
        assert moved[index] == np.argmin(distances) - 3
        np.testing.assert_allclose(wanted[index], start[index] + moved[index] * normals[index])


def test_ellipses_are_found(learned):
    images, points = learned
    model = fit_shape_model(images[:50], points[:50], OPTIONS, RING)
    for image, known in zip(images[50:], points[50:], strict=True):
        found, steps = model.search(image, model.start)
        assert np.linalg.norm(found - known, axis=1).mean() < 1.0
        assert steps[0].iteration == 0 and np.array_equal(steps[-1].points, found)
        assert 3 <= len(steps) <= 1 + 2 * OPTIONS.iterations


def test_a_larger_image_is_searched_in_its_own_scale(learned):
    images, points = learned
    model = fit_shape_model(images[:50], points[:50], OPTIONS, RING)
    large = np.kron(images[55], np.ones((3, 3), np.uint8))
    found, _ = model.search(large, 3 * model.start)
    assert np.linalg.norm(found - (3 * points[55] + 1), axis=1).mean() < 3.5


def test_the_start_goes_with_a_box(learned):
    model = fit_shape_model(*learned, OPTIONS, RING)
    moved = model.in_box(np.array([100, 200, 180, 280]), np.array([0, 0, 80, 80]))
    np.testing.assert_allclose(moved, model.start + [100, 200])


def test_bad_input_is_one_line(learned):
    images, points = learned
    with pytest.raises(ConfigError, match="59 images with points of 60"):
        fit_shape_model(images[:59], points, OPTIONS, RING)
    with pytest.raises(ConfigError, match="16 points, of which the lines name 68"):
        fit_shape_model(images, points, OPTIONS)
    with pytest.raises(ConfigError, match="grey images"):
        fit_shape_model(images, points, OPTIONS, RING).search(np.zeros((9, 9, 3), np.uint8), points[0])


@pytest.mark.slow
def test_points_of_real_faces(shared):
    from test_real_faces import landmarks

    model = fit_shape_model(*landmarks(shared, "train"))
    images, known = landmarks(shared, "test")
    found = np.stack([model.search(image, model.start)[0] for image in images])
    assert normalized_error(found, known).mean() <= 0.15
    rng = np.random.default_rng(0)
    starts = [model.shape.place(points) for points in known]
    starts = [(s - s.mean(0)) * rng.uniform(0.95, 1.05) + s.mean(0) + rng.uniform(-5, 5, 2) for s in starts]
    found = np.stack([model.search(image, start)[0] for image, start in zip(images, starts, strict=True)])
    assert normalized_error(found, known).mean() <= 0.08
