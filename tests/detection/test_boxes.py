import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from cnnjax.detection import boxes as bx

# Values of torchvision 0.29's ops on these boxes, to 8 digits.
A = jnp.array([[0, 0, 10, 10], [5, 5, 15, 15], [0, 0, 5, 5], [20, 20, 30, 30.0]])
B = jnp.array([[0, 0, 10, 10], [2, 3, 12, 13], [10, 0, 20, 10], [21, 22, 29, 35.0]])
MEASURES = [bx.iou, bx.giou, bx.diou, bx.ciou]


@pytest.mark.parametrize(
    ("measure", "values"),
    [
        (
            bx.iou,
            {(0, 0): 1, (0, 1): 0.3888889, (1, 0): 0.14285715, (2, 0): 0.25, (2, 1): 0.05042017, (3, 3): 0.45714286},
        ),
        (bx.giou, {(0, 1): 0.31196582, (1, 0): -0.07936507, (2, 2): -0.375, (0, 3): -0.79901481, (3, 3): 0.3904762}),
        (bx.diou, {(0, 1): 0.34735537, (2, 2): -0.325, (3, 3): 0.41945055}),
        (bx.ciou, {(0, 3): -0.46139452, (3, 3): 0.41858274}),
    ],
)  # fmt: skip
def test_pairwise_values_of_torchvision(measure, values):
    table = bx.pairwise(measure, A, B)
    assert table.shape == (4, 4)
    for (row, column), value in values.items():
        assert_allclose(table[row, column], value, atol=1e-7)


@pytest.mark.parametrize(
    ("measure", "losses"),
    [
        (bx.ciou, [0, 0.65264463, 1.325, 0.58141732]),
        (bx.giou, [0, 0.68803418, 1.375, 0.60952377]),
        (bx.diou, [0, 0.65264463, 1.325, 0.58054948]),
    ],
)
def test_elementwise_losses_of_torchvision(measure, losses):
    # torchvision's four pairs: A's first box with B's first two, A's third with B's third, and the last two.
    a, b = A[jnp.array([0, 0, 2, 3])], B
    assert_allclose(1 - measure(a, b), losses, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_degenerate_boxes_give_finite_values_and_gradients(measure):
    point = jnp.array([[3.0, 3, 3, 3]])
    for other in (point, A[:1], jnp.array([[4.0, 4, 2, 2]]), jnp.array([[3.0, 3, 9, 3]])):
        value, gradient = jax.value_and_grad(lambda a, other=other: jnp.sum(measure(a, other)))(point)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))
    assert_allclose(bx.iou(point, point), 0)


def test_gradient_of_every_measure_is_that_of_finite_differences():
    with jax.enable_x64(True):
        a = jnp.asarray(np.array([[1.0, 2, 11, 9]]), jnp.float64)
        b = jnp.asarray(np.array([[3.0, 1, 14, 8]]), jnp.float64)
        for measure in (bx.iou, bx.giou, bx.diou):
            gradient = jax.grad(lambda a, m=measure: m(a, b)[0])(a)
            for i in range(4):
                step = jnp.zeros((1, 4), jnp.float64).at[0, i].set(1e-6)
                slope = (measure(a + step, b) - measure(a - step, b)) / 2e-6
                assert_allclose(gradient[0, i], slope[0], rtol=1e-6)


def test_gradient_of_ciou_is_that_of_an_independent_program():
    torch = pytest.importorskip("torch")
    a, b = np.array([[1.0, 2, 11, 9], [0, 0, 4, 8]]), np.array([[3.0, 1, 14, 8], [1, 1, 9, 5]])
    t, u = torch.tensor(a, requires_grad=True), torch.tensor(b)
    side = torch.clamp(torch.minimum(t[:, 2:], u[:, 2:]) - torch.maximum(t[:, :2], u[:, :2]), min=0)
    inter = side.prod(1)
    overlap = inter / ((t[:, 2:] - t[:, :2]).prod(1) + (u[:, 2:] - u[:, :2]).prod(1) - inter)
    hull = torch.maximum(t[:, 2:], u[:, 2:]) - torch.minimum(t[:, :2], u[:, :2])
    distance = (((t[:, :2] + t[:, 2:]) / 2 - (u[:, :2] + u[:, 2:]) / 2) ** 2).sum(1) / (hull**2).sum(1)

    def ratio(box):
        return torch.atan((box[:, 2] - box[:, 0]) / (box[:, 3] - box[:, 1]))

    v = 4 / np.pi**2 * (ratio(u) - ratio(t)) ** 2
    alpha = (v / (1 - overlap + v)).detach()
    value = overlap - distance - alpha * v
    value.sum().backward()
    ours, gradient = jax.value_and_grad(lambda x: jnp.sum(bx.ciou(x, jnp.asarray(b, jnp.float32))))(
        jnp.asarray(a, jnp.float32)
    )
    assert_allclose(ours, value.sum().item(), rtol=1e-6)
    assert_allclose(gradient, t.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_conversions_by_hand_and_back():
    box = jnp.array([[1.0, 2, 5, 10]])
    assert_allclose(bx.box_xyxy_to_xywh(box), [[1, 2, 4, 8]])
    assert_allclose(bx.box_xyxy_to_cxcywh(box), [[3, 6, 4, 8]])
    assert_allclose(bx.box_xywh_to_xyxy(bx.box_xyxy_to_xywh(box)), box)
    assert_allclose(bx.box_cxcywh_to_xyxy(bx.box_xyxy_to_cxcywh(box)), box)
    assert_allclose(bx.area(jnp.array([[1.0, 2, 5, 10], [5, 5, 4, 9]])), [32, 0])


def test_clip_boxes():
    box = jnp.array([[-3.0, 2, 50, 80], [60, 60, 70, 70]])
    assert_allclose(bx.clip_boxes(box, height=30, width=40), [[0, 2, 40, 30], [40, 30, 40, 30]])


def test_letterbox_by_hand():
    # 640 x 480 into 320 x 320: half size, 40 rows of padding above and below.
    wide = bx.letterbox(480, 640, (320, 320))
    assert wide == bx.Letterbox(0.5, 0.5, 0, 40, 240, 320)
    assert_allclose(bx.box_to_letterbox(jnp.array([[100.0, 120, 420, 360]]), wide), [[50, 100, 210, 220]])
    tall = bx.letterbox(100, 50, (64, 64))
    assert (tall.left, tall.top, tall.inner_height, tall.inner_width) == (16, 0, 64, 32)


@pytest.mark.parametrize(("height", "width"), [(333, 500), (1, 700), (97, 31)])
def test_letterbox_back_returns_the_boxes(height, width):
    geometry = bx.letterbox(height, width, (64, 96))
    box = jnp.array([[0.0, 0, width, height], [0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height]])
    inside = bx.box_to_letterbox(box, geometry)
    low = [geometry.left, geometry.top]
    high = [geometry.left + geometry.inner_width, geometry.top + geometry.inner_height]
    assert_allclose(inside[0], low + high, rtol=1e-5)
    assert_allclose(bx.box_from_letterbox(inside, geometry), box, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("measure", MEASURES)
def test_boxes_whose_areas_overflow_have_the_measure_of_smaller_ones(measure, dtype):
    """All measures are ratios: the same boxes in other units."""
    large = float(jnp.finfo(dtype).max) / 64
    table = bx.pairwise(measure, (A * large / 32).astype(dtype), (B * large / 32).astype(dtype))
    expected = bx.pairwise(measure, A, B)
    assert_allclose(table.astype(np.float32), expected, atol=8 * float(jnp.finfo(dtype).eps))
    assert bx.iou(jnp.full((1, 4), jnp.finfo(dtype).max, dtype), A[:1].astype(dtype)).tolist() == [0]
