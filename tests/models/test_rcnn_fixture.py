"""Mask R-CNN against numbers of torchvision's, from pixels to masks and from objects to gradients.

The weights are drawn by the names that torch gives them, so that the table of names is part of what is tested.
"""

import dataclasses
import json
import os
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection import masks, two_stage
from cnnjax.detection.two_stage import Truths
from cnnjax.models import create_model
from cnnjax.weights.convert import load_weights, save_torchvision

pytestmark = pytest.mark.slow

NAME = "maskrcnn_resnet50_fpn"
IMAGE, SIZE, FRAME = (96, 133), (128, 177), (128, 192)  # as it is, resized, and padded
STRETCH = np.array([SIZE[1] / IMAGE[1], SIZE[0] / IMAGE[0]] * 2, np.float32)
FROZEN = ("backbone.body.conv1.", "backbone.body.layer1.")


class Fixture:
    """The network with the fixture's weights, its image and its numbers."""

    def __init__(self, folder: Path, scratch: Path):
        self.expected = json.loads((folder / "maskrcnn_r50_fixture.json").read_text())
        self.truths = dict(np.load(folder / "maskrcnn_train_targets.npz"))
        self.model = create_model(NAME, 5)
        image = jax.ShapeDtypeStruct((1, *FRAME, 3), jnp.float32)
        empty = jax.eval_shape(self.model.init, jax.random.key(0), image)
        draw = runpy.run_path(str(folder / "maskrcnn_recipe.py"))["draw"]
        self.tensors = {
            name: draw(name, value.shape).astype(np.float32)
            for name, value in in_torch(scratch / "empty", zeros(empty)).items()
        }
        safetensors.numpy.save_file(self.tensors, scratch / "weights.safetensors")
        self.variables = load_weights(scratch / "weights.safetensors", NAME, empty)

        pixels = np.random.RandomState(5).random_sample((3, *IMAGE)).transpose(1, 2, 0)
        normal = jnp.asarray((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], jnp.float32)
        resized = jax.image.resize(normal, (*SIZE, 3), "bilinear", antialias=False)
        self.image = jnp.pad(resized, ((0, 0), (0, FRAME[1] - SIZE[1]), (0, 0)))[None]
        self.sizes = jnp.asarray([SIZE], jnp.float32)

    def objects(self) -> Truths:
        """Those of the image as resized (masks by the nearest pixel), and one that is padding."""
        rows = np.arange(SIZE[0]) * IMAGE[0] // SIZE[0]
        columns = np.arange(SIZE[1]) * IMAGE[1] // SIZE[1]
        resized = self.truths["masks"][:, rows][:, :, columns].astype(bool)
        assert resized.sum((1, 2)).tolist() == self.expected["train"]["mask_areas_resized"]
        of_frame = np.pad(resized, ((0, 1), (0, 0), (0, FRAME[1] - SIZE[1])))
        boxes = np.pad(self.truths["boxes"] * STRETCH, ((0, 1), (0, 0)))
        classes, valid = jnp.array([[0, 1, 3, 0]], jnp.int32), jnp.array([[True, True, True, False]])
        return Truths(jnp.asarray(boxes)[None], classes, valid, jnp.asarray(of_frame)[None])


def _is_norm(name):
    return ".bn" in name or ".downsample.1." in name


def zeros(shapes):
    return jax.tree.map(lambda a: np.broadcast_to(np.float32(0), a.shape), dict(shapes))


def in_torch(path, variables):
    """Variables by the names and in the layout of torchvision."""
    save_torchvision(path, NAME, variables)
    return safetensors.numpy.load_file(path)


@pytest.fixture(scope="module")
def fixture(tmp_path_factory):
    folder = Path(os.environ.get("CNNJAX_SHARED", "")) / "fixtures"
    if not (folder / "maskrcnn_r50_fixture.json").is_file():
        pytest.skip("needs torchvision's numbers: set CNNJAX_SHARED to the folder with fixtures/")
    return Fixture(folder, tmp_path_factory.mktemp("weights"))


def assert_sums(array, expected):
    """Total and total magnitude; the first is what is left of the second."""
    array = np.asarray(array, np.float64)
    total, magnitude = expected
    assert_allclose(np.abs(array).sum(), magnitude, rtol=1e-3)
    assert_allclose(array.sum(), total, rtol=1e-3, atol=1e-5 * magnitude)


def test_detections_are_those_of_torchvision(fixture):
    expected = fixture.expected["eval"]

    @jax.jit
    def detect(variables, image, sizes):
        return fixture.model.apply(
            variables, image, sizes=sizes, capture_intermediates=True, mutable=["intermediates"]
        )

    assert sum(tensor.size for tensor in fixture.tensors.values()) == expected["nparams_all"]
    assert_sums(fixture.image, expected["input"][1:])
    found, state = detect(fixture.variables, fixture.image, fixture.sizes)
    inner = state["intermediates"]
    (levels,) = inner["fpn"]["__call__"]
    for level, (shape, *sums) in zip(levels, expected["fpn"].values(), strict=True):
        assert level.shape == (shape[0], *shape[2:], shape[1])
        assert_sums(level, sums)
    ((objectness, deltas),) = inner["rpn"]["__call__"]
    for kind, values in (("rpn_logits", objectness), ("rpn_deltas", deltas)):
        for value, (_, *sums) in zip(values, expected[kind], strict=True):
            assert_sums(value, sums)
    ((logits, moved),) = inner["box_head"]["__call__"]
    assert logits.shape == (1000, 5)
    count = expected["proposals_n"]
    assert_sums(logits[:count], expected["class_logits"][1:])
    assert_sums(moved[:count], expected["box_deltas"][1:])
    assert_sums(inner["mask_head"]["__call__"][0], expected["mask_logits"][1:])

    assert found.found.counts.tolist() == [expected["n"]]
    assert_allclose(found.found.scores[0], expected["all_scores"], rtol=1e-3)
    assert_array_equal(found.found.classes[0] + 1, expected["all_labels"])
    boxes = np.asarray(found.found.boxes[0]) / STRETCH
    assert_allclose(boxes, expected["all_boxes"], rtol=1e-3, atol=1e-3)
    for i, (total, area) in enumerate(zip(expected["mask_sum"], expected["mask_area"], strict=True)):
        pasted = masks.paste_mask(np.asarray(found.masks[0, i]), boxes[i], *IMAGE)
        assert_allclose(pasted.sum(), total, rtol=1e-3)
        assert abs(int((pasted >= 0.5).sum()) - area) <= 1  # a pixel may lie on the threshold


def test_losses_and_gradients_are_those_of_torchvision(fixture, tmp_path):
    expected = fixture.expected["train"]
    params, frozen = fixture.variables["params"], {"batch_stats": fixture.variables["batch_stats"]}
    truths = fixture.objects()
    # 29 regions are positive: 32 places for them give what 128 do, in a third of the time.
    settings = dataclasses.replace(fixture.model.settings, region_share=1 / 16)

    @jax.jit
    def learn(params, image, sizes, truths):
        def total(params):
            outputs = fixture.model.apply(
                {"params": params, **frozen}, image, train=True, truths=truths, sizes=sizes, settings=settings
            )
            parts = two_stage.losses(outputs, truths)
            return sum(jnp.sum(part) for part in parts.values()), (parts, outputs)

        return jax.grad(total, has_aux=True)(params)

    gradient, (parts, outputs) = learn(params, fixture.image, fixture.sizes, truths)
    objects = np.asarray(outputs.anchor_objects)
    assert [(objects >= 0).sum(), (objects == -1).sum(), (objects == -2).sum()] == [9, 5626, 503]
    assert outputs.proposals.valid.sum() == expected["n_props_before_sampling"]
    assert (outputs.regions.positive.sum(), outputs.regions.valid.sum()) == (29, 512)

    names = {
        "classes": "classifier",
        "boxes": "box_reg",
        "masks": "mask",
        "objectness": "objectness",
        "proposals": "rpn_box_reg",
    }
    for name, of_torch in names.items():
        assert_allclose(parts[name], [expected["losses"][f"loss_{of_torch}"]], rtol=1e-3)
    assert_allclose(sum(float(part[0]) for part in parts.values()), expected["total"], rtol=1e-3)

    wanted = masks.mask_targets(
        truths.masks[0], outputs.regions.objects[0, :29], outputs.regions.boxes[0, :29], 28
    )
    assert_sums(wanted, expected["mask_targets"][1:])
    assert_allclose(outputs.regions.boxes[0, :3], expected["mask_props"], rtol=1e-3)
    assert_allclose(wanted[0, 14], expected["mask_targets_first_row14"], atol=1e-3)

    by_name = in_torch(tmp_path / "gradient", {"params": gradient, "batch_stats": frozen["batch_stats"]})
    learned = {name for name in by_name if name.endswith((".weight", ".bias")) and not _is_norm(name)}
    frozen_names = {name for name in learned if name.startswith(FROZEN)}
    assert (len(frozen_names), len(learned)) == (expected["frozen"], expected["n_grad"] + expected["frozen"])
    assert all(not by_name[name].any() for name in frozen_names)
    for name, sums in expected["grad"].items():
        assert_sums(by_name[name], sums)


def test_published_names_go_out_as_they_came_in(fixture, tmp_path):
    again = in_torch(tmp_path / "again.safetensors", fixture.variables)
    assert again.keys() == fixture.tensors.keys()
    for name, value in again.items():
        assert_array_equal(value, fixture.tensors[name])
