"""Feature visualization in torch as lucent does it: the peer of the rendering benchmark.

lucent's `render_vis` with `fixed_image_size`: a Fourier image in decorrelated colours, padding, jitter, zoom, rotation
and jitter again, a resize, the whole network with a hook at the layer, Adam. Written anew, with cheaper shifts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnjax.benchmarks.torch_networks import with_variables
from cnnjax.models.squeezenet import FIRES
from cnnjax.visualization.parameterizations import RECORRELATE, Fourier


class SqueezeNet(nn.Module):
    """SqueezeNet 1.0 in its authors' Caffe form; `stages` keeps what a hook on every fire module would.

    The modules fire2 to fire9 do nothing but carry lucent's own hooks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages: dict[str, Tensor] = {}
        self.conv1 = nn.Conv2d(3, 96, 7, 2)
        channels = 96
        for i, (squeeze, expand) in enumerate(FIRES, start=2):
            setattr(self, f"fire{i}_squeeze1x1", nn.Conv2d(channels, squeeze, 1))
            setattr(self, f"fire{i}_expand1x1", nn.Conv2d(squeeze, expand, 1))
            setattr(self, f"fire{i}_expand3x3", nn.Conv2d(squeeze, expand, 3, padding=1))
            setattr(self, f"fire{i}", nn.Identity())
            channels = 2 * expand
        self.output = nn.Conv2d(channels, 1000, 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        for i in range(2, 10):
            if i in (2, 5, 9):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = F.relu(getattr(self, f"fire{i}_squeeze1x1")(x))
            sides = [getattr(self, f"fire{i}_expand{kernel}")(x) for kernel in ("1x1", "3x3")]
            x = self.stages[f"fire{i}"] = getattr(self, f"fire{i}")(F.relu(torch.cat(sides, 1)))
        return F.relu(self.output(x)).mean((2, 3))


def fourier_image(parameters: Tensor, scale: Tensor, size: int) -> Tensor:
    """[N, 3, H, W // 2 + 1, 2] -> [N, 3, H, W] in [0, 1]."""
    spectrum = torch.view_as_complex(parameters) * scale
    planes = torch.fft.irfft2(spectrum, s=(size, size)) / 4
    colours = torch.from_numpy(RECORRELATE).to(planes)
    return torch.sigmoid(torch.einsum("nchw,dc->ndhw", planes, colours))


def transform(images: Tensor, size: int, generator: np.random.Generator) -> Tensor:
    """pad(12), jitter(8), zoom by 0.90 to 1.10, rotation by -10 to 10 degrees, jitter(4), back to the size."""
    images = F.pad(images, (12,) * 4, value=0.5)
    images = _shift(images, generator.integers(8, size=2))
    zoom = 1 + (generator.integers(11) - 5) / 50
    zoomed = [int(np.ceil(zoom * side)) for side in images.shape[2:]]
    lost = [
        max(0, int(np.ceil((side - new) / 2))) for side, new in zip(images.shape[2:], zoomed, strict=True)
    ]
    images = F.interpolate(images, zoomed, mode="bilinear", align_corners=True)
    images = F.pad(images, (lost[1], lost[1], lost[0], lost[0]))
    degrees = generator.choice([*range(-10, 11), *5 * [0]])
    images = _rotate(images, float(np.deg2rad(degrees)))
    images = _shift(images, generator.integers(4, size=2))
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=True)


def _shift(images: Tensor, pixels: np.ndarray) -> Tensor:
    down, right = (int(p) for p in pixels)
    height, width = images.shape[2:]
    return F.pad(images, (right, 0, down, 0))[:, :, :height, :width]


def _rotate(images: Tensor, angle: float) -> Tensor:
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = torch.tensor(
        [[cosine, -sine, 0.0], [sine, cosine, 0.0]], dtype=images.dtype, device=images.device
    )
    places = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, places, mode="bilinear", padding_mode="zeros", align_corners=False)


class Renderer:
    """A network with our variables; `render` makes one picture for each channel of a layer, in one batch."""

    def __init__(self, variables: Mapping[str, Any], size: int):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = with_variables(SqueezeNet(), variables).to(self.device).eval()
        for weight in self.network.parameters():
            weight.requires_grad_(False)
        self.size = size
        self.scale = torch.from_numpy(Fourier((size, size, 3)).scale()).to(self.device)

    def render(self, layer: str, channels: Sequence[int], steps: int) -> np.ndarray:
        """[N, size, size, 3] in [0, 1] after so many updates."""
        generator = np.random.default_rng(0)
        shape = (len(channels), 3, self.size, self.size // 2 + 1, 2)
        start = 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
        parameters = start.to(self.device).requires_grad_()
        optimizer = torch.optim.Adam([parameters], lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            images = fourier_image(parameters, self.scale, self.size)
            self.network((transform(images, self.size, generator) - 0.5) / 0.25)
            stages: Any = self.network.stages
            loss = -torch.stack(
                [stages[layer][i, channel].mean() for i, channel in enumerate(channels)]
            ).sum()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            images = fourier_image(parameters, self.scale, self.size)
        return images.permute(0, 2, 3, 1).cpu().numpy()

    def render_in_lucent(self, layer: str, channels: Sequence[int], steps: int) -> np.ndarray:
        """The same by lucent itself, with its defaults but for the size; raises ImportError where it is not installed."""
        from lucent.optvis import objectives, param, render

        wanted = sum(objectives.channel(layer, channel, batch=i) for i, channel in enumerate(channels))
        frames = render.render_vis(
            self.network,
            wanted,
            lambda: param.image(self.size, batch=len(channels)),
            thresholds=(steps,),
            progress=False,
            show_image=False,
            fixed_image_size=self.size,
        )
        return frames[-1]
