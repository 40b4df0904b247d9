import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from cnnjax.config import ConfigError
from cnnjax.data.formats.annotations import AnnotatedImage, Annotations
from cnnjax.data.formats.voc import read_voc
from cnnjax.data.letterbox import detections_in_originals, load_detection, truths_in_originals
from cnnjax.detection.results import Detections, Truth


@pytest.fixture
def two(tmp_path):
    """A wide image with a white rectangle that is an object, and a tall one without objects."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[10:30, 20:60] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.new("RGB", (30, 90), "red").save(tmp_path / "tall.png")
    truth = Truth(np.array([[20.0, 10, 60, 30], [0, 0, 80, 40]]), [2, 1], crowd=[False, True])
    nothing = Truth(np.zeros((0, 4)), [])
    return Annotations(
        tmp_path,
        ("a", "b", "c"),
        (AnnotatedImage("wide.png", 80, 40, truth), AnnotatedImage("tall.png", 30, 90, nothing)),
    )


def test_boxes_lie_on_the_objects_of_the_letterboxed_images(two):
    data = load_detection(two, (40, 40))
    assert data["image"].shape == (2, 40, 40, 3) and data["image"].dtype == np.uint8
    assert data["boxes"].shape == (2, 2, 4) and data["classes"].dtype == np.int32
    assert_array_equal(data["valid"], [[True, False], [False, False]])
    x1, y1, x2, y2 = data["boxes"][0, 0].astype(int)
    assert_allclose(data["boxes"][0, 0], [10, 15, 30, 25])
    white = np.argwhere(data["image"][0, ..., 0] > 200)
    assert abs(white.min(0) - [y1, x1]).max() <= 1 and abs(white.max(0) + 1 - [y2, x2]).max() <= 1
    assert_array_equal(data["image"][0, :10], 128)
    assert_array_equal(data["image"][1, :, 14:26], np.broadcast_to([255, 0, 0], (40, 12, 3)))


def test_a_rectangular_frame_and_room_for_more_boxes(two):
    data = load_detection(two, (24, 48), max_boxes=5)
    assert data["image"].shape == (2, 24, 48, 3) and data["boxes"].shape == (2, 5, 4)
    with pytest.raises(ConfigError, match="wide.png has 2 boxes"):
        load_detection(two, (24, 48), max_boxes=1)


def test_detections_return_to_the_pixels_of_the_file(two):
    data = load_detection(two, (48, 40))
    found = [Detections(data["boxes"][i, :1], [0.5], [2]) for i in range(2)]
    back = detections_in_originals(found, data, (48, 40))
    assert_allclose(back[0].boxes, [[20, 10, 60, 30]], atol=1e-4)
    outside = detections_in_originals([Detections([-9, -9, 99, 99], [1.0], [0])] * 2, data, (48, 40))
    assert_allclose(outside[0].boxes, [[0, 0, 80, 40]])
    assert_allclose(outside[1].boxes, [[0, 0, 30, 90]])


def test_objects_return_to_the_pixels_of_the_file_with_their_area(two):
    difficult = Truth(np.array([[1.0, 2, 5, 80]]), [1], difficult=[True], area=[100.5])
    three = (*two.images, AnnotatedImage("tall.png", 30, 90, difficult))
    data = load_detection(Annotations(two.folder, two.classes, three), (48, 40))
    assert_array_equal(data["size"], [[40, 80], [90, 30], [90, 30]])
    for truth, image in zip(truths_in_originals(data, (48, 40)), three, strict=True):
        assert_allclose(truth.boxes, image.truth.boxes, atol=1e-4)
        for name in ("classes", "difficult", "crowd", "area"):
            assert_array_equal(getattr(truth, name), getattr(image.truth, name))


def test_mistakes_are_named(two, tmp_path):
    wrong = Annotations(tmp_path, ("a",), (AnnotatedImage("wide.png", 40, 80, two.truths[1]),))
    with pytest.raises(ConfigError, match="wide.png is 80x40, its annotation says 40x80"):
        load_detection(wrong, (32, 32))
    gone = Annotations(tmp_path, ("a",), (AnnotatedImage("gone.png", 40, 80, two.truths[1]),))
    with pytest.raises(ConfigError, match="gone.png: no such file"):
        load_detection(gone, (32, 32))


def test_a_truncated_image_is_named(two, tmp_path):
    whole = (tmp_path / "wide.png").read_bytes()
    (tmp_path / "wide.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="wide.png: cannot be read as an image") as error:
        load_detection(two, (32, 32))
    assert "\n" not in str(error.value)


def test_no_images_at_all(tmp_path):
    data = load_detection(Annotations(tmp_path, ("a",), ()), (32, 40))
    assert data["image"].shape == (0, 32, 40, 3) and data["boxes"].shape == (0, 0, 4)


def test_bccd_fits_the_frame(shared):
    every = read_voc(shared("data/bccd"), "val")
    some = Annotations(every.folder, every.classes, every.images[:8])
    data = load_detection(some, (240, 320))
    boxes = data["boxes"][data["valid"]]
    assert len(boxes) == sum(len(t.boxes) for t in some.truths)
    assert np.all(boxes >= 0) and np.all(boxes <= [320, 240, 320, 240])
    assert_allclose(data["boxes"][0, : len(some.truths[0].boxes)], some.truths[0].boxes / 2)
