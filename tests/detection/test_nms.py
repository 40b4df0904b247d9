import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.detection.nms import multi_label_nms, nms

BOXES = jnp.array(
    [[100, 100, 210, 210], [105, 105, 215, 215], [250, 250, 360, 360], [100, 100, 210, 210], [251, 251, 361, 361],
     [400, 400, 410, 410.0]]
)  # fmt: skip
SCORES = jnp.array([0.9, 0.8, 0.7, 0.6, 0.95, 0.3])
CLASSES = jnp.array([0, 0, 0, 1, 0, 1])


def greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """The rule of torchvision's CPU kernel, in float32: stable order, strictly above the threshold goes."""
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    gone, kept = np.zeros(len(boxes), bool), []
    for position, i in enumerate(order):
        if gone[i]:
            continue
        kept.append(int(i))
        for j in order[position + 1 :]:
            width = max(min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]), np.float32(0))
            height = max(min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]), np.float32(0))
            inter = width * height
            if inter / (areas[i] + areas[j] - inter) > np.float32(threshold):
                gone[j] = True
    return kept


def kept(indices, count):
    assert np.all(indices[int(count) :] == -1)
    return list(indices[: int(count)])


@pytest.mark.parametrize(
    ("threshold", "classes", "expected"),
    [(0.5, None, [4, 0, 5]), (0.5, CLASSES, [4, 0, 3, 5]), (0.99, None, [4, 0, 1, 2, 5])],
)
def test_values_of_torchvision(threshold, classes, expected):
    assert kept(*nms(BOXES, SCORES, threshold, 6, classes=classes)) == expected


def test_iou_exactly_at_the_threshold_is_kept():
    boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 5.0]])
    assert kept(*nms(boxes, jnp.array([0.9, 0.8]), 0.5, 2)) == [0, 1]
    assert kept(*nms(boxes, jnp.array([0.9, 0.8]), 0.49, 2)) == [0]


def test_of_equal_scores_the_first_wins():
    boxes = jnp.broadcast_to(BOXES[:1], (3, 4))
    assert kept(*nms(boxes, jnp.array([0.5, 0.5, 0.5]), 0.5, 3)) == [0]


@pytest.mark.full
def test_1000_random_sets_equal_the_greedy_reference():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 80, (1000, 24, 2))
    # Half of the coordinates are whole numbers, so that equal IoUs and equal scores occur.
    boxes = np.concatenate([low, low + rng.uniform(1, 60, low.shape)], -1)
    boxes[::2] = np.round(boxes[::2])
    boxes[::2, :, 2:] += 1
    boxes = boxes.astype(np.float32)
    scores = np.round(rng.uniform(0, 1, (1000, 24)), 1).astype(np.float32)
    for threshold in (0.3, 0.5):
        run = jax.jit(jax.vmap(lambda b, s, t=threshold: nms(b, s, t, 24)))
        indices, counts = run(jnp.asarray(boxes), jnp.asarray(scores))
        for i in range(1000):
            assert kept(np.asarray(indices[i]), counts[i]) == greedy(boxes[i], scores[i], threshold), i


def test_max_outputs_returns_the_first_of_the_full_result():
    indices, count = nms(BOXES, SCORES, 0.5, 2)
    assert list(indices) == [4, 0] and count == 2


def test_more_outputs_than_boxes():
    indices, count = nms(BOXES, SCORES, 0.5, 9)
    assert indices.shape == (9,) and count == 3


def test_nothing_above_the_score_threshold():
    indices, count = nms(BOXES, SCORES, 0.5, 3, score_threshold=0.95)
    assert list(indices) == [-1, -1, -1] and count == 0


def test_nan_and_infinite_entries_are_never_taken():
    boxes = BOXES.at[0, 2].set(jnp.nan).at[5, 0].set(-jnp.inf)
    scores = SCORES.at[4].set(jnp.nan)
    assert kept(*nms(boxes, scores, 0.5, 6)) == [1, 2]


def test_boxes_without_an_inside_are_kept_once():
    boxes = jnp.array([[5, 5, 5, 5], [5, 5, 5, 5.0]])
    assert kept(*nms(boxes, jnp.array([0.2, 0.7]), 0.5, 4)) == [1, 0]


def test_no_boxes_give_no_boxes():
    found, count = jax.jit(lambda b, s: nms(b, s, 0.5, 3))(jnp.zeros((0, 4)), jnp.zeros(0))
    assert found.tolist() == [-1, -1, -1] and int(count) == 0


@pytest.mark.parametrize("max_outputs", [1500, 40])
def test_more_candidates_than_are_compared_at_once(max_outputs, platform_form):
    """In several rounds, of which the later ones must see what the earlier ones took; ties reach over their borders."""
    rng = np.random.default_rng(1)
    low = np.round(rng.uniform(0, 300, (1500, 2)))
    boxes = np.concatenate([low, low + np.round(rng.uniform(20, 80, low.shape))], -1).astype(np.float32)
    scores = np.round(rng.uniform(0, 1, 1500), 2).astype(np.float32)
    found = kept(*jax.jit(lambda b, s: nms(b, s, 0.3, max_outputs))(jnp.asarray(boxes), jnp.asarray(scores)))
    assert found == greedy(boxes, scores, 0.3)[:max_outputs]


def test_a_chain_of_boxes_needs_many_rounds(platform_form):
    """Each box suppresses the next one if it is kept itself: every second one stays."""
    low = np.arange(0, 600, 3, dtype=np.float32)
    boxes = jnp.stack([low, jnp.zeros_like(low), low + 10, jnp.full_like(low, 10)], axis=1)
    scores = jnp.linspace(1, 0.1, len(low), dtype=jnp.float32)
    assert kept(*nms(boxes, scores, 0.5, 200)) == list(range(0, 200, 2))


def test_a_box_of_several_classes_is_several_detections():
    """Class by class, against the greedy rule for each class alone."""
    rng = np.random.default_rng(2)
    low = rng.uniform(0, 60, (80, 2))
    boxes = np.concatenate([low, low + rng.uniform(10, 40, low.shape)], -1).astype(np.float32)
    scores = rng.uniform(0, 1, (80, 5)).astype(np.float32)
    run = jax.jit(lambda b, s: multi_label_nms(b, s, 0.45, 400, 0.3))
    indices, labels, count = jax.device_get(run(jnp.asarray(boxes), jnp.asarray(scores)))
    found = list(zip(labels[:count].tolist(), indices[:count].tolist(), strict=True))
    assert np.all(indices[count:] == -1) and np.all(labels[count:] == -1)
    for label in range(5):
        above = np.flatnonzero(scores[:, label] > 0.3)
        wanted = above[greedy(boxes[above], scores[above, label], 0.45)]
        assert [index for name, index in found if name == label] == wanted.tolist()
    taken = scores[indices[:count], labels[:count]]
    assert np.all(np.diff(taken) <= 0)


def test_memory_for_all_boxes_of_yolov3_at_608_pixels_and_64_images():
    """22,743 candidates: their N x N overlaps would be 132 GB of float32 for the batch."""
    shapes = [jax.ShapeDtypeStruct((64, 22_743, *rest), jnp.float32) for rest in ((4,), ())]
    run = jax.jit(jax.vmap(lambda b, s: nms(b, s, 0.45, 300)))
    memory = run.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1e9


def test_a_cpu_need_not_sort_all_candidates():
    boxes, scores = jnp.zeros((2000, 4)), jnp.zeros((2000, 80))
    program = jax.jit(lambda boxes, scores: multi_label_nms(boxes, scores, 0.5, 100)).lower(boxes, scores)
    assert " sort(" not in program.compile().as_text()
