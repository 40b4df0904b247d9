"""The same networks in torch, the peer of the speed benchmarks; module names are those of our parameters.

Only this file and its siblings named torch_* import torch; whoever uses them imports them late.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fast_device() -> torch.device:
    """A GPU where there is one, which then chooses among algorithms and multiplies in TF32."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda")


def conv(channels: int, features: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels, features, kernel, stride, kernel // 2, bias=bias)


def flat(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H * W * C]; a view where the memory is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1)


class MnistCNN(nn.Module):
    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(1, 32, bias=True), conv(32, 64, bias=True)
        self.fc1, self.output = nn.Linear(64 * 49, 256), nn.Linear(256, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(layer(x)), 2)
        return self.output(F.relu(self.fc1(flat(x))))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: option A (zero channels) or B (a strided 1x1 convolution)."""

    def __init__(self, channels: int, features: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, features, 3, stride), nn.BatchNorm2d(features)
        self.conv2, self.bn2 = conv(features, features), nn.BatchNorm2d(features)
        self.extra, self.stride, self.option = features - channels, stride, option
        if self.extra and option == "B":
            self.shortcut = conv(channels, features, 1, stride)
            self.shortcut_bn = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra and self.option == "B":
            x = self.shortcut_bn(self.shortcut(x))
        elif self.extra:
            half = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half))
        return F.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the stride in the second, and a shortcut, projected where the shape changes."""

    def __init__(self, channels: int, features: int, stride: int) -> None:
        super().__init__()
        out = 4 * features
        self.conv1, self.bn1 = conv(channels, features, 1), nn.BatchNorm2d(features)
        self.conv2, self.bn2 = conv(features, features, 3, stride), nn.BatchNorm2d(features)
        self.conv3, self.bn3 = conv(features, out, 1), nn.BatchNorm2d(out)
        self.projects = stride > 1 or channels != out
        if self.projects:
            self.shortcut, self.shortcut_bn = conv(channels, out, 1, stride), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.shortcut_bn(self.shortcut(x)) if self.projects else x))


class ImageNetResNet(nn.Module):
    """For 224x224 images: a 7x7 convolution, a pool, and four stages of bottlenecks, each twice as wide."""

    def __init__(self, sizes: tuple[int, ...], outputs: int = 1000, width: int = 64) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, width, 7, 2), nn.BatchNorm2d(width)
        self.names, channels = [], width
        for i, size in enumerate(sizes, start=1):
            for j in range(1, size + 1):
                features = width * 2 ** (i - 1)
                self.names.append(f"block{i}_{j}")
                self.add_module(self.names[-1], Bottleneck(channels, features, 2 if i > 1 and j == 1 else 1))
                channels = 4 * features
        self.output = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for name in self.names:
            x = self.get_submodule(name)(x)
        return self.output(x.mean((2, 3)))


class ResNet(nn.Module):
    """For 32x32 images: a 3x3 convolution, then stages of two-convolution blocks, each twice as wide."""

    def __init__(self, sizes: tuple[int, ...], width: int, option: str, outputs: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, width), nn.BatchNorm2d(width)
        self.names, channels = [], width
        for i, size in enumerate(sizes, start=1):
            for j in range(1, size + 1):
                features, stride = width * 2 ** (i - 1), 2 if i > 1 and j == 1 else 1
                self.names.append(f"block{i}_{j}")
                self.add_module(self.names[-1], BasicBlock(channels, features, stride, option))
                channels = features
        self.output = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.names:
            x = self.get_submodule(name)(x)
        return self.output(x.mean((2, 3)))


class PreActBlock(nn.Module):
    def __init__(self, channels: int, features: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), conv(channels, features, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(features), conv(features, features)
        self.shortcut = conv(channels, features, 1, stride) if channels != features or stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        return x + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideResNet(nn.Module):
    """WRN-d-k with (d - 4) / 6 = `blocks` and k = `widen`, without dropout."""

    def __init__(self, blocks: int, widen: int, outputs: int = 10) -> None:
        super().__init__()
        self.conv1 = conv(3, 16)
        self.names, channels = [], 16
        for i in (1, 2, 3):
            features = 16 * widen * 2 ** (i - 1)
            for j in range(1, blocks + 1):
                self.names.append(f"block{i}_{j}")
                self.add_module(self.names[-1], PreActBlock(channels, features, 2 if i > 1 and j == 1 else 1))
                channels = features
        self.bn, self.output = nn.BatchNorm2d(channels), nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for name in self.names:
            x = self.get_submodule(name)(x)
        return self.output(F.relu(self.bn(x)).mean((2, 3)))


class VGG(nn.Module):
    """For 32x32 images: batch normalization, no hidden fully connected layer."""

    def __init__(self, convs: tuple[int, ...], outputs: int = 10) -> None:
        super().__init__()
        self.convs, channels = convs, 3
        for i, number in enumerate(convs, start=1):
            features = 64 * min(2 ** (i - 1), 8)
            for j in range(1, number + 1):
                self.add_module(f"conv{i}_{j}", conv(channels, features, bias=True))
                self.add_module(f"bn{i}_{j}", nn.BatchNorm2d(features))
                channels = features
        self.output = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for i, number in enumerate(self.convs, start=1):
            for j in range(1, number + 1):
                x = self.get_submodule(f"conv{i}_{j}")(x)
                x = F.relu(self.get_submodule(f"bn{i}_{j}")(x))
            x = F.max_pool2d(x, 2)
        return self.output(flat(x))


class GridNet(nn.Module):
    """The detector of models/grid.py: stride-2 convolutions, and residual blocks of 1x1 and 3x3."""

    def __init__(self, outputs: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks, channels = blocks, 3
        for i, (width, number) in enumerate(zip(widths, blocks, strict=True), start=1):
            self._layer(f"down{i}", channels, width, 3, 2)
            for j in range(1, number + 1):
                self._layer(f"block{i}_{j}_a", width, width // 2, 1)
                self._layer(f"block{i}_{j}_b", width // 2, width)
            channels = width
        self._layer("head", channels, channels)
        self.output = conv(channels, outputs, 1, bias=True)

    def _layer(self, name: str, channels: int, features: int, kernel: int = 3, stride: int = 1) -> None:
        self.add_module(f"{name}_conv", conv(channels, features, kernel, stride))
        self.add_module(f"{name}_norm", nn.BatchNorm2d(features))

    def _apply_layer(self, name: str, x: Tensor) -> Tensor:
        x = self.get_submodule(f"{name}_norm")(self.get_submodule(f"{name}_conv")(x))
        return F.leaky_relu(x, 0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        for i, number in enumerate(self.blocks, start=1):
            x = self._apply_layer(f"down{i}", x)
            for j in range(1, number + 1):
                name = f"block{i}_{j}"
                x = x + self._apply_layer(f"{name}_b", self._apply_layer(f"{name}_a", x))
        return self.output(self._apply_layer("head", x))


def with_variables(network: nn.Module, variables: Mapping[str, Any]) -> nn.Module:
    """The network, whose modules have the names of our parameters, with our values, in channels_last."""
    theirs = {
        "kernel": "weight",
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    }
    state = {}

    def read(tree: Mapping[str, Any], path: str) -> None:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                read(value, f"{path}{key}.")
                continue
            array = np.asarray(value)
            if key == "kernel":
                array = array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
            state[path + theirs[key]] = torch.from_numpy(array.copy())

    for collection in variables.values():
        read(collection, "")
    missing, unexpected = network.load_state_dict(state, strict=False)
    wrong = [name for name in missing if not name.endswith("num_batches_tracked")] + unexpected
    if wrong:
        raise ValueError(f"the two networks differ: {', '.join(wrong)}")
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


# By the names of our table of models.
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "mnist_cnn": MnistCNN,
    "resnet20": lambda outputs: ResNet((3, 3, 3), 16, "A", outputs),
    "tiny_resnet": lambda outputs: ResNet((1, 1, 1), 16, "A", outputs),
    "wrn16_4": lambda outputs: WideResNet(2, 4, outputs),
    "wrn28_10": lambda outputs: WideResNet(4, 10, outputs),
    "vgg11_cifar": lambda outputs: VGG((1, 1, 2, 2, 2), outputs),
    "resnet50": lambda outputs: ImageNetResNet((3, 4, 6, 3), outputs),
    "tiny_resnet50": lambda outputs: ImageNetResNet((1, 2), outputs, width=4),
    "resnet18_cifar": lambda outputs: ResNet((2, 2, 2, 2), 64, "B", outputs),
    "grid8": lambda outputs: GridNet(outputs, (16, 32, 64), (0, 1, 2)),
    "grid16": lambda outputs: GridNet(outputs, (16, 32, 64, 128), (0, 1, 2, 2)),
}
