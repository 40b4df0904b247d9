"""Shapes of points, aligned, and the few ways in which they vary (Cootes et al. 1995, sections 3 and 4)."""

import dataclasses

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.faces.warp import fit_similarity

DEVIATIONS = 3.0  # so far from the mean a mode may go


@dataclasses.dataclass(frozen=True)
class ShapeModel:
    """A mean shape and modes of variation around it.

    mean: [n, 2], centred, of root mean square size 1.
    modes: [m, 2 n], orthonormal, the largest variation first; variances: [m].
    """

    mean: np.ndarray
    modes: np.ndarray
    variances: np.ndarray

    def shape(self, parameters: np.ndarray) -> np.ndarray:
        """The shape [n, 2] of parameters b [m], in the model's frame."""
        return self.mean + (parameters @ self.modes).reshape(-1, 2)

    def limit(self, parameters: np.ndarray) -> np.ndarray:
        """Parameters, none further than three standard deviations from 0."""
        most = DEVIATIONS * np.sqrt(self.variances)
        return np.clip(parameters, -most, most)

    def project(self, points: np.ndarray, limited: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The model's shape nearest to points [n, 2], in their own frame; and its parameters [m]."""
        frame = fit_similarity(points, self.mean)
        parameters = self.modes @ (frame(points) - self.mean).ravel()
        parameters = self.limit(parameters) if limited else parameters
        shape = self.shape(parameters)
        return fit_similarity(shape, points)(shape), parameters

    def place(self, points: np.ndarray) -> np.ndarray:
        """The mean shape [n, 2] put over points [n, 2] of a face by the best similarity."""
        return fit_similarity(self.mean, points)(self.mean)


def align(shapes: np.ndarray, rounds: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Generalized Procrustes alignment by shift, rotation and scale; mirrored shapes stay mirrored.

    The mean keeps the orientation of the plain mean and root mean square size 1 in each round: else it would shrink and
    turn.

    Args:
      shapes: [N, n, 2].

    Returns:
      The aligned shapes [N, n, 2] and their mean [n, 2].
    """
    # As complex numbers: a similarity is one factor, and a reflection cannot be written.
    points = (shapes - shapes.mean(1, keepdims=True)) @ np.array([1, 1j])
    first = _unit(points.mean(0))
    mean = first
    for _ in range(rounds):
        aligned = points * _factors(points, mean)[:, None]
        turned = aligned.mean(0)
        new = _unit(turned * _factors(turned[None], first))
        done = np.abs(new - mean).max() < 1e-9
        mean = new
        if done:
            break
    return _plain(aligned), _plain(mean)


def _plain(points: np.ndarray) -> np.ndarray:
    return np.stack([points.real, points.imag], axis=-1)


def _factors(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The complex numbers [N] that take centred points [N, n] as near to target [n] as can be."""
    return (points.conj() @ target) / np.maximum(np.sum(np.abs(points) ** 2, axis=1), 1e-12)


def _unit(points: np.ndarray) -> np.ndarray:
    return points / np.sqrt(np.mean(np.abs(points) ** 2))


def fit_shape(shapes: np.ndarray, explained: float = 0.9) -> ShapeModel:
    """The model of shapes [N, n, 2] with as few modes as explain this share of their variance.

    Raises ConfigError for fewer than two shapes, for points that are not finite, and for a share outside (0, 1].
    """
    if len(shapes) < 2 or not np.all(np.isfinite(shapes)):
        raise ConfigError(f"a shape model needs at least two shapes of finite points, not {len(shapes)}")
    if not 0 < explained <= 1:
        raise ConfigError(
            f"modes that explain {explained:g} of the variance: it must be above 0 and at most 1"
        )
    aligned, mean = align(shapes)
    rows = (aligned - mean).reshape(len(shapes), -1)
    rows -= rows.mean(0)
    _, singular, modes = np.linalg.svd(rows, full_matrices=False)
    variances = singular**2 / (len(shapes) - 1)
    total = np.cumsum(variances)
    # Alignment leaves modes of no variance; they are none.
    count = min(int(np.searchsorted(total, explained * total[-1] * (1 - 1e-9))) + 1, len(shapes) - 1)
    return ShapeModel(mean, modes[:count], variances[:count])


def normalized_error(found: np.ndarray, known: np.ndarray, left: int = 36, right: int = 45) -> np.ndarray:
    """Mean distances of points [..., n, 2] to the known ones, as shares of the distance between two of those (the outer
    corners of the eyes): [...]."""
    eyes = np.linalg.norm(known[..., left, :] - known[..., right, :], axis=-1)
    return np.linalg.norm(found - known, axis=-1).mean(-1) / eyes
