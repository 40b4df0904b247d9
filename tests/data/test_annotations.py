import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from cnnjax.config import ConfigError
from cnnjax.data.formats.annotations import AnnotatedImage, Annotations
from cnnjax.data.formats.coco import read_coco, write_coco
from cnnjax.data.formats.voc import read_voc, write_voc
from cnnjax.data.formats.yolo import read_yolo, write_yolo
from cnnjax.detection.results import Truth


def assert_same(a, b, flags=("difficult", "crowd")):
    assert a.classes == b.classes and a.problems == b.problems == ()
    assert [(i.path, i.width, i.height) for i in a.images] == [(i.path, i.width, i.height) for i in b.images]
    for one, other in zip(a.truths, b.truths, strict=True):
        assert_allclose(one.boxes, other.boxes, rtol=0, atol=1e-9)
        assert_array_equal(one.classes, other.classes)
        for flag in flags:
            assert_array_equal(getattr(one, flag), getattr(other, flag))


@pytest.fixture
def small(tmp_path):
    """Two images in a subfolder and one without boxes, with fractions of pixels and boxes on the border."""
    folder = tmp_path / "JPEGImages"
    sizes = {"a/one.png": (40, 30), "a/two.jpg": (33, 57), "none.png": (20, 20)}
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / name)
    boxes = {
        "a/one.png": ([[0, 0, 40, 30], [1.1, 2.2, 7.7, 9.3], [3, 4, 5, 6]], [1, 0, 2], [False, True, False]),
        "a/two.jpg": ([[10.25, 20.5, 33, 57]], [2], [False]),
        "none.png": ([], [], []),
    }
    images = tuple(
        AnnotatedImage(name, *size, Truth(np.array(boxes[name][0]), boxes[name][1], boxes[name][2]))
        for name, size in sizes.items()
    )
    return Annotations(folder, ("cat", "dog", "bird & co"), images)


def test_one_set_is_the_same_in_all_three_formats(small, tmp_path):
    write_coco(small, tmp_path / "all.json")
    write_voc(small, tmp_path, "all")
    write_yolo(small, tmp_path / "labels")
    assert_same(small, read_coco(tmp_path / "all.json", small.folder))
    assert_same(small, read_voc(tmp_path, "all", small.classes))
    read = read_yolo(small.folder, tmp_path / "labels", tmp_path / "classes.txt")
    assert_same(small, read, flags=())
    # Without a list of classes VOC's are sorted by name, over the whole folder.
    assert read_voc(tmp_path).classes == ("bird & co", "cat", "dog")


def test_crowd_regions_and_areas_survive_in_coco(tmp_path):
    truth = Truth(np.array([[1, 2, 3, 4.0]]), [0], crowd=[True], area=[1.5])
    some = Annotations(tmp_path, ("x",), (AnnotatedImage("i.png", 9, 9, truth),))
    write_coco(some, tmp_path / "a.json")
    read = read_coco(tmp_path / "a.json", tmp_path).truths[0]
    assert read.crowd[0] and read.area[0] == 1.5
    write_voc(some, tmp_path)
    assert "<difficult>1<" in (tmp_path / "Annotations/i.xml").read_text()
    write_yolo(some, tmp_path / "labels")
    assert (tmp_path / "labels/i.txt").read_text() == ""


def coco_file(tmp_path, annotations=(), **changes):
    data = {
        "images": [{"id": 0, "file_name": "a.jpg", "width": 100, "height": 80}],
        "categories": [{"id": 90, "name": "last"}, {"id": 0, "name": "first"}, {"id": 7, "name": "middle"}],
        "annotations": list(annotations),
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(data | changes))
    return path


def entry(**changes):
    return {"id": 0, "image_id": 0, "category_id": 7, "bbox": [10, 20, 30, 40]} | changes


def test_coco_ids_may_begin_at_zero_and_have_gaps(tmp_path):
    path = coco_file(tmp_path, [entry(), entry(id=9, category_id=90), entry(id=3, category_id=0)])
    read = read_coco(path, tmp_path)
    assert read.classes == ("first", "middle", "last") and read.problems == ()
    assert_array_equal(read.truths[0].classes, [1, 2, 0])
    assert_allclose(read.truths[0].boxes[0], [10, 20, 40, 60])
    assert read.truths[0].area[0] == 1200


BAD_BOXES = [
    ([10, 20, math.nan, 40], "not finite", None),
    ([10, 20, 0, 40], "no inside", None),
    ([10, 20, 5, -1], "no inside", None),
    ([100, 20, 5, 5], "outside the image of 100x80", None),
    ([-10, -10, 5, 5], "outside", None),
    ([-10, 70, 30, 40], "clipped", [0, 70, 20, 80]),
]


@pytest.mark.parametrize(("box", "text", "kept"), BAD_BOXES)
def test_boxes_that_break_a_rule_are_reported_and_skipped_or_clipped(tmp_path, box, text, kept):
    read = read_coco(coco_file(tmp_path, [entry(), entry(bbox=box)]), tmp_path)
    (problem,) = read.problems
    assert text in problem.text and problem.place == "annotations[1]" and problem.file.endswith("coco.json")
    assert len(read.truths[0].boxes) == (1 if kept is None else 2)
    if kept:
        assert_allclose(read.truths[0].boxes[1], kept)


def test_less_than_a_pixel_is_clipped_in_silence(tmp_path):
    read = read_coco(coco_file(tmp_path, [entry(bbox=[-0.5, 0, 100.9, 80.2])]), tmp_path)
    assert read.problems == ()
    assert_allclose(read.truths[0].boxes, [[0, 0, 100, 80]])


def test_coco_without_annotations_is_negative(tmp_path):
    read = read_coco(coco_file(tmp_path), tmp_path)
    assert read.truths[0].boxes.shape == (0, 4) and read.problems == ()


VOC = """<annotation>
  <filename>elsewhere.jpg</filename>
  <size><width>50</width><height>40</height></size>
  <object>
    <name>cell</name><difficult>1</difficult>
    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>40</ymax></bndbox>
    <part><name>cell</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>
  </object>
  {}
</annotation>"""
BOX = "<bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox>"


@pytest.fixture
def voc(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    Image.new("RGB", (50, 40)).save(tmp_path / "JPEGImages/a.png")

    def write(more="", text=VOC):
        (tmp_path / "Annotations/a.xml").write_text(text.format(more) if text is VOC else text)
        return tmp_path

    return write


def test_voc_pixels_count_from_one(voc):
    read = read_voc(voc())
    assert_allclose(read.truths[0].boxes, [[0, 0, 50, 40]])
    assert read.truths[0].difficult[0] and read.images[0].path == "a.png" and read.problems == ()


def test_voc_split_and_missing_image(voc):
    root = voc()
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("gone 1\n\na -1\n")
    read = read_voc(root, "train")
    assert [i.path for i in read.images] == ["a.png"] and "no such image" in str(read.problems[0])
    (root / "ImageSets/Main/evil.txt").write_text("../../a\n")
    with pytest.raises(ConfigError, match="leads out"):
        read_voc(root, "evil")
    with pytest.raises(ConfigError, match="no such file"):
        read_voc(root, "test")
    with pytest.raises(ConfigError, match="no xml files"):
        read_voc(root / "JPEGImages")


@pytest.fixture
def yolo(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (50, 40)).save(tmp_path / "images/a.png")

    def read(text):
        (tmp_path / "labels/a.txt").write_text(text)
        return read_yolo(tmp_path / "images", tmp_path / "labels", ["x", "y"])

    return read


def test_yolo_by_hand(yolo):
    read = yolo("1 0.5 0.25 0.2 0.5\n\n")
    assert_allclose(read.truths[0].boxes, [[20, 0, 30, 20]])
    assert read.truths[0].classes[0] == 1


def test_yolo_empty_missing_and_superfluous_files(yolo, tmp_path):
    assert yolo("").truths[0].boxes.shape == (0, 4)
    (tmp_path / "labels/b.txt").write_text("0 .5 .5 .5 .5\n")
    assert "belongs to no image" in str(yolo("").problems[0])
    (tmp_path / "labels/a.txt").unlink()
    read = read_yolo(tmp_path / "images", tmp_path / "labels", ["x"])
    assert len(read.images) == 1 and len(read.truths[0].boxes) == 0
    (tmp_path / "images/bad.jpg").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="bad.jpg: not an image, or none of PNG"):
        yolo("")
    (tmp_path / "labels/a.txt").write_bytes(b"\xff\xfe0")
    (tmp_path / "images/bad.jpg").unlink()
    with pytest.raises(ConfigError, match="not a text file"):
        read_yolo(tmp_path / "images", tmp_path / "labels", ["x"])


def test_bccd(shared):
    folder = shared("data/bccd")
    every = read_voc(folder)
    assert every.classes == ("Platelets", "RBC", "WBC") and len(every.images) == 364
    counts = np.bincount(np.concatenate([t.classes for t in every.truths]))
    assert_array_equal(counts, [361, 4155 - 2, 372])
    assert sorted(p.file[-8:] for p in every.problems) == ["0338.xml", "0343.xml"]
    assert all("no inside" in p.text for p in every.problems)
    parts = [read_voc(folder, split) for split in ("train", "val", "test")]
    assert [len(part.images) for part in parts] == [205, 87, 72]
    assert len({i.path for part in parts for i in part.images}) == 364


def test_coco128_says_the_same_in_both_formats(shared):
    folder = shared("data/coco128")
    coco = read_coco(folder / "annotations/instances_train2017.json", folder)
    yolo = read_yolo(folder / "images/train2017", folder / "labels/train2017", folder / "classes.txt")
    assert coco.problems == () and coco.classes == yolo.classes
    # Two images of the set were lost, and their label files stayed.
    assert ["belongs to no image" in p.text for p in yolo.problems] == [True, True]
    assert len(coco.images) == 100 and len(yolo.images) == 128
    by_path = {f"images/train2017/{i.path}": i for i in yolo.images}
    agreed = total = 0
    for image in coco.images:
        if image.path not in by_path:
            continue
        other = by_path[image.path]
        assert (image.width, image.height) == (other.width, other.height)
        # The json is in whole pixels, its boxes a pixel too small.
        distance = np.abs(image.truth.boxes[:, None] - other.truth.boxes[None]).max(-1)
        distance[image.truth.classes[:, None] != other.truth.classes[None]] = np.inf
        total += len(distance)
        agreed += np.sum(distance.min(1, initial=np.inf) <= 3)
    assert total > 700 and agreed / total > 0.9
