"""Training at several sizes: which ones a model can take."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.config import ConfigError
from cnnjax.models import Model

Frame = tuple[int, int]  # height, width


def frames(model: Model, heights: Sequence[int], image_shape: tuple[int, ...]) -> list[Frame]:
    """Heights and widths in proportion to images [H, W, C]; traces the model at each, without computing anything.

    Raises ConfigError if the model has weights that depend on the size, as fully connected layers have, or an output
    whose cells would change their size in pixels.
    """
    if not heights:
        return []
    height, width, channels = image_shape

    def trace(frame: Frame) -> tuple[tuple[float, ...], Any]:
        """The size of the outputs' cells in pixels, if they have any, and the shapes of the weights."""
        image = jax.ShapeDtypeStruct((1, *frame, channels), jnp.float32)
        output, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
        maps = output if hasattr(model, "heads") else (output,)  # others may return more than arrays
        shapes = [one.shape for one in maps if len(getattr(one, "shape", ())) == 4]
        return tuple(
            side / n for shape in shapes for side, n in zip(frame, shape[1:3], strict=True)
        ), variables

    cell, weights = trace((height, width))
    found = []
    for one in heights:
        frame = (one, width * one // height)
        if one <= 0 or frame[1] * height != width * one:
            raise ConfigError(f"augment.sizes={one}: no whole width is in proportion to {height}x{width}")
        other_cell, other_weights = trace(frame)
        if other_weights != weights:
            raise ConfigError(
                f"augment.sizes={one}: the model has weights for images of {height}x{width} only"
            )
        if other_cell != cell:
            of = "x".join(f"{side:g}" for side in cell)
            raise ConfigError(
                f"augment.sizes={one}: {frame[0]}x{frame[1]} does not divide into cells of {of}"
            )
        found.append(frame)
    return found
