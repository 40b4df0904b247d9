import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from cnnjax.detection import heatmaps

# Joints of a 256x256 image on maps of 64x64, sigma 2: numbers of the code of "Simple baselines".
JOINTS = np.array([(100, 60), (3, 250), (128.9, 127.1), (300, 300)], np.float32)


def encoded():
    visible = jnp.ones(4, bool)
    return jax.jit(lambda p: heatmaps.encode_heatmaps(p, visible, (64, 64), 4.0))(JOINTS)


def test_bumps_are_those_of_simple_baselines():
    maps, weights = encoded()
    assert weights.tolist() == [1, 1, 1, 0]
    peaks = [np.unravel_index(np.argmax(maps[..., k]), (64, 64))[::-1] for k in range(3)]
    assert [tuple(map(int, peak)) for peak in peaks] == [(25, 15), (1, 63), (32, 32)]
    assert_allclose(np.sum(maps, axis=(0, 1)), [25.08129, 11.675457, 25.081287, 0], rtol=1e-6)
    assert np.count_nonzero(maps, axis=(0, 1)).tolist() == [169, 56, 169, 0]
    assert_allclose(maps[15, 25:30, 0], [1, 0.8824969, 0.6065307, 0.3246525, 0.1353353], rtol=1e-6)


def test_points_that_are_not_visible_have_no_bump():
    batch = jnp.stack([JOINTS, JOINTS])
    visible = jnp.array([[True, True, False, True], [False] * 4])
    maps, weights = heatmaps.encode_heatmaps(batch, visible, (64, 64), 4.0)
    assert weights.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert maps.shape == (2, 64, 64, 4)
    assert not np.any(maps[1]) and not np.any(maps[0, :, :, 2])


def test_a_quarter_toward_the_larger_neighbour():
    maps, _ = encoded()
    maps = maps.at[15, 26, 0].add(0.01).at[14, 25, 0].add(0.02)
    found = jax.jit(heatmaps.decode_heatmaps)(maps)
    # Centre 128 and scale 1.28 make the crop the image itself: a map pixel is 4 of it.
    assert_allclose(found.points[0] * 4, [101, 59])
    assert_allclose(found.points[1], [1, 63])  # next to the border: no quarter
    assert_allclose(found.points[3], [0, 0])  # an empty map
    assert_allclose(found.scores, [1, 1, 1, 0])


def quarter_by_loops(map_):
    height, width = map_.shape
    y, x = np.unravel_index(np.argmax(map_), map_.shape)
    place = np.array([x, y], float)
    if 1 < x < width - 1:
        place[0] += 0.25 * np.sign(map_[y, x + 1] - map_[y, x - 1])
    if 1 < y < height - 1:
        place[1] += 0.25 * np.sign(map_[y + 1, x] - map_[y - 1, x])
    return place


def test_decoding_by_loops():
    maps = np.random.default_rng(0).normal(size=(3, 7, 5, 40)).astype(np.float32)
    found = heatmaps.decode_heatmaps(jnp.asarray(maps))
    expected = [[quarter_by_loops(maps[n, :, :, k]) for k in range(40)] for n in range(3)]
    assert_allclose(found.points, expected, rtol=1e-6)


def test_soft_argmax_of_a_noisy_map():
    values = 3 * np.random.RandomState(0).standard_normal((8, 8))
    values[2, 5] += 6
    place = heatmaps.soft_argmax(jnp.asarray(values, jnp.float32)[..., None])
    assert_allclose(place[0], [3.4966207, 1.9335772], rtol=1e-5)


def test_maps_of_the_flipped_image_fall_on_those_of_the_image():
    # Joint 0 of the image is joint 1 of its mirror.
    image = jnp.array([[100.0, 60.0], [31.0, 200.0]])
    mirrored = jnp.array([[255 - 31.0, 200.0], [255 - 100.0, 60.0]])
    both = jnp.ones(2, bool)
    maps, _ = heatmaps.encode_heatmaps(image, both, (64, 64), 4.0)
    flipped, _ = heatmaps.encode_heatmaps(mirrored, both, (64, 64), 4.0)
    assert_allclose(heatmaps.flipped_back(flipped, (1, 0)), maps, atol=1e-6)


def test_crops_of_simple_baselines():
    # Their scale is in units of 200 pixels.
    assert_allclose(heatmaps.crop_matrix((100, 80), 256, 0, 64), [[0.25, 0, 7], [0, 0.25, 12]], atol=1e-12)
    turned = heatmaps.crop_matrix((100, 80), 256, 30, 256)
    assert_allclose(turned, [[0.86603, 0.5, 1.39746], [-0.5, 0.86603, 108.71797]], rtol=1e-5)
