import numpy as np
import pytest
from PIL import Image

from cnnjax.config import ConfigError
from cnnjax.faces.warp import fit_similarity, frame_points, morph, save_gif, triangulate, warp

# Eyes, nose and corners of the mouth of a face in a photograph, and where a template of 112 pixels has them.
FACE = [[877.447, 486.198], [918.972, 484.588], [895.73, 516.808], [884.364, 533.644], [920.152, 530.224]]
TEMPLATE = [
    [38.2946, 51.6963],
    [73.5318, 51.5014],
    [56.0252, 71.7366],
    [41.5493, 92.3655],
    [70.7299, 92.2041],
]


def test_similarity_of_a_face_to_a_template():
    found = fit_similarity(np.array(FACE), np.array(TEMPLATE))
    expected = [[0.83674, -0.060152, -665.786574], [0.060152, 0.83674, -409.177618]]
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-4)
    assert found.scale == pytest.approx(0.838899, rel=1e-5)
    assert found.degrees == pytest.approx(4.11181, rel=1e-4)


def test_similarity_and_its_inverse():
    points = np.random.default_rng(0).normal(size=(9, 2)) * 30
    turn = np.radians(200)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = 1.7 * points @ rotation.T + [4, -9]
    found = fit_similarity(points, moved)
    np.testing.assert_allclose(found(points), moved, atol=1e-12)
    np.testing.assert_allclose(found.inverse()(moved), points, atol=1e-12)


def test_no_reflection():
    rectangle = np.array([[0, 0], [3, 0], [3, 1], [0, 1.0]])
    mirrored = rectangle * [-1, 1]
    found = fit_similarity(rectangle, mirrored)
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    assert np.abs(found(rectangle) - mirrored).max() > 0.3


def test_points_at_one_place_are_one_line():
    with pytest.raises(ConfigError, match="all at one place"):
        fit_similarity(np.ones((5, 2)), np.array(TEMPLATE))
    with pytest.raises(ConfigError, match="no triangles"):
        triangulate(np.array([[0, 0], [1, 1], [2, 2.0]]))
    with pytest.raises(ConfigError, match="cannot be warped"):
        warp(np.zeros((4, 4), np.uint8), np.zeros((3, 2)), np.zeros((4, 2)), np.array([[0, 1, 2]]))


def test_triangles_of_the_mean_face(shared):
    from test_real_faces import landmarks

    mean = landmarks(shared, "train")[1].mean(0)
    assert len(triangulate(mean)) == 111
    grid = np.array([[x, y] for x in (0, 64, 127) for y in (0, 64, 127) if (x, y) != (64, 64)], float)
    assert len(triangulate(np.concatenate([mean, grid]))) == 142


def test_points_of_the_frame():
    assert frame_points(5, 3).tolist() == [[0, 0], [2, 0], [4, 0], [0, 1], [4, 1], [0, 2], [2, 2], [4, 2]]


def test_an_affine_map_is_scipy_s():
    """With all points moved by one affine map, every triangle has that map."""
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50)).astype(np.uint8)
    points = np.concatenate([frame_points(50, 40), rng.uniform(5, 35, (10, 2))])
    matrix, shift = np.array([[1.1, 0.1], [-0.05, 0.95]]), np.array([-2.0, 1.0])
    warped = warp(image, points, points @ matrix.T + shift, triangulate(points))
    ys, xs = np.mgrid[10:30, 15:35]
    places = (np.stack([xs, ys], -1) - shift) @ np.linalg.inv(matrix).T
    expected = map_coordinates(image.astype(float), [places[..., 1], places[..., 0]], order=1)
    assert np.abs(warped[10:30, 15:35] - expected).max() <= 0.51


def test_triangles_each_have_their_map():
    """Against scipy, which finds the triangle of a place itself and looks up between pixels its own way."""
    from scipy.interpolate import LinearNDInterpolator
    from scipy.ndimage import map_coordinates
    from scipy.spatial import Delaunay

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    border = frame_points(50, 40)
    target = np.concatenate([border, rng.uniform(6, 34, (12, 2))])
    source = target + np.concatenate([np.zeros((8, 2)), rng.uniform(-3, 3, (12, 2))])
    places = LinearNDInterpolator(Delaunay(target), source)(*np.meshgrid(np.arange(50.0), np.arange(40.0)))
    expected = [
        map_coordinates(image[..., c].astype(float), places[..., ::-1].transpose(2, 0, 1), order=1)
        for c in range(3)
    ]
    warped = warp(image, source, target, triangulate(target))
    assert np.abs(warped - np.stack(expected, -1)).max() <= 0.6  # rounded to whole numbers


def test_points_move_where_they_should():
    image = np.zeros((40, 40, 3), np.uint8)
    image[14:17, 19:22] = [200, 100, 50]
    source = np.concatenate([frame_points(40, 40), [[20, 15.0]]])
    target = source + np.array([[0, 0.0]] * 8 + [[4, 9]])
    frames = morph(image, source, target, triangulate(source), frames=5)
    np.testing.assert_array_equal(frames[0], image)
    assert frames[-1][24, 24].tolist() == [200, 100, 50] and frames[2][15 + 4, 20 + 2].min() > 40
    assert frames[-1].any(-1).sum() >= 4


def test_outside_of_all_triangles_it_is_black():
    image = np.full((20, 20), 255, np.uint8)
    corners = np.array([[2, 2], [15, 2], [2, 15.0]])
    warped = warp(image, corners, corners, np.array([[0, 1, 2]]), size=(30, 25))
    assert warped.shape == (25, 30) and warped[2, 2] == 255 and warped[14, 14] == warped[1, 2] == 0
    assert abs(int((warped > 0).sum()) - 13 * 14 // 2) <= 14


def test_a_gif_goes_there_and_back(tmp_path):
    frames = [np.full((6, 8, 3), 40 * i, np.uint8) for i in range(4)]
    save_gif(frames, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 6 and gif.size == (8, 6) and gif.info["loop"] == 0
    with pytest.raises(ConfigError, match="at least one frame"):
        save_gif([], tmp_path / "b.gif")
