"""Masks of objects in COCO's json: polygons and run-length codes, from the file to the frame and back."""

import json
import re
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from cnnjax.config import ConfigError, Data, Detection, Experiment, Model
from cnnjax.data.formats import records
from cnnjax.data.formats.coco import read_coco, write_coco
from cnnjax.data.letterbox import framed, truths_in_originals
from cnnjax.data.sources import SOURCES, load
from cnnjax.detection.rle import checked_rle, mask_to_rle, rle_to_mask
from cnnjax.tasks import make_task

HEIGHT, WIDTH = 40, 60
SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]
TRIANGLE = [40.5, 10.2, 55.1, 30.9, 38.3, 29.4]


def entry(segmentation, **changes):
    box = {"bbox": [10, 5, 20, 20], "segmentation": segmentation}
    return {"id": 1, "image_id": 1, "category_id": 1} | box | changes


def coco_file(folder, *entries):
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": list(entries),
    }
    path = folder / "annotations" / "instances_train.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree))
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(folder / "images" / "a.png")
    return path


def disk():
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - 20) ** 2 + (columns - 33) ** 2 < 150


def uncompressed(mask):
    """By hand: down the columns, zeros first."""
    flat = mask.ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": runs if flat[0] == 0 else [0, *runs]}


def compressed(mask):
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def pixels(reference, annotation):
    with warnings.catch_warnings():  # pycocotools 2.0.11 hands NumPy 2 its arrays in an old way
        warnings.simplefilter("ignore", DeprecationWarning)
        return reference.annToMask(annotation)


def test_masks_are_those_of_pycocotools(tmp_path):
    entries = [
        entry([SQUARE]),
        entry([SQUARE, TRIANGLE], id=2),
        entry(compressed(disk()), id=3),
        entry(uncompressed(disk()), id=4, iscrowd=1),
    ]
    path = coco_file(tmp_path, *entries)
    read = read_coco(path, tmp_path / "images", masks=True)
    assert read.problems == ()
    truth, reference = read.truths[0], COCO(str(path))
    for mask, number in zip(truth.masks, (1, 2, 3, 4), strict=True):
        assert_array_equal(rle_to_mask(mask), pixels(reference, reference.anns[number]))
    assert truth.area.tolist() == [rle_to_mask(mask).sum() for mask in truth.masks]  # the file gives none
    write_coco(read, tmp_path / "again.json")
    again = read_coco(tmp_path / "again.json", tmp_path, masks=True).truths[0]
    assert again.masks == truth.masks and again.crowd.tolist() == [False, False, False, True]
    assert read_coco(path, tmp_path).truths[0].masks is None


@pytest.mark.parametrize("seed", range(5))
def test_codes_with_text_are_read_as_pycocotools_reads_them(seed):
    mask = np.random.default_rng(seed).random((300, 280)) < [0.5, 0.01, 0.99, 0.0, 1.0][seed]
    assert_array_equal(rle_to_mask(checked_rle(compressed(mask), 300, 280)), mask)
    long = np.zeros((300, 280), bool)
    long[:, 140:200] = True  # runs of many thousands, and differences below 0
    long[7, 3] = True
    assert_array_equal(rle_to_mask(checked_rle(compressed(long), 300, 280)), long)


@pytest.mark.parametrize(
    ("segmentation", "text", "why"),
    [
        ([[1, 1, 5, 5]], "1 of 1 polygons have fewer than three corners", "no mask"),
        ([[1, 1, 5, 5, 9]], "1 of 1 polygons have fewer than three corners", "no mask"),
        ([[1, 1, 5, 5, 9, "x"]], "or no numbers", "no mask"),
        ([], "segmentation holds no polygon", "no mask"),
        (None, "no segmentation", "no mask"),
        ([[200, 5, 220, 5, 220, 25]], "reach far out of the image", "no mask"),
        ([[1e9, 5, 2e9, 5, 0, 25]], "reach far out of the image", "no mask"),
        ([[61, 5, 75, 5, 70, 25]], "no pixel in the image of 60x40", "empty mask"),
        (compressed(np.zeros((HEIGHT, WIDTH), bool)), "no pixel in the image of 60x40", "empty mask"),
        (compressed(np.ones((9, 8), bool)), r"a mask of the size \[9, 8\] .* an image of 60x40", "no mask"),
        ({"size": [HEIGHT, WIDTH], "counts": [7, 9]}, "run-length code of 16 pixels for an image of 60x40", "no mask"),
        ({"size": [HEIGHT, WIDTH], "counts": [-7, 2407]}, "counts are no numbers from 0", "no mask"),
        ({"size": [HEIGHT, WIDTH], "counts": "\u00e9"}, "no text of COCO's", "no mask"),
        ({"size": [HEIGHT, WIDTH], "counts": "P"}, "counts end too early", "no mask"),
        ({"counts": [1]}, "a mask of the size None", "no mask"),
        ("x", "neither polygons nor a run-length code", "no mask"),
    ],
)  # fmt: skip
def test_masks_that_cannot_be_used_are_told_and_their_objects_left_out(tmp_path, segmentation, text, why):
    path = coco_file(tmp_path, entry([SQUARE]), entry(segmentation))
    read = read_coco(path, tmp_path, masks=True)
    (problem,) = read.problems
    assert len(read.truths[0].boxes) == len(read.truths[0].masks) == 1
    assert problem.place == "annotations[1]" and (problem.lost, problem.why) == ("object", why)
    assert re.search(text, problem.text), problem.text
    assert read_coco(path, tmp_path).problems == ()  # who wants boxes is not told of masks


def test_a_part_that_cannot_be_used_is_left_out_alone(tmp_path):
    read = read_coco(coco_file(tmp_path, entry([SQUARE, [1, 2, 3, 4]])), tmp_path, masks=True)
    (problem,) = read.problems
    assert "1 of 2 polygons" in problem.text and not problem.lost
    assert rle_to_mask(read.truths[0].masks[0]).sum() == 400


@pytest.mark.parametrize("box", [None, [], [0, 0, 0, 0]])
@pytest.mark.parametrize("code", [compressed, uncompressed])
def test_without_a_box_it_is_that_of_the_code(tmp_path, box, code):
    read = read_coco(coco_file(tmp_path, entry(code(disk()), bbox=box)), tmp_path)
    rows, columns = np.nonzero(disk())
    assert_array_equal(read.truths[0].boxes, [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])


def test_masks_follow_their_image_into_the_frame_and_come_back_whole(tmp_path):
    coco_file(
        tmp_path,
        entry([SQUARE]),
        entry([[40, 2, 40.8, 2, 40.8, 39, 40, 39]], id=2, bbox=[40, 2, 1, 37]),
        entry(uncompressed(disk()), id=3, iscrowd=1),
    )
    data = Data(name=f"coco:{tmp_path}", image_size=30, split="train", masks=True)
    loaded = load(data)
    assert loaded.note == "crowd regions, which are not learned: 1"
    train = loaded.train
    # 60x40 becomes 30x20, with 5 rows of grey above and below.
    assert train["masks"].dtype == bool and train["masks"].shape == (1, 3, 30, 30)
    x1, y1, x2, y2 = (10 / 2, 5 / 2 + 5, 30 / 2, 25 / 2 + 5)
    inside = np.argwhere(train["masks"][0, 0])
    assert np.all(np.abs(inside.min(0) - [y1, x1]) <= 0.5)
    assert np.all(np.abs(inside.max(0) + 1 - [y2, x2]) <= 0.5)
    assert train["masks"][0, 1].any() and np.flatnonzero(train["masks"][0, 1].any(0)).tolist() == [20]
    assert not train["masks"][0, 2].any() and train["ignored"][0, 2]  # a crowd is not learned
    (truth,) = truths_in_originals(train, (30, 30))
    original = read_coco(tmp_path / "annotations" / "instances_train.json", tmp_path, masks=True).truths[0]
    assert truth.masks == original.masks and truth.crowd.tolist() == [False, False, True]


def test_prepared_sets_keep_masks(tmp_path):
    coco_file(tmp_path, entry([SQUARE]))
    data = Data(name=f"coco:{tmp_path}", image_size=30, split="train", masks=True)
    with SOURCES["coco"].files(data, tmp_path) as raw:
        records.write(tmp_path / "records", raw.classes, raw.splits, raw.note, raw.validation)
    again = load(Data(name=f"records:{tmp_path / 'records'}", image_size=30)).train
    for name, values in load(data).train.items():
        assert_array_equal(again[name], values, err_msg=name)


def test_masks_are_judged_in_pixels_of_their_images():
    """Who knows the masks at full size has them all right, though the frame shows a tenth of them."""
    rows, columns = np.mgrid[:400, :600]
    code = mask_to_rle((rows - 200) ** 2 + (columns - 300) ** 2 < 140**2)
    runs = np.frombuffer(code["counts"].encode(), np.uint8)[None, None]
    targets = {
        "boxes": np.array([[[160.0, 60, 440, 340]]]),
        "classes": np.zeros((1, 1), np.int32),
        "valid": np.ones((1, 1), bool),
        "ignored": np.zeros((1, 1), bool),
        "area": np.full((1, 1), 61575.0),
        "size": np.array([[400, 600]], np.int32),
        "runs": runs,
    }
    split = framed(targets, (64, 64))
    disk = (np.mgrid[:28, :28] - 13.5) ** 2
    found = {
        "boxes": split["boxes"],
        "scores": np.ones((1, 1)),
        "classes": np.zeros((1, 1), int),
        "counts": np.ones(1, int),
        "masks": 1 / (1 + np.exp(np.sqrt(disk.sum(0)) - 14))[None, None],
    }
    experiment = Experiment(
        task="two_stage",
        data=Data(resize="letterbox", mean=(0.5,), std=(0.5,)),
        model=Model(name="maskrcnn_small"),
        detection=Detection(),
    )
    task = make_task(experiment, ("thing",), (64, 64, 3))
    assert task.judge(found, split).metrics["mask_ap75"] == pytest.approx(1)
    (truth,), (said,) = task._with_masks(found, split)
    assert rle_to_mask(said.masks[0]).shape == (400, 600) and truth.masks == [code]
    both = rle_to_mask(said.masks[0]) & rle_to_mask(code)
    either = rle_to_mask(said.masks[0]) | rle_to_mask(code)
    assert both.sum() / either.sum() > 0.97


def test_masks_of_other_formats_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="data.masks: 'voc:.*' has no masks; coco:PATH has"):
        load(Data(name=f"voc:{_voc(tmp_path)}", image_size=32, masks=True))


def _voc(folder):
    from cnnjax.data.formats.annotations import AnnotatedImage, Annotations
    from cnnjax.data.formats.voc import write_voc
    from cnnjax.detection.results import Truth

    (folder / "JPEGImages").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "JPEGImages" / "i.png")
    truth = Truth(np.array([[1, 2, 3, 4.0]]), [0])
    write_voc(Annotations(folder, ("x",), (AnnotatedImage("i.png", 9, 9, truth),)), folder, "train")
    return folder


def test_real_polygons_are_those_of_pycocotools(shared):
    folder = shared("data/coco128")
    path = folder / "annotations/instances_val2017.json"
    read = read_coco(path, folder, masks=True)
    assert read.problems == ()
    reference = COCO(str(path))
    for image, number in list(zip(read.images, reference.getImgIds(), strict=True))[:20]:
        wanted = reference.loadAnns(reference.getAnnIds(number))
        for mask, one in zip(image.truth.masks, wanted, strict=True):
            assert_array_equal(rle_to_mask(mask), pixels(reference, one))
