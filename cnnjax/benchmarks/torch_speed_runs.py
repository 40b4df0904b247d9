"""The recipes of the speed runs in torch, at any width, length and batch, in float32: what their authors' scripts compute
(airbench94_muon and airbench96 of KellerJordan/cifar10-airbench, the last notebook of tuomaso/train_mnist_fast)."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Split = Mapping[str, np.ndarray]  # "image", uint8 [N, H, W, C], and "label"
MUON, SGD = "muon", "sgd"
_ATTENTIVE = 5000  # images that the whitening is computed from
_AT_ONCE = 2000  # images of an evaluation


@dataclasses.dataclass(frozen=True)
class Airbench:
    """Numbers of airbench94_muon (rule "muon") or airbench96 ("sgd"), but for widths, epochs and batch."""

    rule: str
    widths: tuple[int, int, int]
    epochs: int
    batch: int
    whiten_epochs: int = 3

    @property
    def translate(self) -> int:
        return 2 if self.rule == MUON else 4

    @property
    def cutout(self) -> int:
        return 0 if self.rule == MUON else 12


class Norm(nn.BatchNorm2d):
    """With a bias alone."""

    def __init__(self, features: int, rule: str):
        super().__init__(features, eps=1e-12, momentum=0.4 if rule == MUON else 0.1)
        self.weight.requires_grad = False


class Block(nn.Module):
    def __init__(self, channels: int, features: int, rule: str):
        super().__init__()
        convs = 2 if rule == MUON else 3
        sizes = [channels] + convs * [features]
        self.convs = nn.ModuleList(
            nn.Conv2d(sizes[i], features, 3, padding="same", bias=False) for i in range(convs)
        )
        self.norms = nn.ModuleList(Norm(features, rule) for _ in range(convs))
        for conv in self.convs:
            weight: Tensor = conv.weight.data  # type: ignore[assignment]
            nn.init.dirac_(weight[: weight.shape[1]])

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norms[0](F.max_pool2d(self.convs[0](x), 2)))
        y = self.norms[1](self.convs[1](x))
        if len(self.convs) == 3:
            y = x + self.norms[2](self.convs[2](F.gelu(y)))
        return F.gelu(y)


class Network(nn.Module):
    def __init__(self, recipe: Airbench, images: Tensor):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        self.whiten.weight.data[:] = whitening(images[:_ATTENTIVE])
        sizes = (24, *recipe.widths)
        self.blocks = nn.Sequential(
            *(Block(a, b, recipe.rule) for a, b in zip(sizes, sizes[1:], strict=False))
        )
        self.head = nn.Linear(recipe.widths[-1], 10, bias=False)
        self.scale = 1 / 9
        if recipe.rule == MUON:
            self.head.weight.data /= self.head.weight.data.std()
            self.scale = 1 / recipe.widths[-1]
        else:
            assert self.whiten.bias is not None
            self.whiten.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.gelu(self.whiten(x)))
        return self.scale * self.head(F.max_pool2d(x, 3).flatten(1))


def whitening(images: Tensor) -> Tensor:
    """[24, 3, 2, 2]: the principal components of 2x2 patches, each of about unit variance, and their negatives."""
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(12, 3, 2, 2)
    return torch.cat([filters, -filters])


def orthogonal(update: Tensor) -> Tensor:
    """Three steps of Newton and Schulz on a filter's gradient [O, I, H, W]."""
    x = update.flatten(1)
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).reshape(update.shape)


def pixels(images: np.ndarray) -> Tensor:
    """uint8 [N, 32, 32, 3] -> normalized float32 [N, 3, 32, 32], channels last in memory."""
    mean, std = torch.tensor((0.4914, 0.4822, 0.4465)), torch.tensor((0.2470, 0.2435, 0.2616))
    x = (torch.from_numpy(images).float() / 255 - mean) / std
    return x.permute(0, 3, 1, 2)


def epochs(recipe: Airbench, images: Tensor, labels: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Epoch, images and labels of each batch: flipped at random at first and then by turns, moved, cut out."""
    count, shift = len(images), recipe.translate
    flipped = torch.where((torch.rand(count) < 0.5)[:, None, None, None], images.flip(-1), images)
    padded = F.pad(flipped, (shift,) * 4, "reflect")
    for epoch in range(recipe.epochs):
        order = torch.randperm(count)
        for first in range(0, count - recipe.batch + 1, recipe.batch):
            rows = order[first : first + recipe.batch]
            x = moved(padded[rows], 2 * shift)
            x = x.flip(-1) if epoch % 2 else x
            yield epoch, without_square(x, recipe.cutout) if recipe.cutout else x, labels[rows]


def moved(padded: Tensor, most: int) -> Tensor:
    """A window of each padded image, `most` pixels smaller."""
    side = padded.shape[-1] - most
    at = torch.randint(0, most + 1, (2, len(padded)))
    rows, columns = at[..., None] + torch.arange(side)
    return padded[torch.arange(len(padded))[:, None, None], :, rows[:, :, None], columns[:, None]].permute(
        0, 3, 1, 2
    )


def without_square(x: Tensor, side: int) -> Tensor:
    size = x.shape[-1]
    corner = torch.randint(0, size - side + 1, (2, len(x)))
    away = torch.arange(size) - corner[..., None]
    inside = (away >= 0) & (away < side)
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None])[:, None], 0)


def run_airbench(recipe: Airbench, train: Split, test: Split, seed: int) -> float:
    """The accuracy on the test set, with views, of one run."""
    torch.manual_seed(seed)
    images, labels = pixels(train["image"]), torch.from_numpy(train["label"]).long()
    network = Network(recipe, images).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    per_epoch = len(images) // recipe.batch
    rule = (Muon if recipe.rule == MUON else Lookahead)(recipe, network, recipe.epochs * per_epoch, per_epoch)
    network.train()
    for step, (epoch, x, y) in enumerate(epochs(recipe, images, labels)):
        assert network.whiten.bias is not None
        network.whiten.bias.requires_grad = epoch < recipe.whiten_epochs
        network.zero_grad(set_to_none=True)
        x = x.contiguous(memory_format=torch.channels_last)
        F.cross_entropy(network(x), y, label_smoothing=0.2, reduction="sum").backward()
        rule.step(step)
    rule.end()
    network.eval()
    with torch.no_grad():
        found = torch.cat([with_views(network, x) for x in pixels(test["image"]).split(_AT_ONCE)])
    return float((found.argmax(1) == torch.from_numpy(test["label"])).float().mean())


def with_views(network: nn.Module, x: Tensor) -> Tensor:
    """Logits averaged over mirrored and shifted views."""

    def mirrored(x: Tensor) -> Tensor:
        return (network(x) + network(x.flip(-1))) / 2

    padded = F.pad(x, (1,) * 4, "reflect")
    return mirrored(x) / 2 + (mirrored(padded[:, :, :32, :32]) + mirrored(padded[:, :, 2:, 2:])) / 4


class Muon:
    """airbench94_muon's: filters by Muon, the head and biases by SGD; all rates fall to zero in a line."""

    def __init__(self, recipe: Airbench, network: Network, steps: int, per_epoch: int):
        decay = 2e-6 * recipe.batch
        self.steps, self.whiten_steps = steps, recipe.whiten_epochs * per_epoch
        norms = [p for name, p in network.named_parameters() if "norm" in name and p.requires_grad]
        groups: list = [
            dict(params=[network.whiten.bias], lr=0.053, weight_decay=decay / 0.053),
            dict(params=norms, lr=0.053, weight_decay=decay / 0.053),
            dict(params=[network.head.weight], lr=0.67, weight_decay=decay / 0.67),
        ]
        self.rest = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
        self.rates = [group["lr"] for group in groups]
        self.filters = [p for p in network.blocks.parameters() if p.ndim == 4]
        self.momenta = [torch.zeros_like(p) for p in self.filters]

    @torch.no_grad()
    def step(self, step: int) -> None:
        left = 1 - step / self.steps
        shares = (max(0.0, 1 - step / self.whiten_steps), left, left)
        for group, rate, share in zip(self.rest.param_groups, self.rates, shares, strict=True):
            group["lr"] = rate * share
        self.rest.step()
        for filters, momentum in zip(self.filters, self.momenta, strict=True):
            gradient = filters.grad
            assert gradient is not None
            momentum.mul_(0.6).add_(gradient)
            filters.mul_(len(filters) ** 0.5 / filters.norm())
            filters.sub_(orthogonal(gradient + 0.6 * momentum), alpha=0.24 * left)

    def end(self) -> None:
        pass


class Lookahead:
    """airbench96's: SGD with a triangular rate, that every five steps goes on from an average of its weights."""

    def __init__(self, recipe: Airbench, network: Network, steps: int, per_epoch: int):
        self.steps, self.network = steps, network
        scale = 1 + 1 / (1 - 0.85)
        rate, decay = 9 / 1024 / scale, 0.012 * recipe.batch / 1024 / scale
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        groups: list = [
            dict(
                params=[p for name, p in named if "norm" in name],
                lr=64 * rate,
                weight_decay=decay / (64 * rate),
            ),
            dict(params=[p for name, p in named if "norm" not in name], lr=rate, weight_decay=decay / rate),
        ]
        self.rule, self.rates = torch.optim.SGD(groups, momentum=0.85, nesterov=True), (64 * rate, rate)
        self.average = {name: value.clone() for name, value in network.state_dict().items()}

    def step(self, step: int) -> None:
        rise = int(0.1 * self.steps)
        share = 0.2 + 0.8 * step / rise if step < rise else (self.steps - step) / (self.steps - rise)
        for group, rate in zip(self.rule.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.rule.step()
        if (step + 1) % 5 == 0:
            self._look(0.95**5 * ((step + 1) / self.steps) ** 3)

    def end(self) -> None:
        self._look(1.0)

    @torch.no_grad()
    def _look(self, keep: float) -> None:
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
                value.copy_(self.average[name])


def run_mnist(train: Split, test: Split, seed: int, batch: int = 256) -> float:
    """The accuracy on the test set after one epoch of train_mnist_fast; its examples come in another order for each seed."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip
    x, test_x = (
        (torch.from_numpy(of["image"]).float() / 255 - 0.1307).permute(0, 3, 1, 2) / 0.3081
        for of in (train, test)
    )
    y = torch.from_numpy(train["label"]).long()
    order, steps = torch.randperm(len(x)), math.ceil(len(x) / batch)
    rule = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.7, 0.9))
    schedule = torch.optim.lr_scheduler.OneCycleLR(rule, max_lr=1e-2, total_steps=steps, cycle_momentum=False)
    for rows in order.split(batch):
        rule.zero_grad()
        F.cross_entropy(network(x[rows]), y[rows]).backward()
        rule.step()
        schedule.step()
    with torch.no_grad():
        found = torch.cat([network(part).argmax(1) for part in test_x.split(_AT_ONCE)])
    return float((found == torch.from_numpy(test["label"])).float().mean())
