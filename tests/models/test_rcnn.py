"""Two-stage detectors: their parts by hand or torch, their sizes, and what a step of the small one does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.config import ConfigError
from cnnjax.detection import two_stage
from cnnjax.detection.two_stage import Proposals, Truths, TwoStage
from cnnjax.models import create_model, create_trunk
from cnnjax.models.fpn import FPN, enlarge
from cnnjax.models.layers import FrozenBatchNorm
from cnnjax.models.rcnn import RCNN, KeypointHead, MaskHead
from cnnjax.weights.names import renamed_since, torch_names


def count(name, part="params", **kwargs):
    model = create_model(name, **kwargs)
    image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return sum(leaf.size for leaf in jax.tree.leaves(variables[part]))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("fasterrcnn_resnet50_fpn", 41_755_286),
        ("maskrcnn_resnet50_fpn", 44_401_393),
        ("keypointrcnn_resnet50_fpn", 59_137_258),
        ("maskrcnn_resnet101_fpn", 44_401_393 + 17 * (1024 * 256 * 2 + 256 * 256 * 9)),
        ("maskrcnn_small", 907_645),
    ],
)
def test_networks_have_the_parameters_of_torchvisions(name, number):
    assert count(name) == number


def test_frozen_norms_are_no_parameters():
    assert count("fasterrcnn_resnet50_fpn", "batch_stats") == 4 * 26_560


def test_frozen_batch_norm_is_that_of_torch_and_takes_no_gradient():
    torch = pytest.importorskip("torch", reason="the reference is torch")

    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    values = {name: rng.uniform(0.5, 2, 3).astype(np.float32) for name in ("scale", "bias", "mean", "var")}
    norm = FrozenBatchNorm(epsilon=1e-3)
    found = norm.apply({"batch_stats": values}, x)
    expected = torch.nn.functional.batch_norm(
        torch.tensor(x).permute(0, 3, 1, 2),
        *(torch.tensor(values[name]) for name in ("mean", "var", "scale", "bias")),
        eps=1e-3,
    )
    assert_allclose(found, expected.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)
    assert list(norm.init(jax.random.key(0), x)) == ["batch_stats"]


@pytest.mark.parametrize("name", ["tiny_resnet18", "tiny_densenet", "tiny_googlenet"])
def test_a_pyramid_stands_on_any_trunk(name):
    trunk = create_trunk(name)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    stages = jax.eval_shape(lambda x: trunk.init_with_output(jax.random.key(0), x)[0], image)
    by_size = {value.shape[1]: value for value in stages.values() if value.ndim == 4 and value.shape[1] > 1}
    maps = [by_size[side] for side in sorted(by_size, reverse=True)][-2:]
    levels = jax.eval_shape(lambda maps: FPN(8).init_with_output(jax.random.key(0), maps)[0], maps)
    assert [level.shape for level in levels[:-1]] == [(1, *map_.shape[1:3], 8) for map_ in maps]
    assert levels[-1].shape == (1, -(-maps[-1].shape[1] // 2), -(-maps[-1].shape[2] // 2), 8)


@pytest.mark.parametrize(("size", "larger"), [((3, 4), (6, 8)), ((3, 4), (5, 7)), ((2, 5), (8, 9))])
def test_maps_are_enlarged_as_by_torch(size, larger):
    torch = pytest.importorskip("torch", reason="the reference is torch")

    x = np.arange(np.prod(size), dtype=np.float32).reshape(1, *size, 1)
    expected = torch.nn.functional.interpolate(torch.tensor(x).permute(0, 3, 1, 2), size=larger)
    assert_array_equal(enlarge(jnp.asarray(x), *larger)[0, ..., 0], expected[0, 0])


def random_tree(module, x, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.2, a.shape), jnp.float32), shapes)


def in_torch(layer):
    torch = pytest.importorskip("torch", reason="the reference is torch")
    return torch.tensor(np.transpose(layer["kernel"], (3, 2, 0, 1))), torch.tensor(np.asarray(layer["bias"]))


@pytest.mark.parametrize("head", [MaskHead(3, (5, 6), jnp.float32), KeypointHead(4, (5, 6), jnp.float32)])
def test_heads_on_regions_are_those_of_torch(head):
    torch = pytest.importorskip("torch", reason="the reference is torch")
    F = torch.nn.functional

    x = np.random.default_rng(1).normal(size=(2, 6, 6, 5)).astype(np.float32)
    variables = random_tree(head, x)
    layers = variables["params"]
    y = torch.tensor(x).permute(0, 3, 1, 2)
    for name in ("conv1", "conv2"):
        y = torch.relu(F.conv2d(y, *in_torch(layers[name]), padding=1))
    if isinstance(head, MaskHead):
        y = torch.relu(F.conv_transpose2d(y, *in_torch(layers["deconv"]), stride=2))
        y = F.conv2d(y, *in_torch(layers["logits"]))
    else:
        y = F.conv_transpose2d(y, *in_torch(layers["deconv"]), stride=2, padding=1)
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
    assert_allclose(head.apply(variables, x), y.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


def test_layers_have_the_names_of_torchvision():
    names = torch_names(
        create_model("keypointrcnn_resnet50_fpn"),
        ["trunk/model/block2_1/shortcut_bn", "keypoint_head/conv3", "keypoint_head/deconv", "fpn/layer2"],
    )
    assert list(names.values()) == [
        "backbone.body.layer2.0.downsample.1",
        "roi_heads.keypoint_head.4",
        "roi_heads.keypoint_predictor.kps_score_lowres",
        "backbone.fpn.layer_blocks.1.0",
    ]
    assert torch_names(create_model("maskrcnn_small"), ["fpn/layer2"]) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("backbone.fpn.inner_blocks.2.weight", "backbone.fpn.inner_blocks.2.0.weight"),
        ("backbone.fpn.layer_blocks.0.0.bias", "backbone.fpn.layer_blocks.0.0.bias"),
        ("rpn.head.conv.bias", "rpn.head.conv.0.0.bias"),
        ("roi_heads.mask_head.mask_fcn4.weight", "roi_heads.mask_head.3.0.weight"),
        ("roi_heads.mask_predictor.mask_fcn_logits.bias", "roi_heads.mask_predictor.mask_fcn_logits.bias"),
        ("backbone.body.conv1.weight", "backbone.body.conv1.weight"),
    ],
)
def test_names_before_torchvision_0_13_are_known(old, new):
    assert renamed_since(create_model("maskrcnn_resnet50_fpn"), old) == new


SETTINGS = TwoStage(per_level=(3, 2), proposals=(4, 4), proposal_iou=0.5)


@pytest.mark.parametrize("train", [True, False])
def test_proposals_by_hand(train):
    """Two levels do not suppress each other. In the first one anchor lies outside and one is a double; the last is
    one too many, in training as in evaluation."""
    anchors = [
        jnp.array([[0.0, 0, 10, 10], [0, 1, 10, 11], [-30, 0, -20, 10], [40, 40, 60, 60]]),
        jnp.array([[0.0, 0, 10, 10]]),
    ]
    logits = [jnp.array([2.0, 1.0, 5.0, 0.5]), jnp.array([-3.0])]
    deltas = [jnp.zeros((4, 4)).at[3, 0].set(0.25), jnp.zeros((1, 4))]
    found = two_stage.propose(SETTINGS, logits, deltas, anchors, jnp.array([50.0, 64.0]), train)
    assert_array_equal(found.valid, [True, True, False, False])
    assert_allclose(found.boxes, [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_proposals_are_moved_and_cut():
    anchors, deltas = [jnp.array([[40.0, 40, 60, 60]])], [jnp.array([[0.25, 0, jnp.log(2.0), 0]])]
    found = two_stage.propose(SETTINGS, [jnp.zeros(1)], deltas, anchors, jnp.array([50.0, 64.0]), True)
    assert_allclose(found.boxes[0], [35, 40, 64, 50])


def test_no_gradient_goes_through_proposals():
    def total(deltas):
        anchors = [jnp.array([[40.0, 40, 60, 60]])]
        return jnp.sum(
            two_stage.propose(SETTINGS, [deltas[:, 0]], [deltas], anchors, jnp.full(2, 64.0), True).boxes
        )

    assert_array_equal(jax.grad(total)(jnp.full((1, 4), 0.1)), np.zeros((1, 4)))


def test_detections_by_hand():
    settings = TwoStage(max_detections=4)
    proposals = Proposals(
        jnp.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40], [5, 5, 25, 25]]),
        jnp.array([True, True, True, False]),
    )
    logits = jnp.log(jnp.array([[0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.9, 0.06, 0.04], [0.0, 1.0, 0.0]]) + 1e-9)
    deltas = jnp.zeros((4, 3, 4)).at[0, 2, 0].set(5.0)  # half a width to the right, of class 1 only
    found = two_stage.detect_regions(settings, proposals, logits, deltas, jnp.array([64.0, 64.0]))
    assert found.counts == 4
    # 0.8 suppresses 0.6 of its class, not what the same place says of another; 0.04 is too little.
    assert_array_equal(found.classes, [0, 1, 1, 0])
    assert_allclose(found.scores, [0.8, 0.1, 0.1, 0.06], rtol=1e-5)
    assert_allclose(sorted(np.asarray(found.boxes[1:3]).tolist()), [[1, 0, 11, 10], [5, 0, 15, 10]])


MODEL = create_model("maskrcnn_small", 4)
FRAME = (64, 96)
TRUTHS = Truths(
    boxes=jnp.array([[[8.0, 8, 40, 40], [50, 20, 80, 60], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 3]),
    classes=jnp.array([[2, 0, 0], [0, 0, 0]], jnp.int32),
    valid=jnp.array([[True, True, False], [False] * 3]),
    masks=jnp.zeros((2, 3, *FRAME), bool).at[0, 0, 8:40, 8:24].set(True).at[0, 1, 20:60, 50:80].set(True),
)
IMAGES = jax.random.normal(jax.random.key(1), (2, *FRAME, 3))


@functools.cache
def small_variables():
    return jax.jit(MODEL.init)(jax.random.key(0), IMAGES[:1])


@jax.jit
def learn(variables, images, truths, key):
    def total(params):
        outputs, _ = MODEL.apply(
            {**variables, "params": params}, images, True, truths=truths, key=key, mutable=["batch_stats"]
        )
        parts = two_stage.losses(outputs, truths)
        return sum(map(jnp.mean, parts.values())), (parts, outputs)

    (_, (parts, outputs)), gradient = jax.value_and_grad(total, has_aux=True)(variables["params"])
    return parts, outputs, gradient


@pytest.mark.full
def test_a_step_learns_from_images_with_and_without_objects():
    parts, outputs, gradient = learn(small_variables(), IMAGES, TRUTHS, jax.random.key(2))
    assert set(parts) == {"objectness", "proposals", "classes", "boxes", "masks"}
    assert all(part.shape == (2,) and np.all(np.isfinite(part)) for part in parts.values())
    assert parts["masks"][1] == parts["boxes"][1] == parts["proposals"][1] == 0
    assert outputs.mask_logits.shape == (2, 8, 28, 28, 4)
    assert np.all(outputs.regions.outputs[1] == 0) and outputs.regions.positive[0].sum() >= 2
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert all(np.any(np.asarray(leaf["kernel"])) for leaf in gradient["mask_head"].values())


def test_images_without_any_object_are_valid_negatives():
    nothing = TRUTHS._replace(valid=jnp.zeros((2, 3), bool))
    parts, outputs, gradient = learn(small_variables(), IMAGES, nothing, jax.random.key(2))
    assert all(np.all(parts[name] == 0) for name in ("proposals", "boxes", "masks"))
    assert np.all(parts["objectness"] > 0) and np.all(parts["classes"] > 0)
    assert not outputs.regions.positive.any()
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_what_padding_holds_changes_nothing():
    hidden = ~TRUTHS.valid
    other = TRUTHS._replace(
        boxes=jnp.where(hidden[..., None], jnp.array([[[8.0, 8, 40, 41]]]), TRUTHS.boxes),
        classes=jnp.where(hidden, 1, TRUTHS.classes),
        masks=TRUTHS.masks | hidden[..., None, None],
    )
    first, second = (
        learn(small_variables(), IMAGES, truths, jax.random.key(2))[0] for truths in (TRUTHS, other)
    )
    for name in first:
        assert_allclose(first[name], second[name], rtol=1e-6)


@functools.partial(jax.jit, static_argnames=("settings",))
def detect(variables, images, sizes=None, settings=None):
    return MODEL.apply(variables, images, sizes=sizes, settings=settings)


@pytest.mark.full
def test_detections_are_padded_and_masks_are_of_these_only():
    settings = dataclasses.replace(MODEL.settings, max_detections=7, score_threshold=0.0)
    found, masks, keypoints = detect(small_variables(), IMAGES, settings=settings)
    assert found.boxes.shape == (2, 7, 4) and masks.shape == (2, 7, 28, 28) and keypoints is None
    assert np.all((masks >= 0) & (masks <= 1))
    assert np.all(np.diff(np.asarray(found.scores), axis=1) <= 0)
    none = detect(small_variables(), IMAGES, settings=dataclasses.replace(settings, score_threshold=0.999))[0]
    assert_array_equal(none.counts, [0, 0])
    assert np.all(none.classes == -1) and not none.boxes.any()


def test_boxes_end_at_the_border_of_an_image_in_its_frame():
    sizes = jnp.array([[40.0, 50.0], [64, 96]])
    found = detect(
        small_variables(), IMAGES, sizes, dataclasses.replace(MODEL.settings, score_threshold=0.0)
    )[0]
    assert_allclose(np.asarray(found.boxes[0]).max(0)[2:], [50, 40])
    assert np.asarray(found.boxes[1]).max(0)[2] > 50


def test_a_frame_that_does_not_divide_into_the_maps_is_refused():
    with pytest.raises(ConfigError, match="images of 60x96 do not divide into maps of 8x12"):
        jax.eval_shape(MODEL.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 60, 96, 3), jnp.float32))


def test_bfloat16_layers_leave_boxes_and_losses_in_float32():
    model: RCNN = create_model("maskrcnn_small", 4, dtype="bfloat16")
    shapes = jax.eval_shape(
        lambda v, x: model.apply(v, x, True, truths=TRUTHS, mutable=["batch_stats"])[0],
        small_variables(),
        IMAGES,
    )
    floats = {leaf.dtype for leaf in jax.tree.leaves(shapes) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert floats == {jnp.dtype("float32")}


def test_stages_of_trunk_pyramid_and_heads_have_names():
    _, state = jax.eval_shape(lambda v, x: MODEL.apply(v, x, mutable=["stages"]), small_variables(), IMAGES)
    shapes = {name: of.shape for name, of in state["stages"].items() if name != "trunk"}
    rows = {"level1": (16, 24), "level2": (8, 12), "level3": (4, 6)}
    expected = {name: (2, *size, 64) for name, size in rows.items()}
    expected |= {f"objectness{i}": (2, 3 * rows[f"level{i}"][0] * rows[f"level{i}"][1]) for i in (1, 2, 3)}
    assert shapes == expected | {"logits": (2, 100, 4), "masks": (2, 100, 28, 28, 4)}
