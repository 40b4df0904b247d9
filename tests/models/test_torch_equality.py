"""Every imported family gives torch's numbers, at the output and at named stages, from torch's own weights."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is torch")

import torch_reference as reference  # noqa: E402

from cnnjax.models import create_model  # noqa: E402
from cnnjax.weights.convert import load_weights, save_torchvision  # noqa: E402

# Model, changed fields, torch's network, image size, stage -> torch module whose output it is.
CASES = {
    "alexnet_one_tower": (
        {"hidden": 48, "num_outputs": 11},
        lambda: reference.alexnet(48, 11),
        96,
        {"conv1": "features.1", "pool2": "features.5", "conv4": "features.9", "pool5": "features.12", "fc6": "classifier.2", "fc7": "classifier.5"},
    ),
    "vgg16_bn": (
        {"hidden": (24, 24), "num_outputs": 11},
        lambda: reference.vgg((2, 2, 3, 3, 3), True, 24, 11),
        32,
        {"conv1_1": "features.2", "conv2_2": "features.12", "pool3": "features.23", "conv5_3": "features.42", "fc7": "classifier.4"},
    ),
    "vgg11": (
        {"hidden": (24, 24), "num_outputs": 11},
        lambda: reference.vgg((1, 1, 2, 2, 2), False, 24, 11),
        64,
        {"conv1_1": "features.1", "conv3_2": "features.9", "pool5": "features.20"},
    ),
    "googlenet_bn_aux": (
        {"num_outputs": 11},
        lambda: reference.GoogLeNet(11),
        71,
        {"conv2d0": "conv1", "conv2d2": "conv3", "mixed3a": "inception3a", "mixed4a": "inception4a", "mixed5b": "inception5b", "aux1": "aux1", "aux2": "aux2", "inception4d/b3x3_bottleneck": "inception4d.branch2.0"},
    ),
    "resnet18": (
        {},
        lambda: reference.ResNet((2, 2, 2, 2), False, 1000),
        65,
        {"pool1": "maxpool", "stage1": "layer1", "block2_1/sum": "layer2.0", "stage4": "layer4"},
    ),
    "resnet50": (
        {},
        lambda: reference.ResNet((3, 4, 6, 3), True, 1000),
        64,
        {"pool1": "maxpool", "stage1": "layer1", "block3_2/sum": "layer3.1", "stage4": "layer4"},
    ),
    "densenet121": (
        {},
        lambda: reference.DenseNet((6, 12, 24, 16), 32, 64, 1000),
        64,
        {"conv0": "features.relu0", "pool0": "features.pool0", "block1": "features.denseblock1", "transition2": "features.transition2", "norm5_pre_relu": "features.norm5", "block3_layer5/new": "features.denseblock3.denselayer5.conv2"},
    ),
    "squeezenet1_0": (
        {},
        lambda: reference.SqueezeNet(0, 1000),
        70,
        {"conv1": "features.1", "pool1": "features.2", "fire4": "features.5", "pool8": "features.11", "fire9": "features.12"},
    ),
    "squeezenet1_1": (
        {},
        lambda: reference.SqueezeNet(1, 1000),
        64,
        {"fire3": "features.4", "fire5": "features.7", "fire9": "features.12"},
    ),
    "resnet20": ({}, lambda: reference.CifarResNet(3, "A"), 32, {"stage1": "layer1", "block2_1/sum": "layer2.0", "stage3": "layer3"}),
    "resnet20_b": ({}, lambda: reference.CifarResNet(3, "B"), 32, {"stage2": "layer2", "stage3": "layer3"}),
    "se_resnet50": (
        {"stage_sizes": (1, 2)},
        lambda: reference.SENet((1, 2), False, 1000),
        64,
        {"pool1": "layer0.pool", "stage1": "layer1", "stage2": "layer2"},
    ),
    "senet154": (
        {"stage_sizes": (1, 2)},
        lambda: reference.SENet((1, 2), True, 1000),
        63,
        {"conv3": "layer0.relu3", "stage1": "layer1", "stage2": "layer2"},
    ),
}  # fmt: skip
LONG = {"densenet121", "resnet50", "googlenet_bn_aux"}


def randomize(network):
    """Weights that keep activations of order one, and statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            for tensor in (module.bias, module.running_mean):
                torch.nn.init.normal_(tensor, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def outputs_of_modules(network, names, x):
    found, hooks = {}, []
    for name, module in network.named_modules():
        if name in names:
            hooks.append(
                module.register_forward_hook(
                    lambda _, __, y, name=name: found.update({name: y.detach().clone()})
                )
            )
    with torch.no_grad():
        found[""] = network(x)
    return {name: y.numpy().transpose(0, 2, 3, 1) if y.ndim == 4 else y.numpy() for name, y in found.items()}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) if n in LONG else n for n in CASES])
def test_torch_s_weights_give_torch_s_numbers(name, tmp_path):
    fields, network, size, modules = CASES[name]
    network = randomize(network())
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    expected = outputs_of_modules(
        network, set(modules.values()), torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    )

    model = create_model(name).clone(**fields)
    template = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = load_weights(tmp_path / "weights.pth", name, template)
    logits, state = jax.jit(partial(model.apply, mutable=["stages"]))(variables, jnp.asarray(x))
    stages = flax.traverse_util.flatten_dict(state["stages"], sep="/")
    for ours, theirs in [(logits, ""), *((stages[stage], module) for stage, module in modules.items())]:
        assert np.abs(expected[theirs]).max() > 1e-3
        assert np.abs(ours - expected[theirs]).max() < 1e-4 * np.abs(expected[theirs]).max(), theirs

    save_torchvision(tmp_path / "back.safetensors", name, variables)
    from safetensors.torch import load_file

    back = load_file(tmp_path / "back.safetensors")
    assert set(back) == {key for key in network.state_dict() if "num_batches" not in key}
    for key, tensor in back.items():
        assert torch.equal(tensor, network.state_dict()[key]), key
    network.load_state_dict(back)  # strict
