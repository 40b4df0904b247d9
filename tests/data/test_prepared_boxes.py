"""Detection datasets of tensorflow-datasets, written by its own code, against the same boxes in files."""

import logging

import numpy as np
import pytest
import tiny
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data import images
from cnnjax.data.formats.annotations import AnnotatedImage, Annotations
from cnnjax.data.formats.coco import write_coco
from cnnjax.data.formats.prepare import prepare
from cnnjax.data.formats.voc import write_voc
from cnnjax.data.formats.yolo import write_yolo
from cnnjax.data.sources import load, load_evaluated
from cnnjax.detection.results import Truth

SIZES = ((60, 80), (90, 50), (64, 64), (33, 47))  # height, width
BOXES = (  # of each image: whole pixels, as VOC's files have them
    [[0, 0, 80, 60], [10, 20, 31, 45], [77, 56, 80, 60]],
    [[1, 2, 50, 90]],
    [],
    [[5, 6, 40, 30], [6, 6, 41, 31]],
)
FRAME = {"image_size": 32, "image_width": 48}
ROUNDING = 1e-5 * 48  # of float32 boxes in that frame


@pytest.fixture(autouse=True)
def no_network(offline):
    """Prepared data is read without a connection."""


def annotations(folder, num_classes, difficult=False, crowd=False):
    """The images on disk below `folder`/images/train, and their objects; the second box of an image is flagged."""
    found = []
    (folder / "images" / "train").mkdir(parents=True)
    for i, ((height, width), boxes) in enumerate(zip(SIZES, BOXES, strict=True)):
        pixels = tiny.random_images(height, width, 3, seed=i)
        (folder / "images" / "train" / f"{i}.jpg").write_bytes(tiny.encode(pixels, "JPEG"))
        boxes = np.array(boxes, float).reshape(-1, 4)
        flags = np.arange(len(boxes)) == 1
        size = boxes[:, 2:] - boxes[:, :2]
        truth = Truth(
            boxes,
            (3 * i + np.arange(len(boxes))) % num_classes,
            flags & difficult,
            flags & crowd,
            # COCO's areas are those of the masks; tensorflow-datasets keeps them as whole numbers.
            np.floor(size.prod(1) * (0.6 if crowd else 1)),
        )
        found.append(AnnotatedImage(f"{i}.jpg", width, height, truth))
    return found


def examples(folder, annotated, to_box, describe, objects="objects", **more):
    """In the form that the generators of tensorflow-datasets yield."""
    import tensorflow_datasets as tfds

    return [
        {
            "image": (folder / "images" / "train" / image.path).read_bytes(),
            objects: [
                {"bbox": tfds.features.BBox(*to_box(*box, image.height, image.width))}
                | describe(image.truth, k)
                for k, box in enumerate(image.truth.boxes.tolist())
            ],
        }
        | {key: make(image) for key, make in more.items()}
        for image in annotated
    ]


def straight(x1, y1, x2, y2, height, width):
    return y1 / height, x1 / width, y2 / height, x2 / width


def from_one(x1, y1, x2, y2, height, width):
    return (y1 + 1) / height, (x1 + 1) / width, y2 / height, x2 / width


def upside_down(x1, y1, x2, y2, height, width):
    return (height - y2) / height, x1 / width, (height - y1) / height, x2 / width


def voc(folder, data_dir):
    import tensorflow_datasets as tfds

    features = tfds.builder("voc/2007", data_dir=str(data_dir)).info.features
    some = annotations(folder, 20, difficult=True)
    made = examples(
        folder,
        some,
        from_one,
        lambda truth, k: {
            "label": int(truth.classes[k]),
            "pose": "left",
            "is_truncated": False,
            "is_difficult": bool(truth.difficult[k]),
        },
        **{
            "image/filename": lambda image: image.path,
            "labels": lambda _: [],
            "labels_no_difficult": lambda _: [],
        },
    )
    return "voc/2007", "5.0.0", features, made, some, features["objects"]["label"].names


def coco(folder, data_dir):
    import tensorflow_datasets as tfds

    # The structure of object_detection/coco.py, whose code needs TensorFlow.
    names = [f"thing {i}" for i in range(80)]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(
                {
                    "id": np.int64,
                    "area": np.int64,
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=names),
                    "is_crowd": np.bool_,
                }
            ),
        }
    )
    some = annotations(folder, 80, crowd=True)
    made = examples(
        folder,
        some,
        straight,
        lambda truth, k: {
            "id": k,
            "area": int(truth.area[k]),
            "label": int(truth.classes[k]),
            "is_crowd": bool(truth.crowd[k]),
        },
        **{"image/filename": lambda image: image.path, "image/id": lambda _: 0},
    )
    return "coco/2017", "1.1.0", features, made, some, names


def kitti(folder, data_dir):
    import tensorflow_datasets as tfds

    features = tfds.builder("kitti", data_dir=str(data_dir)).info.features
    some = annotations(folder, 8)
    nothing = {"truncated": 0.0, "occluded": 0, "alpha": 0.0, "rotation_y": 0.0}
    nothing |= {"dimensions": np.zeros(3, np.float32), "location": np.zeros(3, np.float32)}
    made = examples(
        folder,
        some,
        upside_down,
        lambda truth, k: {"type": int(truth.classes[k]), **nothing},
        **{"image/file_name": lambda image: image.path},
    )
    return "kitti", "3.3.0", features, made, some, features["objects"]["type"].names


def wider_face(folder, data_dir):
    import tensorflow_datasets as tfds

    features = tfds.builder("wider_face", data_dir=str(data_dir)).info.features
    some = annotations(folder, 1, difficult=True)
    nothing = {"blur": 0, "expression": False, "illumination": False, "occlusion": 0, "pose": False}
    made = examples(
        folder,
        some,
        straight,
        lambda truth, k: {"invalid": bool(truth.difficult[k]), **nothing},
        objects="faces",
        **{"image/filename": lambda image: image.path},
    )
    return "wider_face", "0.1.0", features, made, some, ["face"]


def assert_same(split, expected):
    assert set(split) == set(expected)
    assert_array_equal(split["image"], expected["image"])
    assert_allclose(split["boxes"], expected["boxes"], atol=ROUNDING)
    assert_allclose(split["area"], expected["area"], rtol=1e-4)
    for key in ("classes", "valid", "ignored", "size"):
        assert_array_equal(split[key], expected[key])


@pytest.mark.parametrize("make", [voc, coco, kitti, wider_face])
def test_the_same_boxes_as_in_files(make, tmp_path, caplog):
    files, data_dir = tmp_path / "files", tmp_path / "tfds"
    name, version, features, made, some, classes = make(files, data_dir)
    splits = {"train": made, "validation": made[:2], "test": [{**one, _objects(one): []} for one in made]}
    tiny.prepared_boxes(data_dir, name, features, splits, version)
    dataset = load(Data(name=name, **FRAME), str(data_dir))

    (files / "annotations").mkdir()
    wanted = Annotations(files / "images" / "train", tuple(classes), tuple(some))
    write_coco(wanted, files / "annotations" / "instances_train.json")
    expected = load(Data(name=f"coco:{files}", split="train", **FRAME))
    assert dataset.classes == expected.classes == tuple(classes)
    assert_same(dataset.train, expected.train)
    assert dataset.train["valid"].sum() + dataset.train["ignored"].sum() >= 6
    # The test split holds no boxes, so it is not the one to evaluate.
    assert len(dataset.test["image"]) == 2 and "its validation split" in dataset.note
    assert dataset.validation is dataset.test
    assert "mistakes" not in dataset.note and not [r for r in caplog.records if r.levelno >= logging.WARNING]

    # YOLO's files know neither flags nor areas, VOC's no areas.
    write_yolo(wanted, files / "labels" / "train")
    (files / "labels" / "classes.txt").replace(files / "classes.txt")
    yolo = load(Data(name=f"yolo:{files}", split="train", **FRAME)).train
    if make is not coco:
        assert_allclose(dataset.train["boxes"], yolo["boxes"], atol=ROUNDING)
        assert_array_equal(dataset.train["classes"], yolo["classes"])
    if make is voc:
        write_voc(wanted, files, "train")
        (files / "images" / "train").replace(files / "JPEGImages")
        read = load(Data(name=f"voc:{files}", split="train", **FRAME))
        assert_allclose(dataset.train["boxes"], read.train["boxes"], atol=ROUNDING)
        assert_array_equal(dataset.train["ignored"], read.train["ignored"])


def _objects(example):
    return "faces" if "faces" in example else "objects"


@pytest.fixture
def kitti_like(tmp_path):
    """Writes KITTI's structure with the given boxes (ymin, xmin, ymax, xmax from below) in one image of 40x100."""
    import tensorflow_datasets as tfds

    features = tfds.builder("kitti", data_dir=str(tmp_path)).info.features
    content = tiny.encode(tiny.random_images(40, 100, 3), "JPEG")
    nothing = {"truncated": 0.0, "occluded": 0, "alpha": 0.0, "rotation_y": 0.0, "type": 0}
    nothing |= {"dimensions": np.zeros(3, np.float32), "location": np.zeros(3, np.float32)}

    def write(boxes, content=content, splits=("train", "test"), more=()):
        class Unchecked(tfds.features.BBoxFeature):  # as it is, the writer would refuse what is tested here
            def encode_example(self, bbox):
                return np.asarray(bbox, np.float32)

        features["objects"].feature["bbox"].__class__ = Unchecked
        examples = [
            {
                "image": content,
                "image/file_name": "a.png",
                "objects": [{"bbox": np.array(box), **nothing} for box in one],
            }
            for one in (boxes, *more)
        ]
        folder = tiny.prepared_boxes(
            tmp_path, "kitti", features, {split: examples for split in splits}, "3.3.0"
        )
        config = folder / "features.json"
        config.write_text(config.read_text().replace(f"{__name__}.Unchecked", ""))
        return str(tmp_path)

    return write


def test_boxes_that_break_a_rule_are_reported_again_at_every_start(kitti_like, caplog, capsys):
    good = [0.25, 0.1, 0.75, 0.3]
    bad = {
        "is not finite": [0.1, np.nan, 0.2, 0.3],
        "has no inside": [0.5, 0.1, 0.5, 0.3],
        "is outside": [0.1, 1.2, 0.4, 1.4],
        "reaches out": [0.0, 0.9, 0.5, 1.5],
    }
    data_dir = kitti_like([good, *bad.values()])
    for _ in range(2):
        caplog.clear()
        dataset = load(Data(name="kitti", **FRAME), data_dir)
        assert "8 mistakes in the annotations" in dataset.note
        lost = "left out 6 of 10 objects (not finite: 2, no inside: 2, outside the image: 2)"
        assert capsys.readouterr().err.splitlines().count(f"warning: {lost}") == 1 and lost in dataset.note
        for number, text in enumerate(bad, start=1):
            assert f"kitti/3.3.0, image 0 of train, objects[{number}]: box" in caplog.text
            assert text in caplog.text
    # A frame of 32x48 shows the image of 40x100 at 0.48, 19 pixels high from row 6 on; y is measured from below.
    assert_allclose(dataset.train["boxes"][0, 0], [4.8, 6 + 0.25 * 19, 14.4, 6 + 0.75 * 19], rtol=1e-5)
    assert_allclose(dataset.train["boxes"][0, 1], [43.2, 6 + 0.5 * 19, 48, 6 + 19], rtol=1e-5)
    assert dataset.train["valid"].tolist() == [[True, True]]


def test_an_image_without_a_box_that_can_be_used_is_no_negative(kitti_like, tmp_path, capsys):
    good, bad = [0.25, 0.1, 0.75, 0.3], [0.5, 0.1, 0.5, 0.3]
    data_dir = kitti_like([bad], more=([], [good]))
    dataset = load(Data(name="kitti", **FRAME), data_dir)
    assert [int(n) for n in dataset.train["valid"].sum(1)] == [0, 1] and len(dataset.train["image"]) == 2
    lost = "left out 2 of 4 objects (no inside: 2) and 2 of 6 images (no object left: 2)"
    assert lost in capsys.readouterr().err
    assert prepare(Data(name="kitti"), tmp_path / "records", data_dir) == {"train": 2, "test": 2}


def test_a_set_of_such_images_only_is_refused(kitti_like):
    data_dir = kitti_like([[0.5, 0.1, 0.5, 0.3]])
    with pytest.raises(ConfigError, match=r"no images of train with boxes .* objects\[0\]: box .* no inside"):
        load(Data(name="kitti", **FRAME), data_dir)


def test_a_truncated_image_is_named(kitti_like):
    data_dir = kitti_like([[0.1, 0.1, 0.5, 0.5]], tiny.encode(tiny.random_images(40, 100, 3), "JPEG")[:900])
    with pytest.raises(ConfigError, match="image 0 of train: cannot be read as an image"):
        load(Data(name="kitti", **FRAME), data_dir)


def test_a_frame_and_an_existing_split_are_needed(kitti_like):
    data_dir = kitti_like([[0.1, 0.1, 0.5, 0.5]])
    with pytest.raises(ConfigError, match="needs --data.image_size"):
        load(Data(name="kitti"), data_dir)
    with pytest.raises(ConfigError, match="data.split='val': kitti/3.3.0 has t"):
        load(Data(name="kitti", split="val", **FRAME), data_dir)
    assert "its train split" in load(Data(name="kitti", split="train", **FRAME), data_dir).note


def test_without_another_split_a_share_of_the_training_split_is_held_out(tmp_path):
    name, version, features, made, _, _ = wider_face(tmp_path / "files", tmp_path)
    tiny.prepared_boxes(tmp_path, name, features, {"train": made}, version)
    dataset = load(Data(name=name, **FRAME), str(tmp_path))
    assert len(dataset.train["image"]) == 3 and len(dataset.test["image"]) == 1


def test_the_test_split_comes_with_the_validation_split(tmp_path):
    name, version, features, made, some, _ = wider_face(tmp_path / "files", tmp_path)
    splits = {"train": made, "test": made[:1], "validation": made[1:]}
    tiny.prepared_boxes(tmp_path, name, features, splits, version)
    dataset = load(Data(name=name, **FRAME), str(tmp_path))
    assert len(dataset.test["image"]) == 1
    assert_array_equal(dataset.validation["size"], [(image.height, image.width) for image in some[1:]])


def test_evaluation_decodes_the_evaluated_split_only(tmp_path, monkeypatch):
    name, version, features, made, some, _ = wider_face(tmp_path / "files", tmp_path)
    tiny.prepared_boxes(tmp_path, name, features, {"train": made, "test": made[1:]}, version)
    decoded = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *a: decoded.append(a[1]) or decode(*a))
    split, classes = load_evaluated(Data(name=name, **FRAME), str(tmp_path), 3, everything=False)
    assert classes == ("face",) and len(split["image"]) == 3
    assert_array_equal(split["size"], [(image.height, image.width) for image in some[1:]])
    assert decoded and all(place.endswith("of test") for place in decoded)


def test_what_is_not_prepared_says_how_although_its_code_needs_tensorflow(tmp_path, capfd):
    with pytest.raises(ConfigError, match="tfds build coco/2017 --file_format=array_record"):
        load(Data(name="coco/2017", **FRAME), str(tmp_path))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_prepared_for_streaming(tmp_path):
    name, version, features, made, _, _ = coco(tmp_path / "files", tmp_path)
    tiny.prepared_boxes(tmp_path, name, features, {"train": made, "validation": made[:2]}, version)
    counts = prepare(Data(name=name), tmp_path / "records", str(tmp_path))
    assert counts == {"train": 4, "test": 2}
    expected = load(Data(name=name, **FRAME), str(tmp_path))
    dataset = load(Data(name=f"records:{tmp_path / 'records'}", **FRAME))
    assert dataset.classes == expected.classes
    assert_same(dataset.train, expected.train)
    assert_same(dataset.test, expected.test)
    streamed = load(Data(name=f"records:{tmp_path / 'records'}", stream=True, **FRAME))
    assert_array_equal(np.asarray(streamed.test["image"]), expected.test["image"])


def test_a_turned_photograph_has_the_size_it_is_shown_in(tmp_path):
    photograph = Image.new("RGB", (30, 20))
    exif = photograph.getexif()
    exif[0x0112] = 6
    photograph.save(tmp_path / "a.jpg", exif=exif)
    assert images.size(tmp_path / "a.jpg", "a") == (30, 20)
    assert images.decode(tmp_path / "a.jpg", "a", Data(), 3).shape == (30, 20, 3)
