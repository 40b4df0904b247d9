"""What a training step of the R50 network takes at full size: two images of 800x1344, compiled and not run."""

import functools
import math
import re

import jax
import numpy as np
import pytest

from cnnjax.config import replace
from cnnjax.runtime import sharding
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import compile_steps, init_states
from experiments import EXPERIMENTS

OBJECTS = 20
# Of temporary arrays together, and of one; on a CPU they are 5.6 GiB and 196 MiB.
LIMIT, LARGEST = 8 * 2**30, 2**29
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s32": 4, "u32": 4, "f32": 4, "bf16": 2, "s64": 8, "f64": 8}


def compiled_step():
    experiment = replace(EXPERIMENTS["coco_maskrcnn"](), {"data.batch_size": 2})
    canvas = (1344, 1344, 3)
    recipe = make_recipe(experiment, tuple(map(str, range(80))), canvas, 90_000)
    (wide,) = [one for one in recipe.sized if one.bucket == (800, 1344)]
    mesh = sharding.make_mesh(2, data_parallel=False)
    entries = {
        "image": ((2, 800, 1344, 3), np.uint8),
        "boxes": ((2, OBJECTS, 4), np.float32),
        "classes": ((2, OBJECTS), np.int32),
        "valid": ((2, OBJECTS), bool),
        "masks": ((2, OBJECTS, 800, 1344), bool),
    }
    arrays = {name: jax.ShapeDtypeStruct(*entry) for name, entry in entries.items()}
    rows = jax.ShapeDtypeStruct((1, 1, 2), np.int32)
    seeds = jax.ShapeDtypeStruct((1,), np.int32)
    state = jax.eval_shape(functools.partial(init_states, wide, canvas), seeds)
    lowered = compile_steps(wide, mesh, streamed=True).lower(state, arrays, rows, rows)
    # Buffers are laid out before LLVM begins, whose work nothing here looks at.
    return lowered.compile({"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


@pytest.mark.slow
def test_a_step_of_two_images_fits_and_no_array_grows_with_a_product_of_candidates():
    compiled = compiled_step()
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    arrays = {
        (kind, shape): BYTES[kind] * math.prod(map(int, shape.split(",")))
        for kind, shape in re.findall(r"\b(\w+)\[([\d,]+)\]", text)
        if kind in BYTES
    }
    largest = max(arrays, key=arrays.get)
    assert memory.temp_size_in_bytes < LIMIT
    assert arrays[largest] < LARGEST, largest
