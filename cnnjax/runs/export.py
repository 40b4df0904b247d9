"""A trained network as one file that needs only JAX: pixels in, final answer out."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from cnnjax.augment.views import before_views
from cnnjax.config import DARKNET, SHORT_SIDE
from cnnjax.data import darknet_resize, images
from cnnjax.network import Preprocessing
from cnnjax.runs.committee import RunCommittee
from cnnjax.runs.run import Run
from cnnjax.runs.workdir import write_atomically
from cnnjax.runtime import platform

PLATFORMS = ("cpu", "cuda", "tpu")


def export_run(run: Run, path: Path) -> dict[str, Any]:
    """Writes `path`, StableHLO for all PLATFORMS and any batch size, and beside it a JSON file that describes it.

    The function in it takes uint8 images [batch, H, W, C] (RGB, in the size of the training images; float32 of 0 to
    255 if they are resized as darknet does, which does not round) and returns
    what mode=predict computes: a dict of arrays, such as "label" and "probability" of the most probable classes,
    or the "boxes", "scores", "classes" and "counts" that are left after non-maximum suppression. Preprocessing,
    weights, test-time views and, with several seeds, their committee are inside.

    In another program: `jax.export.deserialize(bytearray(path.read_bytes())).call(images)`.

    Returns what the JSON file holds.
    """
    shape = _input_shape(run)
    (batch,) = export.symbolic_shape("batch")
    dtype = jnp.float32 if run.recipe.preprocessing.resize in DARKNET else jnp.uint8
    pixels = jax.ShapeDtypeStruct((batch, *shape), dtype)
    network, views = jax.tree.map(np.asarray, run.network), run.experiment.evaluate.augment

    def predict(images: Array) -> dict[str, Array]:
        return run.recipe.task.predict(jax.tree.map(jnp.asarray, network).outputs(images, views))

    exported = export.export(jax.jit(predict), platforms=PLATFORMS)(pixels)
    return _write(
        path,
        exported,
        {
            "task": run.experiment.task,
            "experiment": run.experiment.name,
            "step": run.step,
            "classes": list(run.classes),
            "input": _input(shape, pixels.dtype),
            "resize": run.recipe.preprocessing.resize,
            "preprocessing": _preprocessing(run.recipe.preprocessing, views, shape),
        },
    )


def export_committee(committee: RunCommittee, path: Path) -> dict[str, Any]:
    """The same of several runs. The function takes an array of images for each frame that members need: the same
    pictures, prepared as the description says of each of its "inputs"."""
    (batch,) = export.symbolic_shape("batch")
    network = jax.tree.map(np.asarray, committee.network)
    frames = network.frames
    pixels = [jax.ShapeDtypeStruct((batch, *shape), jnp.uint8) for shape, _, _ in frames]

    def predict(*images: Array) -> dict[str, Array]:
        return committee.task.predict(jax.tree.map(jnp.asarray, network).of_frames(images))

    exported = export.export(jax.jit(predict), platforms=PLATFORMS)(*pixels)
    members = [
        {"experiment": run.experiment.name, "step": run.step, "weight": weight}
        for run, weight in zip(committee.runs, committee.weights, strict=True)
    ]
    return _write(
        path,
        exported,
        {
            "task": committee.runs[0].experiment.task,
            "members": members,
            "step": max(run.step for run in committee.runs),
            "classes": list(committee.classes),
            "inputs": [
                {
                    **_input(shape, one.dtype),
                    "resize": framing.resize,
                    "preprocessing": _preprocessing(framing, "none", shape),
                }
                for one, (shape, framing, _) in zip(pixels, frames, strict=True)
            ],
        },
    )


def _write(path: Path, exported: export.Exported, about: dict[str, Any]) -> dict[str, Any]:
    content = exported.serialize()
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    description = {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        **about,
        "outputs": {name: {"shape": _shape(out), "dtype": str(out.dtype)} for name, out in outputs.items()},
        "platforms": list(exported.platforms),
        "calling_convention": exported.calling_convention_version,
        "versions": platform.versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    write_atomically(path.with_suffix(".json"), json.dumps(description, indent=2) + "\n")
    return description


def _input(shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
    return {
        "shape": ["batch", *shape],
        "dtype": str(dtype),
        "channels": "grey, ITU-R 601 luma" if shape[-1] == 1 else "RGB",
        "values": "0 to 255",
    }


def _input_shape(run: Run) -> tuple[int, ...]:
    """[H, W, C] of the images that are given to the network, or to the views that are taken of them."""
    views = run.experiment.evaluate.augment
    side = before_views(views, run.recipe.preprocessing).image_size
    return (side, side, run.image_shape[-1]) if views == "ten_crop" else run.image_shape


_FILTERS = {
    "nearest": "the nearest pixel, as Pillow's NEAREST",
    **{
        name: f"{name} with antialiasing, as Pillow's {name.upper()}"
        for name in ("bilinear", "bicubic", "lanczos")
    },
}
_CENTRE = "cut out the central height x width; offsets are halves of what is left, rounded half to even"


def _preprocessing(preprocessing: Preprocessing, views: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """How an image file becomes the input, for somebody without this project. Normalization is in the exported file."""
    data = before_views(views, preprocessing)
    how = data.resize if data.image_size else "stretch"
    steps = ["turn by the EXIF orientation", "lay transparency over white"]
    steps.append("convert to grey (ITU-R 601 luma)" if shape[-1] == 1 else "convert to RGB")
    about: dict[str, Any] = {"filter": _FILTERS[data.interpolation]}
    if how == "stretch":
        steps.append("resize to height x width, whatever the proportions")
    elif how in DARKNET:
        about |= _as_darknet(how, steps)
    elif how == SHORT_SIDE:
        about |= {
            "short_side": data.image_size,
            "long_side": data.image_width or data.image_size,
            "fill": images.PADDING,
        }
        steps.append(
            "resize in proportion, sides rounded down: the short one to short_side, or the long one to long_side if it would be longer"
        )
        steps.append("lay it into the upper left corner of height x width filled with the value fill")
    elif how == "crop":
        about["short_side"] = data.resize_short or data.image_size
        steps.append("resize the short side to short_side, the long one in proportion and rounded down")
        steps.append(_CENTRE)
    elif how == "stretch_crop":
        about["sides"] = data.resize_short or data.image_size
        steps.append("resize both sides to sides, whatever the proportions")
        steps.append(_CENTRE)
    else:
        about["fill"] = images.PADDING
        steps.append("resize to the largest size in proportion, rounded, that fits into height x width")
        steps.append("centre it, left and top rounded down, on height x width filled with the value fill")
    return {"height": shape[0], "width": shape[1], **about, "steps": steps}


def _as_darknet(how: str, steps: list[str]) -> dict[str, Any]:
    """Adds the steps of darknet's resizing, and returns what they speak of."""
    places = "corners to corners" if how == darknet_resize.LETTERBOX else "half pixels"
    about: dict[str, Any] = {"filter": f"bilinear without antialiasing, {places}, not rounded"}
    if how == darknet_resize.STRETCH:
        steps.append("resize to height x width, whatever the proportions")
        return about
    steps.append("resize to the largest size in proportion, rounded down, that fits into height x width")
    steps.append("centre it, left and top rounded down, on height x width filled with the value fill")
    return about | {"fill": darknet_resize.PADDING}


def _shape(out: Any) -> list[Any]:
    return [size if isinstance(size, int) else str(size) for size in out.shape]
