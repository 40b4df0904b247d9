"""A demonstration: a trained classifier slides over a large canvas, window by window and in one pass."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.drawing import figures
from cnnjax.inspect.summary import compiled_costs
from cnnjax.ops.dense import to_dense
from cnnjax.runs.run import Run
from cnnjax.runs.workdir import write_atomically

_PLACES = 5  # the canvas has so many places for an image along each side
_REPEATS = 5
_MAPS = 10  # classes whose heat maps are drawn


@dataclasses.dataclass(frozen=True)
class Slide:
    """What the two ways, each window alone and all in one pass, cost (median seconds, FLOPs), and how they differ."""

    windows: int
    difference: float
    seconds: tuple[float, float]
    flops: tuple[float, float]

    def __str__(self) -> str:
        alone, once = self.seconds
        flops_alone, flops_once = self.flops
        return (
            f"{self.windows:,} windows; largest difference of a logit, relative to the largest: {self.difference:.1e}\n"
            f"each window alone: {1000 * alone:.1f} ms, {flops_alone / 1e6:,.1f} million FLOPs\n"
            f"all in one pass:   {1000 * once:.1f} ms, {flops_once / 1e6:,.1f} million FLOPs\n"
            f"one pass takes {alone / once:.1f} times less time and {flops_alone / flops_once:.1f} times fewer FLOPs"
        )


def slide(run: Run, images: np.ndarray, folder: Path) -> Slide:
    """Slides the first seed of a classifier's run over a canvas of these images; writes slide.txt and slide.png.

    Both ways run once before they are timed, and are given all of their windows at once.
    Raises ConfigError if the run is no classifier, or has no convolutional form (see ops/dense.py).
    """
    if run.experiment.task != "classification":
        raise ConfigError(f"mode=slide needs a classifier; this run's task is {run.experiment.task}")
    variables = jax.tree.map(lambda a: a[0], run.state.variables)
    model: Any = run.recipe.model
    height, width, channels = run.image_shape
    dense, dense_variables, windows = to_dense(model, variables, (height, width, channels))
    canvas = draw_canvas(images, seed=run.experiment.train.seed)
    pixels = run.recipe.preprocessing(canvas[None])

    def once(image: Array) -> Array:
        return dense.apply(dense_variables, image)[0]

    rows, columns, _ = jax.eval_shape(once, pixels).shape
    boxes = np.asarray(windows.boxes(rows, columns), int).reshape(-1, 4)
    crops = jnp.stack([pixels[0, y : y + height, x : x + width] for x, y, _, _ in boxes])

    def alone(crops: Array) -> Array:
        return model.apply(variables, crops).reshape(rows, columns, -1)

    ways = [(jax.jit(fn).lower(x).compile(), x) for fn, x in ((alone, crops), (once, pixels))]
    each, whole = (np.asarray(program(x)) for program, x in ways)
    seconds_alone, seconds_once = (_seconds(program, x) for program, x in ways)
    flops_alone, flops_once = (compiled_costs(program).get("flops", np.nan) for program, _ in ways)
    result = Slide(
        rows * columns,
        float(np.max(np.abs(each - whole)) / np.max(np.abs(each))),
        (seconds_alone, seconds_once),
        (flops_alone, flops_once),
    )
    folder.mkdir(parents=True, exist_ok=True)
    figure = _heat_maps(canvas, np.asarray(jax.nn.softmax(whole)), run.classes)
    figures.save(figure, folder / "slide.png")
    write_atomically(folder / "slide.txt", f"{result}\n")
    return result


def draw_canvas(images: np.ndarray, seed: int) -> np.ndarray:
    """uint8 [H, W, C]: images [N, h, w, C] near half of the places of a grid, on the median colour of their corners."""
    rng = np.random.default_rng(seed)
    count, height, width, channels = images.shape
    background = np.median(images[:, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(-1, channels), axis=0).astype(
        int
    )
    canvas = np.tile(background.astype(np.uint8), (_PLACES * height, _PLACES * width, 1))
    for place in rng.permutation(_PLACES**2)[: _PLACES**2 // 2]:
        y, x = (
            int(np.clip(p * side + rng.integers(-side // 4, side // 4 + 1), 0, (_PLACES - 1) * side))
            for p, side in zip(divmod(int(place), _PLACES), (height, width), strict=True)
        )
        image, part = images[rng.integers(count)], canvas[y : y + height, x : x + width]
        # Where neighbours touch, what differs more from the background is seen.
        part[:] = np.where(np.abs(image - background) > np.abs(part - background), image, part)
    return canvas


def _seconds(fn: Callable[[Array], Array], argument: Array) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(fn(argument))
        times.append(time.perf_counter() - began)
    return float(np.median(times))


@figures.names_as_they_are()
def _heat_maps(canvas: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> figures.Figure:
    """The canvas; of each window the highest probability, and that of the first classes."""
    shown = classes[:_MAPS]
    figure, axes = figures.subplots(2, 1 + -(-len(shown) // 2), figsize=(3 * (1 + len(shown) / 2), 6))
    flat = axes.T.ravel()
    flat[0].imshow(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas, cmap="gray", vmin=0, vmax=255)
    flat[0].set_title("canvas", fontsize=10)
    flat[1].imshow(probabilities.max(axis=-1), vmin=0, vmax=1)
    flat[1].set_title("highest probability", fontsize=10)
    for axis, index in zip(flat[2:], range(len(shown)), strict=False):
        axis.imshow(probabilities[..., index], vmin=0, vmax=1)
        axis.set_title(f"class {shown[index]}", fontsize=10)
    for axis in flat:
        axis.axis("off")
    figure.tight_layout()
    return figure
