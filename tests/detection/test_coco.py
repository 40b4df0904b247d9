import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnnjax.detection.judge.coco import coco_evaluate, coco_evaluate_files
from cnnjax.detection.judge.voc import voc_evaluate
from cnnjax.detection.results import Detections, Truth
from cnnjax.detection.rle import mask_to_rle, polygons_to_mask, rle_to_mask

# pycocotools 2.0.11 and faster-coco-eval 1.8.0 on the files of cocoapi.
TABLES = {
    "bbox": [.5045806987, .6969727247, .5729816670, .5856257209, .5193996948, .5013978986,
             .3868127796, .5936795763, .5953529829, .6398109626, .5664205979, .5642905983],
    "segm": [.3195452759, .5622883973, .2989265341, .3873740316, .3101827240, .3269339071,
             .2682297226, .4154486811, .4168394992, .4694498622, .3767592267, .3814715100],
}  # fmt: skip
BOX = np.array([10.0, 10, 50, 50])
FAR = BOX + 100


def files(shared, kind):
    truth = json.loads(shared("fixtures/instances_val2014_100.json").read_text())
    results = json.loads(shared(f"fixtures/instances_val2014_fake{kind}100_results.json").read_text())
    return truth, results


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_coco_table_from_files(shared, kind):
    result = coco_evaluate_files(*files(shared, kind), kind)
    assert_allclose(list(result.table().values()), TABLES[kind], atol=1e-9)
    assert_allclose(np.nanmean(result.class_ap), result.ap, atol=1e-12)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_coco_table_from_arrays(shared, kind):
    data, results = files(shared, kind)
    classes = {c: i for i, c in enumerate(sorted(c["id"] for c in data["categories"]))}
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}

    def mask(row, size):
        outline = row["segmentation"]
        return mask_to_rle(polygons_to_mask(outline, *size)) if isinstance(outline, list) else outline

    def gather(rows, image):
        rows = [r for r in rows if r["image_id"] == image]
        boxes = np.array([r.get("bbox", [0, 0, 1, 1]) for r in rows], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [mask(r, sizes[image]) for r in rows] if kind == "segm" else None
        return rows, boxes, [classes[r["category_id"]] for r in rows], masks

    truths, detections = [], []
    for image in sorted(sizes):
        rows, boxes, labels, masks = gather(data["annotations"], image)
        crowd, area = [r["iscrowd"] for r in rows], [r["area"] for r in rows]
        compressed = masks and [mask_to_rle(rle_to_mask(m)) for m in masks]
        truths.append(Truth(boxes, labels, crowd=crowd, area=area, masks=compressed))
        rows, boxes, labels, masks = gather(results, image)
        detections.append(Detections(boxes, [r["score"] for r in rows], labels, masks))
    result = coco_evaluate(truths, detections, len(classes), kind=kind)
    assert_allclose(list(result.table().values()), TABLES[kind], atol=1e-6)
    assert result.precision.shape == (10, 101, 80)


def test_masks_are_compared_where_boxes_are_the_same():
    """Half of the object's pixels, in its box: an IoU of 1 for the box, of 1/2 for the mask."""
    whole, half = np.zeros((2, 20, 20), bool)
    whole[5:15, 5:15], half[5:15, 5:10] = True, True
    box = np.array([[5.0, 5, 15, 15]])
    truth = Truth(box, [0], area=[100], masks=[mask_to_rle(whole)])
    said = Detections(box, [0.9], [0], [mask_to_rle(half)])
    assert_allclose(coco_evaluate([truth], [said], 1).ap, 1)
    assert_allclose(coco_evaluate([truth], [said], 1, kind="segm").ap, 0.1)  # at 0.5 alone
    assert said.of_class(0).masks == said.masks and said.of_class(1).masks == []
    with pytest.raises(ValueError, match="masks are to be judged, but there are none"):
        coco_evaluate([Truth(box, [0])], [said], 1, kind="segm")
    with pytest.raises(ValueError, match="1 boxes but 0 masks"):
        Truth(box, [0], masks=[])


def evaluate(truth, pairs, **kwargs):
    boxes, scores = np.array([b for b, _ in pairs]).reshape(-1, 4), [s for _, s in pairs]
    return coco_evaluate([truth], [Detections(boxes, scores, [0] * len(scores))], 1, **kwargs)


def as_pycocotools(truth, pairs, first_id=1, limits=(1, 10, 100)):
    """AP and AP50 by pycocotools as it is, of boxes with ids from `first_id`."""

    def entries(boxes, more):
        return [
            {"id": first_id + i, "image_id": 1, "category_id": 1, "bbox": [*b[:2], *(b[2:] - b[:2])]}
            | {"area": float(np.prod(b[2:] - b[:2])), "iscrowd": 0}
            | more(i)
            for i, b in enumerate(boxes)
        ]

    def index(rows):
        data = COCO()
        data.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": rows}
        data.createIndex()
        return data

    real = index(entries(truth.boxes, lambda i: {"iscrowd": int(truth.crowd[i])}))
    found = index(entries([b for b, _ in pairs], lambda i: {"score": pairs[i][1]}))
    judge = COCOeval(real, found, "bbox")
    judge.params.maxDets = list(limits)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[:2]


def test_traps_of_pycocotools_and_that_they_are_none_here():
    two = Truth(np.stack([BOX, FAR]), [0, 0])
    perfect = [(BOX, 0.9), (FAR, 0.8)]
    assert_allclose(as_pycocotools(two, perfect)[0], 1)
    # An object of id 0 counts as unmatched.
    assert_allclose(as_pycocotools(two, perfect, first_id=0)[0], 0.252475, atol=1e-6)
    assert_allclose(evaluate(two, perfect).ap, 1)
    # Other limits of detections make the mean undefined, though not the value at one IoU.
    assert as_pycocotools(two, perfect, limits=(1, 10, 50))[0] == -1
    result = evaluate(two, perfect, max_detections=50)
    assert_allclose([result.ap, result.ap50], 1)


def test_a_detection_inside_a_region_counts_unless_it_is_a_crowd():
    region = np.array([BOX, [200.0, 200, 400, 400]])
    pairs = [(BOX, 0.5), (np.array([250.0, 250, 300, 300]), 0.9)]
    assert_allclose(evaluate(Truth(region, [0, 0], crowd=[False, True]), pairs).ap, 1)
    assert_allclose(evaluate(Truth(region, [0, 0]), pairs).ap, 0.252475, atol=1e-6)


def test_two_of_three_objects_found():
    truth = Truth(np.array([BOX, FAR, FAR + 100]), [0, 0, 0])
    assert_allclose(evaluate(truth, [(BOX, 0.9), (FAR, 0.8)]).ap, 67 / 101)


def test_perfect_detections_are_perfect_whatever_the_first_id():
    boxes = np.stack([BOX, FAR, FAR + 100, FAR + 200])
    result = coco_evaluate([Truth(boxes, [0] * 4)], [Detections(boxes, [0.9, 0.8, 0.7, 0.6], [0] * 4)], 1)
    assert_allclose(result.ap, 1)
    rows = [
        {
            "id": i,
            "image_id": 0,
            "category_id": 0,
            "bbox": [*b[:2], *(b[2:] - b[:2])],
            "area": 1600,
            "iscrowd": 0,
        }
        for i, b in enumerate(boxes)
    ]
    results = [{**row, "score": 0.9 - i / 10} for i, row in enumerate(rows)]
    data = {"images": [{"id": 0}], "categories": [{"id": 0, "name": "thing"}], "annotations": rows}
    assert_allclose(coco_evaluate_files(data, results).ap, 1)
    assert coco_evaluate_files(data, []).ap == 0


@pytest.mark.parametrize("how", ["crowd", "difficult"])
def test_detections_inside_an_ignored_region_are_ignored(how):
    boxes = np.array([BOX, [200.0, 200, 400, 400]])
    inside = [((boxes[1] + [i, 0, i, 0]), 0.95 - i / 100) for i in range(3)]
    result = evaluate(Truth(boxes, [0, 0], **{how: [False, True]}), [(BOX, 0.5), *inside])
    # The crowd rule divides by the detection's area: all three lie almost inside.
    assert_allclose(result.ap50, 1)
    assert evaluate(Truth(boxes, [0, 0]), [(BOX, 0.5), *inside]).ap50 < 0.9


def test_one_higher_false_positive_halves_precision():
    assert_allclose(evaluate(Truth(BOX, [0]), [(FAR, 0.9), (BOX, 0.8)]).ap, 0.5)


def test_another_limit_of_detections_is_not_minus_one():
    assert_allclose(evaluate(Truth(BOX, [0]), [(BOX, 0.9)], max_detections=50).ap, 1)


def test_undefined_is_nan_and_nothing_found_is_zero():
    result = coco_evaluate([Truth(BOX, [1])], [Detections(np.zeros((0, 4)), [], [])], 2)
    assert result.ap == 0 and np.isnan(result.class_ap[0]) and result.class_ap[1] == 0
    assert np.isnan(result.ap_small) and result.ap_medium == 0
    assert np.isnan(
        coco_evaluate([Truth(np.zeros((0, 4)), [])], [Detections(np.zeros((0, 4)), [], [])], 2).ap
    )


def test_coco_takes_a_free_object_where_voc_does_not():
    near = BOX + [4, 0, 4, 0]
    truth = Truth(np.array([BOX, near]), [0, 0])
    said = Detections(np.array([BOX, BOX + [1, 0, 1, 0]]), [0.9, 0.8], [0, 0])
    assert_allclose(coco_evaluate([truth], [said], 1).ap50, 1)
    assert_allclose(voc_evaluate([truth], [said], 1).mean, 0.5)
