"""Small torch definitions of published networks, with the state-dict names that torchvision gives them."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F


def alexnet(hidden, classes):
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(256 * 36, hidden), nn.ReLU(),
        nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes),
    )  # fmt: skip
    return Classified(features, nn.AdaptiveAvgPool2d(6), classifier)


def vgg(convs, norm, hidden, classes):
    layers, channels = [], 3
    for i, number in enumerate(convs):
        for _ in range(number):
            out = min(64 * 2**i, 512)
            layers += [
                nn.Conv2d(channels, out, 3, padding=1),
                *([nn.BatchNorm2d(out)] if norm else []),
                nn.ReLU(),
            ]
            channels = out
        layers.append(nn.MaxPool2d(2))
    classifier = nn.Sequential(
        nn.Linear(512 * 49, hidden), nn.ReLU(), nn.Dropout(),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, classes),
    )  # fmt: skip
    return Classified(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(7), classifier)


class Classified(nn.Module):
    def __init__(self, features, avgpool, classifier):
        super().__init__()
        self.features, self.avgpool, self.classifier = features, avgpool, classifier

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class Residual(nn.Module):
    def __init__(self, channels, features, stride, bottleneck):
        super().__init__()
        out = 4 * features if bottleneck else features
        shapes = (
            [(features, 1, 1), (features, 3, stride), (out, 1, 1)]
            if bottleneck
            else [(features, 3, stride), (out, 3, 1)]
        )
        self.number = len(shapes)
        before = channels
        for i, (c, k, s) in enumerate(shapes, start=1):
            setattr(self, f"conv{i}", nn.Conv2d(before, c, k, s, k // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(c))
            before = c
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.number + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.number:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, sizes, bottleneck, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for i, size in enumerate(sizes):
            blocks = []
            for j in range(size):
                blocks.append(Residual(channels, 64 * 2**i, 2 if i and not j else 1, bottleneck))
                channels = 64 * 2**i * (4 if bottleneck else 1)
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))


class Dense(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = (
            nn.BatchNorm2d(4 * growth),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x):
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, y], 1)


class DenseNet(nn.Module):
    def __init__(self, blocks, growth, channels, classes):
        super().__init__()
        layers = OrderedDict(
            conv0=nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            norm0=nn.BatchNorm2d(channels),
            relu0=nn.ReLU(),
            pool0=nn.MaxPool2d(3, 2, 1),
        )
        for i, number in enumerate(blocks, start=1):
            block = OrderedDict()
            for j in range(1, number + 1):
                block[f"denselayer{j}"] = Dense(channels, growth)
                channels += growth
            layers[f"denseblock{i}"] = nn.Sequential(block)
            if i < len(blocks):
                parts = OrderedDict(
                    norm=nn.BatchNorm2d(channels),
                    relu=nn.ReLU(),
                    conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
                    pool=nn.AvgPool2d(2),
                )
                layers[f"transition{i}"] = nn.Sequential(parts)
                channels //= 2
        layers["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(F.relu(self.features(x)).mean((2, 3)))


class Fire(nn.Module):
    def __init__(self, channels, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    def __init__(self, version, classes):
        super().__init__()
        fires = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
        channels, kernel, pools = (96, 7, (1, 4, 8)) if version == 0 else (64, 3, (1, 3, 5))
        layers = [nn.Conv2d(3, channels, kernel, 2), nn.ReLU()]
        for i, (squeeze, expand) in enumerate(fires, start=2):
            if i - 1 in pools:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            layers.append(Fire(channels, squeeze, expand))
            channels = 2 * expand
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x):
        return self.classifier(self.features(x)).flatten(1)


class Conv(nn.Module):
    def __init__(self, channels, out, kernel, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, channels, one, reduce3, three, reduce5, five, pool):
        super().__init__()
        self.branch1 = Conv(channels, one, 1)
        self.branch2 = nn.Sequential(Conv(channels, reduce3, 1), Conv(reduce3, three, 3))
        self.branch3 = nn.Sequential(Conv(channels, reduce5, 1), Conv(reduce5, five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), Conv(channels, pool, 1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Auxiliary(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv = Conv(channels, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x):
        x = self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


class GoogLeNet(nn.Module):
    SIZES = {
        "3a": (192, 64, 96, 128, 16, 32, 32), "3b": (256, 128, 128, 192, 32, 96, 64),
        "4a": (480, 192, 96, 208, 16, 48, 64), "4b": (512, 160, 112, 224, 24, 64, 64),
        "4c": (512, 128, 128, 256, 24, 64, 64), "4d": (512, 112, 144, 288, 32, 64, 64),
        "4e": (528, 256, 160, 320, 32, 128, 128), "5a": (832, 256, 160, 320, 32, 128, 128),
        "5b": (832, 384, 192, 384, 48, 128, 128),
    }  # fmt: skip

    def __init__(self, classes):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = Conv(3, 64, 7, 2), Conv(64, 64, 1), Conv(64, 192, 3)
        for name, sizes in self.SIZES.items():
            setattr(self, f"inception{name}", Inception(*sizes))
        self.aux1, self.aux2 = Auxiliary(512, classes), Auxiliary(528, classes)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x):
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        for name in self.SIZES:
            if name in ("4a", "5a"):
                x = F.max_pool2d(x, 3 if name == "4a" else 2, 2, ceil_mode=True)
            x = getattr(self, f"inception{name}")(x)
            if name == "4a":
                self.aux1(x)
            if name == "4d":
                self.aux2(x)
        return self.fc(x.mean((2, 3)))


class CifarResNet(nn.Module):
    """akamaster/pytorch_resnet_cifar10: option A, or B with a "shortcut" of convolution and normalization."""

    def __init__(self, blocks, option):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        channels = 16
        for i in range(3):
            layer = []
            for j in range(blocks):
                layer.append(CifarBlock(channels, 16 * 2**i, 2 if i and not j else 1, option))
                channels = 16 * 2**i
            setattr(self, f"layer{i + 1}", nn.Sequential(*layer))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class CifarBlock(nn.Module):
    def __init__(self, channels, out, stride, option):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.extra = (out - channels) // 2
        self.shortcut = nn.Sequential()
        if self.extra and option == "B":
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra and not len(self.shortcut):
            return F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra)))
        return F.relu(y + self.shortcut(x))


class SEModule(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 16, 1), nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class SEBlock(nn.Module):
    def __init__(self, channels, planes, stride, wide):
        super().__init__()
        out, first = 4 * planes, 2 * planes if wide else planes
        middle = out if wide else planes
        self.conv1, self.bn1 = (
            nn.Conv2d(channels, first, 1, 1 if wide else stride, bias=False),
            nn.BatchNorm2d(first),
        )
        self.conv2 = nn.Conv2d(
            first, middle, 3, stride if wide else 1, 1, groups=64 if wide else 1, bias=False
        )
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = nn.Conv2d(middle, out, 1, bias=False), nn.BatchNorm2d(out)
        self.se_module = SEModule(out)
        self.downsample = None
        if stride != 1 or channels != out:
            k = 3 if wide and stride > 1 else 1
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, k, stride, k // 2, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(self.se_module(y) + (x if self.downsample is None else self.downsample(x)))


class SENet(nn.Module):
    """Cadene's names: layer0 to layer4, se_module, last_linear. Pools as Caffe, in ceil mode."""

    def __init__(self, sizes, wide, classes):
        super().__init__()
        stem = [(3, 64, 3, 2), (64, 64, 3, 1), (64, 128, 3, 1)] if wide else [(3, 64, 7, 2)]
        parts = OrderedDict()
        for i, (c, out, k, s) in enumerate(stem, start=1):
            parts[f"conv{i}"] = nn.Conv2d(c, out, k, s, k // 2, bias=False)
            parts[f"bn{i}"] = nn.BatchNorm2d(out)
            parts[f"relu{i}"] = nn.ReLU()
        parts["pool"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.layer0 = nn.Sequential(parts)
        channels = stem[-1][1]
        for i, size in enumerate(sizes):
            blocks = []
            for j in range(size):
                blocks.append(SEBlock(channels, 64 * 2**i, 2 if i and not j else 1, wide))
                channels = 256 * 2**i
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.stages = len(sizes)
        self.last_linear = nn.Linear(channels, classes)

    def forward(self, x):
        for i in range(self.stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return self.last_linear(x.mean((2, 3)))
