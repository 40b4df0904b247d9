"""The losses of grid detectors, written once more from the papers: numpy, float64, one cell after the other.

They begin at the boxes of an image, not at the project's targets, so that which cell, anchor and predictor answers
for an object is compared too.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from cnnjax.detection.anchors import AnchorLoss
from cnnjax.detection.grid import Grid, encode
from cnnjax.detection.grid_losses import yolov1_loss

ROWS, COLUMNS, HEIGHT, WIDTH, CLASSES = 3, 4, 60, 100, 3
CELL_WIDTH, CELL_HEIGHT = 25.0, 20.0
ANCHORS = ((12.0, 10.0), (22.0, 40.0), (50.0, 24.0))


def scenes(seed):
    """Boxes [4, 5, 4], classes and valid [4, 5] of four images with 5, 3, 1 and no objects; the last of the first
    lies on its fourth."""
    rng = np.random.default_rng(seed)
    sizes = rng.uniform([6, 5], [70, 50], (4, 5, 2))
    low = rng.uniform(0, 1, (4, 5, 2)) * (np.array([WIDTH, HEIGHT]) - sizes)
    boxes = np.concatenate([low, low + sizes], axis=-1)
    boxes[0, 4] = boxes[0, 3]
    classes = rng.integers(0, CLASSES, (4, 5))
    valid = np.arange(5)[None] < np.array([5, 3, 1, 0])[:, None]
    return boxes.astype(np.float32), classes, valid


def corners(x, y, w, h):
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def complete_iou(a, b):
    """Zheng et al. 2020, equations 10 and 11: 1 - loss."""
    iou = overlap(a, b)
    centres = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    return iou - centres / hull - v * v / (1 - iou + v)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def cross_entropy(logit, wanted):
    p = sigmoid(logit)
    return -math.log(p) if wanted else -math.log(1 - p)


def focal(logit, wanted, gamma, alpha):
    """Lin et al. 2017, equation 5."""
    p = sigmoid(logit)
    p, weight = (p, alpha) if wanted else (1 - p, 1 - alpha)
    return -weight * (1 - p) ** gamma * math.log(p)


def place(box):
    """Row and column of the cell in which the centre lies."""
    return int((box[1] + box[3]) / 2 // CELL_HEIGHT), int((box[0] + box[2]) / 2 // CELL_WIDTH)


def best_anchor(box):
    width, height = box[2] - box[0], box[3] - box[1]
    shapes = [overlap(corners(0, 0, width, height), corners(0, 0, *anchor)) for anchor in ANCHORS]
    return shapes.index(max(shapes))


def anchor_loss(outputs, objects, loss):
    """Of one image: outputs [rows, columns, 3 (5 + C)], objects a list of (box, class)."""
    owner = {}
    for box, label in objects:
        owner.setdefault((*place(box), best_anchor(box)), (box, label))  # of two in one place the first
    total = 0.0
    for row, column, k in np.ndindex(ROWS, COLUMNS, len(ANCHORS)):
        p, tx, ty, tw, th, *labels = outputs[row, column, 8 * k : 8 * k + 8]
        x, y = (column + sigmoid(tx)) * CELL_WIDTH, (row + sigmoid(ty)) * CELL_HEIGHT
        found = corners(x, y, math.exp(tw) * ANCHORS[k][0], math.exp(th) * ANCHORS[k][1])
        mine = owner.get((row, column, k))
        best = max((overlap(found, box) for box, _ in objects), default=0.0)
        if mine or best <= loss.ignore_iou:
            total += loss.presence * (
                focal(p, bool(mine), loss.focal_gamma, loss.focal_alpha)
                if loss.focal_gamma
                else cross_entropy(p, bool(mine))
            )
        if mine:
            total += loss.box * (1 - complete_iou(found, mine[0]))
            total += loss.classes * sum(cross_entropy(t, i == mine[1]) for i, t in enumerate(labels))
    return total


def yolov1(outputs, objects):
    """Equation 3 of Redmon et al. 2016 for one image: outputs [rows, columns, 2 * 5 + C] and (box, class)."""
    owner = {}
    for box, label in objects:
        owner.setdefault(place(box), (box, label))
    total = 0.0
    for row, column in np.ndindex(ROWS, COLUMNS):
        cell = outputs[row, column]
        predicted = [cell[:5], cell[5:10]]
        if (row, column) not in owner:
            total += sum(0.5 * confidence**2 for confidence, *_ in predicted)
            continue
        box, label = owner[row, column]
        x = (box[0] + box[2]) / 2 / CELL_WIDTH - column
        y = (box[1] + box[3]) / 2 / CELL_HEIGHT - row
        w, h = (box[2] - box[0]) / WIDTH, (box[3] - box[1]) / HEIGHT
        found = [
            corners((column + px) * CELL_WIDTH, (row + py) * CELL_HEIGHT, pw**2 * WIDTH, ph**2 * HEIGHT)
            for _, px, py, pw, ph in predicted
        ]
        ious = [overlap(one, box) for one in found]
        if max(ious) > 0:
            responsible = ious.index(max(ious))
        else:
            apart = [sum((a - b) ** 2 for a, b in zip(one, box, strict=True)) for one in found]
            responsible = apart.index(min(apart))
        for j, (confidence, px, py, pw, ph) in enumerate(predicted):
            if j != responsible:
                total += 0.5 * confidence**2
                continue
            total += 5 * ((px - x) ** 2 + (py - y) ** 2)
            total += 5 * ((pw - math.sqrt(w)) ** 2 + (ph - math.sqrt(h)) ** 2)
            total += (confidence - ious[j]) ** 2
        total += sum((value - (i == label)) ** 2 for i, value in enumerate(cell[10:]))
    return total


def losses_of(loss, grid, outputs, boxes, classes, valid):
    def compute(outputs, boxes, classes, valid):
        return loss(grid, outputs, encode(grid, boxes, classes, valid))

    return jax.jit(compute)(*map(jnp.asarray, (outputs, boxes, classes, valid)))


def objects_of(boxes, classes, valid, n):
    return [(boxes[n, i].astype(np.float64), int(classes[n, i])) for i in np.flatnonzero(valid[n])]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "loss",
    [
        AnchorLoss(),
        AnchorLoss(box=2.0, presence=3.0, classes=0.5, ignore_iou=0.3),
        AnchorLoss(focal_gamma=2.0, focal_alpha=0.3, ignore_iou=0.5),
    ],
)
def test_anchor_loss(loss, seed):
    boxes, classes, valid = scenes(seed)
    grid = Grid(ROWS, COLUMNS, HEIGHT, WIDTH, CLASSES, anchors=ANCHORS)
    outputs = np.random.default_rng(seed + 10).normal(0, 1, (4, ROWS, COLUMNS, 24)).astype(np.float32)
    expected = [
        anchor_loss(outputs[n].astype(np.float64), objects_of(boxes, classes, valid, n), loss)
        for n in range(4)
    ]
    assert_allclose(losses_of(loss, grid, outputs, boxes, classes, valid), expected, rtol=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_yolov1_loss(seed):
    boxes, classes, valid = scenes(seed)
    grid = Grid(ROWS, COLUMNS, HEIGHT, WIDTH, CLASSES, boxes=2)
    outputs = np.random.default_rng(seed + 10).normal(0.4, 0.3, (4, ROWS, COLUMNS, 13)).astype(np.float32)
    outputs[1, ..., [3, 4, 8, 9]] *= 0.02  # specks, most of which overlap no object
    expected = [yolov1(outputs[n].astype(np.float64), objects_of(boxes, classes, valid, n)) for n in range(4)]
    assert_allclose(losses_of(yolov1_loss, grid, outputs, boxes, classes, valid), expected, rtol=2e-5)


def test_the_scenes_hold_what_the_losses_distinguish():
    """Places taken twice, anchors of every kind, and free anchors above and below the threshold of ignoring."""
    anchors, taken = set(), 0
    for seed in range(3):
        boxes, classes, valid = scenes(seed)
        for n in range(4):
            places = [(*place(box), best_anchor(box)) for box, _ in objects_of(boxes, classes, valid, n)]
            taken += len(places) - len(set(places))
            anchors |= {k for *_, k in places}
    assert anchors == {0, 1, 2} and taken >= 3
