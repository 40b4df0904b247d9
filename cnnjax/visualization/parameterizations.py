"""Pictures as functions of unconstrained numbers: what is optimized decides what optimization finds.

A parameterization has `init(key, batch) -> parameters` and `image(parameters) -> [N, H, W, C] in [0, 1]`. Pictures
of three channels are made in decorrelated colours; any other number of channels is used as it is.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import ConfigError

# A square root of the covariance of ImageNet's colours; columns: brightness and two oppositions (lucid).
COLOR_CORRELATION = np.asarray([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]], np.float32)
# Scaled so that its longest column has norm 1.
RECORRELATE = COLOR_CORRELATION / np.linalg.norm(COLOR_CORRELATION, axis=0).max()


class Parameterization(Protocol):
    """What pictures are made of: `init` draws parameters of `batch` pictures, `image` makes them [N, H, W, C] in [0, 1]."""

    def init(self, key: Array, batch: int) -> Any: ...

    def image(self, parameters: Any) -> Array: ...


def to_color(x: Array) -> Array:
    """[..., 3] decorrelated -> correlated as the colours of photographs are."""
    return _mix(x, RECORRELATE)


def from_color(x: Array) -> Array:
    """The inverse of to_color."""
    return _mix(x, np.linalg.inv(RECORRELATE))


def _mix(x: Array, matrix: np.ndarray) -> Array:
    """`matrix` times every colour [..., 3], plane by plane: in full precision on every device, and on CPU a matrix
    product of 3 by 3 takes longer."""
    return jnp.stack([sum(row[i] * x[..., i] for i in range(3)) for row in matrix.tolist()], axis=-1)


def _squash(x: Array, decorrelate: bool) -> Array:
    return jax.nn.sigmoid(to_color(x) if decorrelate and x.shape[-1] == 3 else x)


def _unsquash(images: Array, decorrelate: bool) -> Array:
    images = jnp.clip(images, 1 / 512, 511 / 512)
    x = jnp.log(images) - jnp.log1p(-images)
    return from_color(x) if decorrelate and images.shape[-1] == 3 else x


def _static(cls: type) -> type:
    """A pytree without leaves: all of it is known when a program is compiled."""
    names = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=[], meta_fields=names)


@_static
@dataclasses.dataclass(frozen=True)
class Pixels:
    """One number per pixel and channel. shape: [H, W, C]."""

    shape: tuple[int, int, int]
    decorrelate: bool = True
    deviation: float = 0.01

    def init(self, key: Array, batch: int) -> Array:
        return self.deviation * jax.random.normal(key, (batch, *self.shape))

    def image(self, parameters: Array) -> Array:
        return _squash(parameters, self.decorrelate)

    def encode(self, images: Array) -> Array:
        """Parameters that give these pictures, up to 1/512."""
        return _unsquash(images, self.decorrelate)


@_static
@dataclasses.dataclass(frozen=True)
class Fourier:
    """Complex amplitudes of waves, divided by their frequency: large shapes move as easily as small ones.

    shape: [H, W, C]. With frequencies f in cycles per pixel, the amplitudes are multiplied by
    sqrt(H W) / max(f, 1 / max(H, W))^decay before the inverse transform, and the result divided by 4 (lucid).
    """

    shape: tuple[int, int, int]
    decorrelate: bool = True
    decay: float = 1.0
    deviation: float = 0.01

    def scale(self) -> np.ndarray:
        """[H, W // 2 + 1], what the amplitudes are multiplied by."""
        height, width, _ = self.shape
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
        scale = np.maximum(frequency, 1.0 / max(height, width)) ** -self.decay * np.sqrt(height * width)
        return scale.astype(np.float32)

    def init(self, key: Array, batch: int) -> Array:
        height, width, channels = self.shape
        return self.deviation * jax.random.normal(key, (2, batch, channels, height, width // 2 + 1))

    def image(self, parameters: Array) -> Array:
        real, imaginary = parameters * self.scale()[None, None, None]
        planes = jnp.fft.irfft2(jax.lax.complex(real, imaginary), s=self.shape[:2]) / 4.0
        return _squash(jnp.moveaxis(planes, 1, -1), self.decorrelate)

    def encode(self, images: Array) -> Array:
        """Parameters that give these pictures, up to 1/512."""
        planes = jnp.moveaxis(_unsquash(images, self.decorrelate), -1, 1)
        spectrum = jnp.fft.rfft2(4.0 * planes)
        return jnp.stack([spectrum.real, spectrum.imag]) / self.scale()[None, None, None]


def natural(slope: Array, decay: float) -> Array:
    """A gradient of pixels [N, H, W, C] turned to what photographs have: large shapes and their colours.

    Waves are divided by their frequency^decay and colours correlated, as a step in `Fourier` would; 0 is the
    gradient itself.
    """
    if decay == 0:
        return slope
    height, width = slope.shape[1:3]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    scale = np.maximum(frequency, 1.0 / max(height, width)) ** -decay
    spectrum = jnp.fft.rfft2(slope, axes=(1, 2)) * scale.astype(np.complex64)[None, :, :, None]
    slope = jnp.fft.irfft2(spectrum, s=(height, width), axes=(1, 2))
    return _mix(slope, RECORRELATE @ RECORRELATE.T) if slope.shape[-1] == 3 else slope


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["magnitude"], meta_fields=["shape", "decorrelate"]
)
@dataclasses.dataclass(frozen=True)
class Maco:
    """Only the phases of waves; their magnitudes are those of photographs (Fel et al. 2023).

    shape: [H, W, C]. magnitude: [C, H, W // 2 + 1], see `magnitude_template`.
    """

    shape: tuple[int, int, int]
    magnitude: Array
    decorrelate: bool = True

    def init(self, key: Array, batch: int) -> Array:
        height, width, channels = self.shape
        return jax.random.normal(key, (batch, channels, height, width // 2 + 1))

    def planes(self, parameters: Array) -> Array:
        """[N, C, H, W] whose magnitudes are exactly the template's."""
        axes = (1, 2, 3)
        deviation = jnp.std(parameters, axis=axes, keepdims=True)
        phase = (parameters - jnp.mean(parameters, axis=axes, keepdims=True)) / (deviation + 1e-5)
        phase = _hermitian(phase, self.shape[1])
        magnitude = self.magnitude[None]
        spectrum = jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
        return jnp.fft.irfft2(spectrum, s=self.shape[:2])

    def image(self, parameters: Array) -> Array:
        planes = self.planes(parameters)
        axes = (1, 2, 3)
        mean, deviation = (f(planes, axis=axes, keepdims=True) for f in (jnp.mean, jnp.std))
        return _squash(jnp.moveaxis((planes - mean) / (deviation + 1e-5), 1, -1), self.decorrelate)


def magnitude_template(images: np.ndarray, shape: tuple[int, int, int], decorrelate: bool = True) -> Array:
    """Mean magnitudes of the waves of photographs, for Maco: [C, H, W // 2 + 1], without their brightness.

    images: [N, H, W, C] in [0, 1], of the height, width and channels of `shape`.
    """
    if images.shape[1:] != shape:
        raise ConfigError(
            f"photographs of {images.shape[1:]} cannot give the magnitudes of pictures of {shape}"
        )
    x = jnp.asarray(images, jnp.float32)
    x = from_color(x) if decorrelate and shape[2] == 3 else x
    magnitude = jnp.mean(jnp.abs(jnp.fft.rfft2(jnp.moveaxis(x, -1, 1))), axis=0)
    return magnitude.at[:, 0, 0].set(0.0)


def _hermitian(phase: Array, width: int) -> Array:
    """Makes the phases of a half spectrum those of a real picture: phase(-k) = -phase(k).

    Only the columns of no and of half the sampling frequency hold both k and -k; elsewhere nothing changes. Without
    this an inverse transform would change their magnitudes.
    """
    columns = [0, width // 2] if width % 2 == 0 else [0]
    for column in columns:
        line = phase[..., column]
        opposite = jnp.roll(line[..., ::-1], 1, axis=-1)
        phase = phase.at[..., column].set((line - opposite) / np.float32(np.sqrt(2)))
    return phase
