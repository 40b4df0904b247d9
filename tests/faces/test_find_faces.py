import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from cnnjax.config import ConfigError, Data
from cnnjax.data import images
from cnnjax.faces import mtcnn
from cnnjax.faces.mtcnn import Settings, find_faces

# facenet-pytorch on its own multiface.jpg.
BOXES = [
    [859.193, 436.556, 953.557, 558.579], [554.093, 45.483, 632.844, 158.138], [420.143, 133.003, 502.675, 240.196],
    [225.799, 249.074, 304.812, 356.839], [722.153, 464.386, 797.568, 573.201], [622.182, 197.508, 694.833, 296.765],
]  # fmt: skip
POINTS = [(877.447, 486.198), (918.972, 484.588), (895.73, 516.808), (884.364, 533.644), (920.152, 530.224)]


@pytest.fixture(scope="module")
def photograph():
    def read(shared):
        return images.read_image(shared("data/weights/mtcnn/multiface.jpg"), Data())

    return read


def published(shared):
    pytest.importorskip("torch", reason="the files are torch's")
    return mtcnn.load_networks(shared("data/weights/mtcnn"))


@pytest.mark.slow
def test_the_six_faces_of_the_photograph(shared, photograph):
    networks = published(shared)
    (found,) = find_faces(networks, [photograph(shared)])
    order = [int(np.argmin(np.abs(found.boxes - box).sum(axis=1))) for box in BOXES]
    assert sorted(order) == list(range(6)) and len(found.boxes) == 6
    assert_allclose(found.boxes[order], BOXES, rtol=1e-5)
    assert_allclose(found.points[order[0]], POINTS, rtol=1e-5)
    assert (found.scores > 0.99).all() and (np.diff(found.scores) <= 0).all()


def test_images_of_different_sizes_in_one_batch(shared, photograph):
    whole = photograph(shared)
    networks = published(shared)
    settings = Settings(min_face=50, most=128)
    one, two = whole[100:280, 390:540], whole[20:190, 520:690]
    tiny, flat = np.zeros((11, 30, 3), np.uint8), np.full((190, 190, 3), 128, np.uint8)
    found = find_faces(networks, [one, tiny, two, flat], settings)
    assert [len(faces.boxes) for faces in found] == [1, 0, 1, 0]
    assert_allclose(found[0].boxes[0] + [390, 100, 390, 100], BOXES[2], atol=6)
    assert_allclose(found[2].boxes[0] + [520, 20, 520, 20], BOXES[1], atol=6)
    assert found[1].points.shape == (0, 5, 2)
    inside = (found[0].points[0] > found[0].boxes[0, :2]) & (found[0].points[0] < found[0].boxes[0, 2:])
    assert inside.all()
    alone = find_faces(networks, [one, tiny[:9], flat, flat], settings)[0]  # a neighbour changes nothing
    assert_allclose(alone.boxes, found[0].boxes, rtol=1e-5)


def test_what_is_no_image_is_refused():
    assert find_faces({}, []) == []
    with pytest.raises(ConfigError, match=r"image 1: float32\[9, 9, 3\], not uint8"):
        find_faces({}, [np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 3), np.float32)])


def test_the_scales_of_an_image():
    assert_allclose(Settings().scales(630, 1200)[:2], [0.6, 0.4254])
    scales = Settings().scales(630, 1200)
    assert 12 <= 630 * scales[-1] and 630 * scales[-1] * 0.709 < 12
    assert Settings().scales(19, 1200) == []


def test_area_resampling_is_that_of_torch():
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    for top, left, bottom, right in ((0, 0, 37, 53), (5, 7, 12, 50), (30, 50, 31, 51)):
        crop = torch.tensor(image[top:bottom, left:right].astype(np.float32)).permute(2, 0, 1)[None]
        expected = torch.nn.functional.interpolate(crop, size=(9, 13), mode="area")[0].permute(1, 2, 0)
        rectangle = jnp.array([top, left, bottom, right])
        sums = mtcnn._integral(jnp.asarray(image))
        found = mtcnn._mean_pixels(sums, rectangle, jnp.array([9, 13]), 11, 13)
        assert_allclose(found[:9], expected, rtol=1e-6)
        assert not np.any(found[9:])


def overlap_by_hand(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    areas = [(x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in (a, b)]
    return max(width, 0) * max(height, 0) / min(areas)


def test_the_overlap_of_the_last_stage():
    a, b, c = (0, 0, 9, 9), (5, 5, 24, 24), (30, 30, 31, 31)
    boxes = jnp.array([a, b, c], jnp.float32)
    assert_allclose(mtcnn._share_of_smaller(boxes[:1], boxes), [1, overlap_by_hand(a, b), 0])
    assert overlap_by_hand(a, b) == 0.25
