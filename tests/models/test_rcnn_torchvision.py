"""Two-stage detectors against torchvision itself, where it is installed: a batch of images of different sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection import two_stage
from cnnjax.detection.keypoints import find_keypoints
from cnnjax.detection.masks import paste_mask
from cnnjax.detection.two_stage import Truths
from cnnjax.models import create_model
from cnnjax.weights.convert import load_weights

pytestmark = pytest.mark.slow

SHAPES = ((70, 100), (120, 90), (64, 64))
LOSSES = {
    "objectness": "loss_objectness",
    "proposals": "loss_rpn_box_reg",
    "classes": "loss_classifier",
    "boxes": "loss_box_reg",
    "masks": "loss_mask",
    "keypoints": "loss_keypoint",
}


@pytest.fixture(scope="module")
def torchvision():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    import torchvision.models.detection as detection

    return detection


class First:
    """The sampler of torchvision, without its chance: the first of each kind."""

    def __init__(self, count, share):
        self.count, self.share = count, share

    def __call__(self, matched):
        import torch

        masks = []
        for labels in matched:
            positive = torch.where(labels >= 1)[0][: int(self.count * self.share)]
            negative = torch.where(labels == 0)[0][: self.count - len(positive)]
            pair = [torch.zeros_like(labels, dtype=torch.uint8) for _ in range(2)]
            pair[0][positive], pair[1][negative] = 1, 1
            masks.append(pair)
        return [p for p, _ in masks], [n for _, n in masks]


def peer(detection, name):
    """torchvision's network with random weights that leave something to detect."""
    import torch

    torch.manual_seed(0)
    classes = 2 if name.startswith("keypoint") else 5
    model = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=classes, min_size=96, max_size=160
    )
    rng = np.random.RandomState(1)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.ndim >= 2:
                fan = value.shape[0] if "conv5_mask" in key else int(np.prod(value.shape[1:]))
                gain = 0.02 if "bbox_pred" in key else 1.0 if "fpn" in key or "cls" in key else 2.0
                value.copy_(torch.tensor(rng.standard_normal(value.shape) * np.sqrt(gain / fan)))
            elif key.endswith("running_var"):
                value.copy_(torch.tensor(rng.uniform(1, 1.5, value.shape)))
            elif value.ndim and key.endswith("weight"):
                value.copy_(torch.tensor((0.3 if "bn3" in key else 1) * rng.uniform(0.8, 1.2, value.shape)))
            elif value.ndim:
                value.copy_(torch.tensor(0.1 * rng.standard_normal(value.shape)))
    model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler = First(256, 0.5), First(512, 0.25)
    return model.eval()


def ours(name, model, frame, folder):
    """The same network here, with the same weights."""
    tensors = {key: value.numpy() for key, value in model.state_dict().items() if value.ndim}
    safetensors.numpy.save_file(tensors, folder / "weights.safetensors")
    network = create_model(name, model.roi_heads.box_predictor.cls_score.out_features)
    image = jax.ShapeDtypeStruct((1, *frame, 3), jnp.float32)
    empty = jax.eval_shape(network.init, jax.random.key(0), image)
    return network, load_weights(folder / "weights.safetensors", name, empty)


def objects(keypoints):
    """Boxes of every image, whose number differs, with masks or keypoints; and none in the last."""
    import torch

    boxes = [[[10, 12, 60, 60], [40, 5, 90, 50]], [[5, 20, 80, 110]], []]
    found = []
    for of_image, (height, width) in zip(boxes, SHAPES, strict=True):
        target = {"boxes": torch.tensor(of_image, dtype=torch.float32).reshape(-1, 4)}
        target["labels"] = torch.ones(len(of_image), dtype=torch.int64)
        masks = torch.zeros((len(of_image), height, width), dtype=torch.uint8)
        points = torch.zeros((len(of_image), 17, 3))
        for i, (x0, y0, x1, y1) in enumerate(of_image):
            masks[i, y0 + 3 : y1, x0 : (x0 + x1) // 2] = 1
            share = torch.linspace(-0.05, 1, 17)
            points[i] = torch.stack([x0 + share * (x1 - x0), y1 - share * (y1 - y0), torch.ones(17)], dim=1)
            points[i, 3, 2] = 0
        found.append(target | ({"keypoints": points} if keypoints else {"masks": masks}))
    return found


def padded(targets, frame):
    """Torch's targets of the resized images as `Truths`."""
    count, room = len(targets), max(len(target["boxes"]) for target in targets)

    def pad(name, shape, dtype):
        out = np.zeros((count, room, *shape), dtype)
        for i, target in enumerate(targets):
            value = target[name].numpy()
            out[(i, slice(len(value)), *map(slice, value.shape[1:]))] = value
        return jnp.asarray(out)

    valid = [[i < len(target["boxes"]) for i in range(room)] for target in targets]
    return Truths(
        pad("boxes", (4,), np.float32),
        pad("labels", (), np.int32) - 1,
        jnp.asarray(valid),
        pad("masks", frame, bool) if "masks" in targets[0] else None,
        pad("keypoints", (17, 3), np.float32) if "keypoints" in targets[0] else None,
    )


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"])
def test_images_of_different_sizes_have_the_answers_and_losses_of_torchvision(torchvision, name, tmp_path):
    import torch

    torch.set_num_threads(2)
    model = peer(torchvision, name)
    rng = np.random.RandomState(3)
    images = [torch.tensor(rng.random_sample((3, *shape)), dtype=torch.float32) for shape in SHAPES]
    with torch.no_grad():
        batch, targets = model.transform(images, objects("keypoint" in name))
        expected = model(images)
    frame = tuple(batch.tensors.shape[2:])
    network, variables = ours(name, model, frame, tmp_path)
    pixels = jnp.asarray(batch.tensors.numpy().transpose(0, 2, 3, 1))
    sizes = jnp.asarray(batch.image_sizes, jnp.float32)

    found = jax.jit(lambda v, x, s: network.apply(v, x, sizes=s))(variables, pixels, sizes)
    for i, (wanted, shape) in enumerate(zip(expected, SHAPES, strict=True)):
        count = int(found.found.counts[i])
        assert count == len(wanted["boxes"]) > 0
        stretch = np.array([shape[1] / batch.image_sizes[i][1], shape[0] / batch.image_sizes[i][0]] * 2)
        boxes = np.asarray(found.found.boxes[i, :count]) * stretch
        assert_allclose(found.found.scores[i, :count], wanted["scores"], rtol=1e-3)
        assert_array_equal(found.found.classes[i, :count] + 1, wanted["labels"])
        assert_allclose(boxes, wanted["boxes"], rtol=1e-3, atol=5e-3)
        for j in range(0, count, 9):
            if found.masks is not None:
                pasted = paste_mask(np.asarray(found.masks[i, j]), boxes[j], *shape)
                wrong = np.abs(pasted - wanted["masks"][j, 0].numpy()) > 1e-3
                assert wrong.mean() < 1e-3  # the border of a box may lie on a pixel's
            if found.keypoints is not None:
                places, _ = find_keypoints(
                    np.asarray(found.keypoints[i, j]), np.asarray(found.found.boxes[i, j])
                )
                near = np.abs(places * stretch[:2] - wanted["keypoints"][j, :, :2].numpy()).max(1) < 0.02
                assert near.mean() > 0.9  # two places of a map may be nearly as likely

    model.train()
    for module in model.modules():  # batch norm stays as it is
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        wanted = model(images, objects("keypoint" in name))
    truths = padded(targets, frame)

    @jax.jit
    def learn(variables, pixels, sizes, truths):
        outputs = network.apply(variables, pixels, True, truths=truths, sizes=sizes)
        return {part: jnp.mean(value) for part, value in two_stage.losses(outputs, truths).items()}

    parts = learn(variables, pixels, sizes, truths)
    assert {LOSSES[part] for part in parts} == set(wanted)
    for part, value in parts.items():
        assert_allclose(value, wanted[LOSSES[part]], rtol=1e-3, err_msg=part)
