"""Against OpenCV, window for window."""

from pathlib import Path

import numpy as np
import pytest

from cnnjax.faces.cascade import read_cascade, write_cascade
from cnnjax.faces.grouping import group_rectangles
from cnnjax.faces.scan import (
    Scan,
    all_windows,
    detect,
    make_pyramid,
    raw_boxes,
    resize_exact,
    stage_margins,
)

# Faces of multiface.jpg, and two that are none: OpenCV's x, y, side and neighbours for more than 3.
MULTIFACE = {
    (1097, 475, 55): 13, (548, 52, 97): 66, (423, 139, 95): 59, (608, 200, 96): 87, (214, 253, 97): 90,
    (846, 447, 104): 72, (714, 473, 95): 91, (408, 344, 194): 6,
}  # fmt: skip


def found(cascade, image, **options):
    levels = make_pyramid(image, cascade.size, **options)
    windows = all_windows(levels, cascade.size)
    kept, _ = Scan([level.image for level in levels], cascade.size).passing(cascade, windows)
    return raw_boxes(levels, windows[kept], cascade.size), windows.level[kept], levels


def clipped(boxes, image):
    """As OpenCV gives raw windows: cut at the image's border."""
    ends = np.minimum(boxes[:, :2] + boxes[:, 2:], image.shape[::-1])
    return np.concatenate([boxes[:, :2], ends - boxes[:, :2]], axis=1)


def as_set(boxes):
    return set(map(tuple, np.asarray(boxes).reshape(-1, 4).tolist()))


def test_resizing_is_opencv_s(opencv):
    rng = np.random.default_rng(0)
    for _ in range(20):
        image = rng.integers(0, 256, rng.integers(5, 100, 2)).astype(np.uint8)
        height, width = (int(side) for side in rng.uniform(0.2, 1.5, 2) * image.shape + 1)
        expected = opencv.resize(image, (width, height), interpolation=opencv.INTER_LINEAR_EXACT)
        np.testing.assert_array_equal(resize_exact(image, height, width), expected)


def test_stage_sums_of_a_face(shared, frontal):
    with np.load(shared("fixtures/haar_window.npz")) as known:
        face, margins = known["face"], known["margins"]
    assert face[1:-1, 1:-1].std() == pytest.approx(62.7471, abs=1e-4)
    np.testing.assert_allclose(stage_margins(frontal, face[None])[0], margins, rtol=1e-5)


def test_counts_of_the_frontal_cascade(frontal):
    assert frontal.size == (24, 24) and len(frontal.features) == 2913
    sizes = "9 16 27 32 52 53 62 72 83 91 99 115 127 135 136 137 159 155 169 196 197 181 199 211 200"
    assert frontal.trees.tolist() == [int(size) for size in sizes.split()]


def test_windows_of_a_crop(shared, frontal):
    with np.load(shared("fixtures/haar_window.npz")) as known:
        crop = known["crop"]
    boxes, level, levels = found(frontal, crop)
    assert len(boxes) == 58
    scales = [round(levels[i].scale, 4) for i in np.unique(level)]
    assert scales[0] == 2.5937 and np.bincount(level)[np.unique(level)].tolist() == [
        1,
        3,
        9,
        7,
        9,
        11,
        8,
        7,
        2,
        1,
    ]
    grouped, counts = detect(frontal, crop, neighbors=5)
    assert grouped.tolist() == [[32, 29, 32 + 96, 29 + 96]] and counts.tolist() == [58]


@pytest.mark.parametrize("name", ["frontalface_default", "frontalface_alt", "frontalface_alt2", "eye"])
def test_every_window_of_a_crop_is_opencv_s(name, shared, opencv):
    """alt2 has trees of two nodes, and alt and eye windows of 20x20."""
    with np.load(shared("fixtures/haar_window.npz")) as known:
        crop = known["crop"]
    path = Path(opencv.data.haarcascades) / f"haarcascade_{name}.xml"
    boxes, _, _ = found(read_cascade(path), crop)
    expected = opencv.CascadeClassifier(str(path)).detectMultiScale(crop, 1.1, 0)
    assert len(boxes) == len(expected) > 0 and as_set(clipped(boxes, crop)) == as_set(expected)


def test_a_photograph_s_windows_and_faces(shared, opencv, frontal):
    image = opencv.imread(str(shared("data/weights/mtcnn/multiface.jpg")), 0)
    assert image.sum(dtype=np.int64) == 86_677_595
    boxes, _, _ = found(frontal, image)
    assert len(boxes) == 545
    for neighbors, count in ((3, 10), (5, 8)):
        grouped, counts = group_rectangles(boxes, neighbors)
        assert len(grouped) == count
    assert {
        (x, y, w): n for (x, y, w, _), n in zip(grouped.tolist(), counts.tolist(), strict=True)
    } == MULTIFACE
    reader = opencv.CascadeClassifier(opencv.data.haarcascades + "haarcascade_frontalface_default.xml")
    assert as_set(clipped(boxes, image)) == as_set(reader.detectMultiScale(image, 1.1, 0))


def test_another_factor_and_limits_of_size(shared, opencv, frontal):
    image = opencv.imread(str(shared("data/weights/mtcnn/multiface.jpg")), 0)[100:400, 380:760]
    reader = opencv.CascadeClassifier(opencv.data.haarcascades + "haarcascade_frontalface_default.xml")
    expected = reader.detectMultiScale(image, 1.3, 0, minSize=(40, 40), maxSize=(120, 120))
    boxes, _, _ = found(frontal, image, factor=1.3, least=40, most=120)
    assert len(boxes) > 0 and as_set(clipped(boxes, image)) == as_set(expected)


def test_nothing_in_noise(frontal):
    rng = np.random.default_rng(0)
    assert len(detect(frontal, rng.normal(128, 2.3, (120, 160)).astype(np.uint8), neighbors=0)[0]) == 0
    assert len(detect(frontal, rng.integers(0, 256, (120, 160)).astype(np.uint8))[0]) == 0


def test_opencv_reads_what_is_written(opencv, frontal, shared, tmp_path):
    with np.load(shared("fixtures/haar_window.npz")) as known:
        crop = known["crop"]
    for stages, windows in ((6, 1366), (1, 12077)):
        short = frontal.first(stages)
        write_cascade(short, tmp_path / "short.xml")
        expected = opencv.CascadeClassifier(str(tmp_path / "short.xml")).detectMultiScale(crop, 1.1, 0)
        assert len(expected) == windows
        assert as_set(clipped(found(short, crop)[0], crop)) == as_set(expected)


def test_windows_of_any_size_and_factor_are_opencv_s(opencv, frontal, shared, tmp_path):
    """With one stage, every tenth window passes: the order of the scan and every rounding shows."""
    image = opencv.imread(str(shared("data/weights/mtcnn/multiface.jpg")), 0)
    short = frontal.first(1)
    write_cascade(short, tmp_path / "short.xml")
    reader = opencv.CascadeClassifier(str(tmp_path / "short.xml"))
    rng = np.random.default_rng(0)
    for _ in range(12):
        height, width = rng.integers(24, 180, 2)
        y, x = rng.integers(0, 630 - height), rng.integers(0, 1200 - width)
        crop = np.ascontiguousarray(image[y : y + height, x : x + width])
        factor = float(rng.choice([1.05, 1.1, 1.2, 1.25, 1.3]))
        boxes, _, _ = found(short, crop, factor=factor)
        expected = np.reshape(reader.detectMultiScale(crop, factor, 0), (-1, 4))
        assert len(boxes) == len(expected) and as_set(clipped(boxes, crop)) == as_set(expected)
