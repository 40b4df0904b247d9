"""Assignment and losses against darknet's C program, plain loops and hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.detection.multiscale import Head, Objects, Scales, assign, candidates, decode
from cnnjax.detection.multiscale_losses import DarknetLoss, OverlapLoss
from cnnjax.models.darknet import COCO_ANCHORS, TINY_ANCHORS, heads_of

TINY = Scales(TINY_ANCHORS, heads_of(6, 2), 80)
FRAME = (96, 96)
TRUTHS = [
    (0.5, 0.5, 0.8, 0.7, 16),
    (0.30, 0.72, 0.12, 0.16, 2),
    (0.6153, 0.4594, 0.1208, 0.0803, 7),
    (0.31, 0.71, 0.11, 0.15, 5),
]


def objects_of(rows, frame=FRAME, room=0):
    """Objects of one image, as (cx, cy, w, h, class) in shares of it."""
    rows = np.array(rows, np.float64).reshape(-1, 5)
    size = np.array([frame[1], frame[0]])
    low, high = (rows[:, :2] - rows[:, 2:4] / 2) * size, (rows[:, :2] + rows[:, 2:4] / 2) * size
    count = max(room, len(rows))
    boxes, classes = np.zeros((1, count, 4), np.float32), np.zeros((1, count), np.int32)
    boxes[0, : len(rows)] = np.concatenate([low, high], 1)
    classes[0, : len(rows)] = rows[:, 4]
    return Objects(jnp.asarray(boxes), jnp.asarray(classes), jnp.arange(count)[None] < len(rows))


@pytest.fixture(scope="module")
def maps():
    r = np.random.RandomState(2)
    raw = [r.standard_normal((255, 3, 3)), r.standard_normal((255, 6, 6))]
    return [jnp.asarray(x.transpose(1, 2, 0)[None], jnp.float32) for x in raw]


def assigned_to(scales, shapes, objects, frame, also_above=1.0):
    return jax.jit(lambda objects: assign(scales, shapes, objects, frame, also_above))(objects)


def gradients(loss, scales, maps, objects, frame):
    def total(maps):
        parts, _ = loss(scales, maps, objects, frame)
        return sum(jnp.sum(part) for part in parts.values())

    return jax.jit(jax.grad(total))(maps)


def test_gradient_is_darknets_delta(shared, maps):
    """[A, 85, rows, columns] of darknet's delta is minus the gradient with respect to the raw outputs."""
    with np.load(shared("fixtures/yolo_fixture.npz")) as file:
        wanted = [file["loss_delta16"], file["loss_delta23"]]
    found = gradients(DarknetLoss(), TINY, maps, objects_of(TRUTHS, room=7), FRAME)
    for gradient, delta in zip(found, wanted, strict=True):
        np.testing.assert_allclose(-np.asarray(gradient[0]).transpose(2, 0, 1), delta, rtol=1e-4, atol=1e-5)


def test_single_numbers_of_darknets_delta(maps):
    coarse, fine = (
        -np.asarray(g[0], np.float64) for g in gradients(DarknetLoss(), TINY, maps, objects_of(TRUTHS), FRAME)
    )
    np.testing.assert_allclose([(coarse**2).sum(), (fine**2).sum()], [40.879955, 85.123646], rtol=1e-6)
    coarse, fine = coarse.reshape(3, 3, 3, 85), fine.reshape(6, 6, 3, 85)
    here = [0.5145811, 0.3651893, -0.4461335, -3.499795, 0.5777413]
    np.testing.assert_allclose(coarse[1, 1, 0, :5], here, rtol=1e-5)
    for head, positives in ((coarse, {(1, 1, 0)}), (fine, {(2, 3, 0), (4, 1, 0)})):
        places = np.argwhere(head[..., :4].any(-1))
        assert {tuple(place) for place in places.tolist()} == positives
    assert fine[2, 3, 0, 5 + 7] > 0 and np.all(np.delete(fine[2, 3, 0, 5:], 7) < 0)
    assert fine[4, 1, 0, 5 + 2] > 0 and fine[4, 1, 0, 5 + 5] > 0
    assert np.argwhere(fine[..., 4] == 0).tolist() == [[2, 3, 1]]  # the only one that is ignored
    assert not np.any(coarse[..., 4] == 0)


def test_the_head_with_the_best_shape_owns_an_object():
    scales = Scales(COCO_ANCHORS, heads_of(9, 3), 80)
    shapes = [(13, 13), (26, 26), (52, 52)]
    # The shapes of anchors 7, 4 and 0; the last is smaller than a thousandth of the image.
    sizes = [(156, 198), (62, 45), (10, 13), (0.3, 50)]
    rows = [(0.5, 0.4, w / 416, h / 416, i) for i, (w, h) in enumerate(sizes)]
    assigned, lost = assigned_to(scales, shapes, objects_of(rows, (416, 416)), (416, 416))
    for i, (head, (number, _)) in enumerate(zip(assigned, shapes, strict=True)):
        row, column, slot = int(0.4 * number), number // 2, (1, 1, 0)[i]
        assert np.argwhere(head.positive[0]).tolist() == [[row, column, slot]]
        assert int(head.owner[0, row, column, slot]) == i
        assert np.flatnonzero(head.classes[0, row, column, slot]).tolist() == [i]
    assert lost.tolist() == [0]


def test_collisions_are_counted_and_the_last_object_stays():
    assigned, lost = assigned_to(TINY, [(3, 3), (6, 6)], objects_of(TRUTHS, room=6), FRAME)
    assert lost.tolist() == [1]
    assert int(assigned[1].owner[0, 4, 1, 0]) == 3
    assert np.flatnonzero(assigned[1].classes[0, 4, 1, 0]).tolist() == [2, 5]


def test_several_priors_for_an_object():
    """By plain loops: the best one, and each with a shape that overlaps by more than 0.3."""
    rows = [(0.5, 0.5, 0.5, 0.55, 1)]
    assigned, _ = assigned_to(TINY, [(3, 3), (6, 6)], objects_of(rows), FRAME, also_above=0.3)
    width, height = 48, 52.8
    overlap = [
        min(width, w) * min(height, h) / (width * height + w * h - min(width, w) * min(height, h))
        for w, h in TINY_ANCHORS
    ]
    wanted = {i for i in range(6) if overlap[i] > 0.3} | {int(np.argmax(overlap))}
    found = {3 + slot for *_, slot in np.argwhere(assigned[0].positive[0])}
    found |= {slot for *_, slot in np.argwhere(assigned[1].positive[0])}
    assert found == wanted and len(wanted) > 1


def test_decoding_of_the_paper():
    """t = (.2, -.3, .1, -.2) in cell (5, 7) of stride 32 with the prior 116x90."""
    scales = Scales(COCO_ANCHORS, heads_of(9, 3), 1)
    maps = [np.zeros((1, n, n, 18), np.float32) for n in (13, 26, 52)]
    maps[0][0, 7, 5, :4] = (0.2, -0.3, 0.1, -0.2)
    box = np.asarray(jax.jit(lambda m: decode(scales, m, (416, 416)))(maps)[0].boxes[0, 7, 5, 0])
    centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    np.testing.assert_allclose([*centre, *size], [177.59469, 237.61784, 128.19983, 73.68577], rtol=1e-6)


@pytest.mark.parametrize(("side", "boxes"), [(320, 6300), (416, 10_647), (608, 22_743)])
def test_number_of_boxes(side, boxes):
    scales = Scales(COCO_ANCHORS, heads_of(9, 3), 80)
    maps = [jax.ShapeDtypeStruct((2, side // s, side // s, 255), jnp.float32) for s in (32, 16, 8)]
    found = jax.eval_shape(lambda *maps: candidates(scales, maps, (side, side)), *maps)
    assert found.boxes.shape == (2, boxes, 4) and found.scores.shape == (2, boxes, 80)


def test_centres_beyond_the_cell_and_the_other_coordinates():
    """scale_x_y 2: from -.5 to 1.5 of the cell; new_coords: probabilities as they are, sizes anchor * (2 t)^2."""
    for new in (False, True):
        scales = Scales(((8, 16),), (Head((0,), 2.0, new),), 1)
        t = np.array([0.25, 0.75, 0.6, 0.4, 0.3, 0.9], np.float32)
        raw = t if new else np.array([*np.log(t[:2] / (1 - t[:2])), 0.2, -0.1, 0, 1], np.float32)
        maps = [jnp.asarray(np.tile(raw, (1, 2, 2, 1)))]
        box = np.asarray(decode(scales, maps, (32, 32))[0].boxes[0, 1, 0, 0])
        centre = np.array([(0 + 2 * 0.25 - 0.5) * 16, (1 + 2 * 0.75 - 0.5) * 16])
        size = np.array([8, 16]) * ((2 * t[2:4]) ** 2 if new else np.exp(raw[2:4]))
        np.testing.assert_allclose(box, np.concatenate([centre - size / 2, centre + size / 2]), rtol=1e-5)
        scores = np.asarray(candidates(scales, maps, (32, 32)).scores)
        wanted = 0.3 * 0.9 if new else 0.5 / (1 + np.exp(-1))
        np.testing.assert_allclose(scores, wanted, rtol=1e-5)


@pytest.mark.parametrize("loss", [DarknetLoss(), OverlapLoss(label_smoothing=0.1)])
@pytest.mark.parametrize("head", [Head((0, 1)), Head((0, 1), 1.2), Head((0, 1), 2.0, True)])
def test_training_the_outputs_alone_finds_the_objects(loss, head):
    """Gradient descent on the maps themselves, for every form of a head: decoding undoes what the loss wants."""
    scales = Scales(((20, 24), (30, 12)), (head,), 3)
    wanted = objects_of([(0.3, 0.4, 0.35, 0.4, 2), (0.7, 0.75, 0.45, 0.2, 0)], (64, 64), room=3)

    def total(raw):
        maps = [jax.nn.sigmoid(raw) if head.new_coords else raw]
        return sum(jnp.sum(part) for part in loss(scales, maps, wanted, (64, 64))[0].values())

    def step(raw, left):  # smaller steps toward the end, for an overlap has a kink at its best
        return raw - 0.1 * left * jax.grad(total)(raw), None

    start = 0.1 * jax.random.normal(jax.random.key(0), (1, 4, 4, 16))
    raw = jax.jit(lambda raw: jax.lax.scan(step, raw, jnp.linspace(1, 0.01, 1500))[0])(start)
    found = candidates(scales, [jax.nn.sigmoid(raw) if head.new_coords else raw], (64, 64))
    scores = np.asarray(found.scores[0])
    best = [int(np.argmax(scores[:, label])) for label in (2, 0)]
    np.testing.assert_allclose(found.boxes[0][jnp.asarray(best)], wanted.boxes[0, :2], rtol=0.05, atol=0.5)
    assert np.all(scores[best, [2, 0]] > 0.7) and scores[:, 1].max() < 0.3


@pytest.mark.parametrize("loss", [DarknetLoss(), OverlapLoss()])
def test_an_image_without_objects(loss, maps):
    """Objectness alone, at every place: the gradient is the probability."""
    nothing = Objects(jnp.zeros((1, 2, 4)), jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2), bool))
    for gradient, raw in zip(gradients(loss, TINY, maps, nothing, FRAME), maps, strict=True):
        shape = (*raw.shape[:3], 3, 85)
        gradient, raw = np.asarray(gradient).reshape(shape), np.asarray(raw).reshape(shape)
        np.testing.assert_allclose(gradient[..., 4], 1 / (1 + np.exp(-raw[..., 4])), rtol=1e-4)
        assert not gradient[..., :4].any() and not gradient[..., 5:].any()
