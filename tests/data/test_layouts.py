"""Data sets with boxes in the layouts that tools write, each written here by hand."""

import json
from pathlib import PurePosixPath

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data.formats import coco as coco_format
from cnnjax.data.formats import voc as voc_format
from cnnjax.data.formats import yolo as yolo_format
from cnnjax.data.formats.layouts import read_splits
from cnnjax.data.splits import role

CLASSES = ("dog", "cat")  # not in the order of the alphabet
SIZE = (40, 20)  # width, height


def box(k):
    """The one object of image k."""
    return [k, 2, k + 10, 12]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE).save(path)


def yolo(folder, pictures, labels, numbers):
    for k in numbers:
        image(folder / pictures / f"{k}.jpg")
        write(folder / labels / f"{k}.txt", f"{k % 2} {(k + 5) / 40} 0.35 0.25 0.5\n")


def voc(folder, pictures, xml, numbers):
    for k in numbers:
        image(folder / pictures / f"{k}.jpg")
        corners = "".join(
            f"<{name}>{value}</{name}>"
            for name, value in (("xmin", k + 1), ("ymin", 3), ("xmax", k + 10), ("ymax", 12))
        )
        size = "<size><width>40</width><height>20</height><depth>3</depth></size>"
        obj = f"<object><name>{CLASSES[k % 2]}</name><bndbox>{corners}</bndbox></object>"
        write(folder / xml / f"{k}.xml", f"<annotation>{size}{obj}</annotation>")


def coco(folder, pictures, file, numbers, prefix=""):
    for k in numbers:
        image(folder / pictures / f"{k}.jpg")
    about = {
        "images": [{"id": k, "file_name": f"{prefix}{k}.jpg", "width": 40, "height": 20} for k in numbers],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1 + k % 2, "bbox": [k, 2, 10, 10]} for k in numbers
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    write(folder / file, json.dumps(about))


def roboflow_yolo(folder):
    for split, numbers in (("train", range(4)), ("valid", (4, 5)), ("test", (6,))):
        yolo(folder, f"{split}/images", f"{split}/labels", numbers)
    write(folder / "README.roboflow.txt", "exported")
    paths = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    write(folder / "data.yaml", f"{paths}\nnc: 2\nnames: ['dog', 'cat']\n\nroboflow:\n  license: MIT\n")


def roboflow_yolo_without_yaml(folder):
    roboflow_yolo(folder)
    (folder / "data.yaml").unlink()
    write(folder / "classes.txt", "dog\ncat\n")


def ultralytics(folder, names="names:\n  0: dog\n  1: cat\n", name="data.yaml"):
    for split, numbers in (("train2017", range(4)), ("val2017", (4, 5)), ("test-dev2017", (6,))):
        yolo(folder, f"images/{split}", f"labels/{split}", numbers)
    paths = "train: images/train2017\nval: [images/val2017]\ntest: images/test-dev2017 # optional\n"
    write(folder / name, f"path: ../datasets/pets  # where it was\n{paths}{names}")


def ultralytics_with_a_list(folder):
    ultralytics(folder, "names: [dog, cat]\n", "pets.yaml")


def ultralytics_without_yaml(folder):
    ultralytics(folder)
    (folder / "data.yaml").unlink()
    (folder / "images/test-dev2017").rename(folder / "images/test2017")
    (folder / "labels/test-dev2017").rename(folder / "labels/test2017")
    write(folder / "labels/classes.txt", "dog\ncat\n")


def ultralytics_of_lists(folder):
    """As CVAT writes it: the paths of the lists begin with a folder that is not there."""
    about = ""
    for split, numbers in (("train", range(4)), ("val", (4, 5)), ("test", (6,))):
        yolo(folder, f"images/{split}", f"labels/{split}", numbers)
        write(folder / f"{split}.txt", "".join(f"data/images/{split}/{k}.jpg\n" for k in numbers))
        about += f"{split}: {split}.txt\n"
    write(folder / "data.yaml", f"path: ./\n{about}names: {{1: cat, 0: dog}}\n")


def darknet(folder):
    about = "classes = 2\nnames = data/obj.names\nbackup = backup/\n"
    for split, numbers in (("train", range(4)), ("valid", (4, 5)), ("test", (6,))):
        yolo(folder, f"obj_{split}_data", f"obj_{split}_data", numbers)
        write(folder / f"{split}.txt", "".join(f"data/obj_{split}_data/{k}.jpg\n" for k in numbers))
        about += f"{split} = data/{split}.txt\n"
    write(folder / "obj.data", about)
    write(folder / "obj.names", "dog\ncat\n")


def yolo_beside_the_images(folder):
    for split, numbers in (("Training", range(4)), ("Validation", (4, 5)), ("TEST", (6,))):
        yolo(folder, split, split, numbers)
        write(folder / split / "classes.txt", "dog\ncat\n")


def roboflow_voc(folder):
    for split, numbers in (("train", range(4)), ("valid", (4, 5)), ("test", (6,))):
        voc(folder, split, split, numbers)


def voc_with_lists(folder):
    voc(folder, "JPEGImages", "Annotations", range(7))
    for name, numbers in (("train", range(4)), ("val", (4, 5)), ("test", (6,))):
        write(folder / f"ImageSets/Main/{name}.txt", "".join(f"{k}\n" for k in numbers))
        write(folder / f"ImageSets/Main/dog_{name}.txt", "".join(f"{k}  {1 - k % 2 * 2}\n" for k in numbers))


def roboflow_coco(folder):
    for split, numbers in (("train", range(4)), ("valid", (4, 5)), ("test", (6,))):
        coco(folder, split, f"{split}/_annotations.coco.json", numbers)


def coco_of_the_authors(folder):
    for split, numbers in (("train2017", range(4)), ("val2017", (4, 5)), ("test2017", (6,))):
        coco(folder, split, f"annotations/instances_{split}.json", numbers)


def coco_with_paths_from_the_top(folder):
    for split, numbers in (("train", range(4)), ("val", (4, 5)), ("test", (6,))):
        coco(folder, f"images/{split}", f"annotations/instances_{split}.json", numbers, f"images/{split}/")


def cvat_coco_of_subsets(folder):
    for split, numbers in (("Train", range(4)), ("Validation", (4, 5)), ("Test", (6,))):
        coco(folder, f"images/{split}", f"annotations/instances_{split}.json", numbers)


SPLIT = {
    "yolo": [
        roboflow_yolo, roboflow_yolo_without_yaml, ultralytics, ultralytics_with_a_list, ultralytics_without_yaml,
        ultralytics_of_lists, darknet, yolo_beside_the_images,
    ],
    "voc": [roboflow_voc, voc_with_lists],
    "coco": [roboflow_coco, coco_of_the_authors, coco_with_paths_from_the_top, cvat_coco_of_subsets],
}  # fmt: skip


def numbers_of(annotations):
    """Which images there are, each of which has its object."""
    found = []
    for one in annotations.images:
        k = int(PurePosixPath(one.path).stem)
        assert (annotations.folder / one.path).is_file() and (one.width, one.height) == SIZE
        assert_allclose(one.truth.boxes, [box(k)], rtol=0, atol=1e-9)
        assert annotations.classes[one.truth.classes[0]] == CLASSES[k % 2]
        found.append(k)
    return sorted(found)


def read(kind, folder, **changes):
    layouts = {"voc": voc_format, "coco": coco_format, "yolo": yolo_format}[kind].LAYOUTS
    return read_splits(layouts, Data(name=f"{kind}:{folder}", **changes), folder)


@pytest.mark.parametrize(("kind", "make"), [(kind, make) for kind, many in SPLIT.items() for make in many])
def test_splits_are_read_as_the_tools_write_them(kind, make, tmp_path, caplog):
    make(tmp_path)
    found = read(kind, tmp_path)
    assert {name: numbers_of(split) for name, split in found.splits.items()} == {
        "train": [0, 1, 2, 3],
        "validation": [4, 5],
        "test": [6],
    }
    assert found.validation == "validation" and found.note == "" and not caplog.records
    assert found.splits["train"].classes == (tuple(sorted(CLASSES)) if kind == "voc" else CLASSES)
    assert numbers_of(read(kind, tmp_path, split="val").splits["test"]) == [4, 5]
    assert numbers_of(read(kind, tmp_path, split="train").splits["test"]) == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="data.split='other'"):
        read(kind, tmp_path, split="other")


def labelimg_yolo(folder):
    yolo(folder, ".", ".", range(10))
    write(folder / "classes.txt", "dog\ncat\n")


def label_studio_yolo(folder):
    yolo(folder, "images", "labels", range(10))
    write(folder / "classes.txt", "dog\ncat\n")
    write(folder / "notes.json", "{}")


def cvat_yolo(folder):
    yolo(folder, "obj_train_data", "obj_train_data", range(10))
    write(
        folder / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    write(folder / "obj.names", "dog\ncat\n")
    write(folder / "train.txt", "".join(f"data/obj_train_data/{k}.jpg\n" for k in range(10)))


def roboflow_yolo_of_one_split(folder):
    yolo(folder, "train/images", "train/labels", range(10))
    paths = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    write(folder / "data.yaml", f"{paths}nc: 2\nnames:\n- dog\n- cat\n")


def labelimg_voc(folder):
    voc(folder, ".", ".", range(10))


def voc_without_lists(folder):
    voc(folder, "JPEGImages", "Annotations", range(10))


def cvat_voc(folder):
    voc_without_lists(folder)
    write(folder / "ImageSets/Main/default.txt", "".join(f"{k}\n" for k in range(10)))
    write(folder / "ImageSets/Main/cat_default.txt", "".join(f"{k} {k % 2}\n" for k in range(10)))
    write(folder / "labelmap.txt", "# label:color_rgb:parts:actions\ncat:1,2,3::\ndog:4,5,6::\n")


def cvat_coco(folder):
    coco(folder, "images", "annotations/instances_default.json", range(10))


def coco_of_one_file(folder):
    coco(folder, "images", "result.json", range(10), "images/")


WHOLE = {
    "yolo": [labelimg_yolo, label_studio_yolo, cvat_yolo, roboflow_yolo_of_one_split],
    "voc": [labelimg_voc, voc_without_lists, cvat_voc],
    "coco": [cvat_coco, coco_of_one_file],
}


@pytest.mark.parametrize(("kind", "make"), [(kind, make) for kind, many in WHOLE.items() for make in many])
def test_without_splits_a_fixed_fifth_is_held_out(kind, make, tmp_path, caplog, capsys):
    make(tmp_path)
    found = read(kind, tmp_path)
    train, test = (numbers_of(found.splits[name]) for name in ("train", "test"))
    assert len(test) == 2 and sorted(train + test) == list(range(10))
    assert found.note == f"2 images of {tmp_path} held out for the test" and not caplog.records
    assert capsys.readouterr().err == f"{found.note}: a random fifth, the same each time\n"
    assert found.validation == "test"
    again = read(kind, tmp_path)
    assert numbers_of(again.splits["test"]) == test
    everything = read(kind, tmp_path, split="train").splits
    assert numbers_of(everything["train"]) == numbers_of(everything["test"]) == list(range(10))


def test_what_was_lost_is_said_once_and_last(tmp_path, capsys, caplog):
    labelimg_yolo(tmp_path)
    write(tmp_path / "0.txt", "0 .1 .1\n9 .1 .1 .1 .1\n")
    write(tmp_path / "1.txt", "1 .15 .35 .25 .5\n1 .5 .5 0 0\n")
    found = read("yolo", tmp_path)
    # Ten objects, of which one's row was replaced by two, and one was added.
    lost = "left out 3 of 12 objects (not a box: 1, unknown class: 1, no inside: 1) and 1 of 10 images (no object left: 1)"
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"warning: {lost}" and second.startswith("2 images of ")
    assert found.note.endswith(f"; 4 mistakes in the annotations: {lost}")
    assert len(caplog.records) == 1 and lost not in caplog.text
    paths = [one.path for split in found.splits.values() for one in split.images]
    assert "0.jpg" not in paths and len(paths) == 9


def test_too_few_shapes_for_anchors_name_what_was_lost(tmp_path, launch):
    labelimg_yolo(tmp_path)
    write(tmp_path / "0.txt", "0 .1 .1\n")
    flags = ("--experiment=scenes_grid", "--detection.form=anchors", "--detection.num_anchors=3")
    result = launch(
        *flags, f"--data.name=yolo:{tmp_path}", "--data.image_size=32", f"--workdir={tmp_path / 'run'}"
    )
    last = result.err.splitlines()[-1]
    assert result.code == 1 and last.startswith("error: detection.num_anchors=3: 3 anchors need 3 different")
    assert last.endswith("left out 1 of 10 objects (not a box: 1) and 1 of 10 images (no object left: 1)")


def test_names_of_splits():
    names = ("Train", "training", "trainval", "val2017", "VALID", "dev", "test-2007", "Testing")
    assert [role(name) for name in names] == ["train"] * 3 + ["val"] * 3 + ["test"] * 2
    assert [role(name) for name in ("trained", "images", "", "2017", "invalid")] == [""] * 5


def test_a_polygon_over_several_rings_and_its_area(tmp_path):
    coco_of_one_file(tmp_path)
    path = tmp_path / "result.json"
    about = json.loads(path.read_text())
    rings = [[3, 2, 8, 2.5, 5, 9], [20, 4, 30.5, 4, 22, 1]]
    about["annotations"][0] = {
        "id": 0,
        "image_id": "0",
        "category_id": 1.0,
        "segmentation": rings,
        "area": 44,
    }
    path.write_text(json.dumps(about))
    (first,) = (
        i for i in read("coco", tmp_path, split="train").splits["train"].images if i.path.endswith("/0.jpg")
    )
    points = np.array(rings).reshape(-1, 2)
    assert_allclose(first.truth.boxes, [[*points.min(0), *points.max(0)]])
    assert_allclose(first.truth.area, [44])
