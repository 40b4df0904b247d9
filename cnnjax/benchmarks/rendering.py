"""Feature visualization: how long the pictures of a channel take, ours and in lucent's loop in torch."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.benchmarks.options import Measured, Options, missing, version
from cnnjax.benchmarks.timing import comparison, interleave, without_compilation_cache
from cnnjax.models import create_model
from cnnjax.models.parts import shapes_of
from cnnjax.network import Network, Preprocessing
from cnnjax.runtime import sharding
from cnnjax.visualization.render import render_each

# What is rendered: title, layer, how many of its channels at a time.
WORKLOADS = (("late layer", "fire9", 1), ("early layer", "fire2", 1), ("8 channels", "fire9", 8))
PEER = "lucent's loop"


def feature_visualization(options: Options) -> list[Measured]:
    """Pictures for channels of SqueezeNet, against lucent's loop in torch and, where it is, lucent: 128 pixels on a CPU, 224 on a GPU."""
    if options.tiny:
        return [compare("tiny", "fire2", 1, 32, 2, options)]
    size, steps = (128, 16) if sharding.process_on_cpu() else (224, 128)
    return [compare(*workload, size, steps, options) for workload in WORKLOADS]


def compare(title: str, layer: str, count: int, size: int, steps: int, options: Options) -> Measured:
    network = squeezenet(size)
    # As lucent: Adam without decay, no redirected gradients. Our default does a little more.
    addresses = [f"{layer}:{c}" for c in range(count)]

    def ours() -> Any:
        return render_each(
            network, addresses, key=jax.random.key(0), steps=(steps,), optimizer=ADAM, redirect=False
        )

    with without_compilation_cache():
        began = time.perf_counter()
        ours()
        first = time.perf_counter() - began
    sides: dict[str, Any] = {"cnnjax": ours}
    note, peers = missing("torch"), {}
    if not note:
        peers = version("torch")
        from cnnjax.benchmarks.torch_rendering import Renderer

        renderer = Renderer(network.variables, size)
        sides[PEER] = functools.partial(renderer.render, layer, range(count), steps)
        note = f"{PEER} is written anew, with cheaper shifts; random weights, which do not change the time."
        if not missing("lucent"):
            peers |= version("torch-lucent")
            sides["lucent"] = functools.partial(renderer.render_in_lucent, layer, range(count), steps)
    values = comparison(interleave(sides, options.repetitions, 1))
    values["first call with compilation, s"] = [first]
    subject = f"feature visualization, {title} ({layer}), {size} px, {steps} updates"
    return Measured("speed", subject, values, note=note, peers=peers)


ADAM = optax.adam(0.05)


def squeezenet(size: int) -> Network:
    """SqueezeNet 1.0 in its Caffe form with random weights, for pictures of this size."""
    model = create_model("squeezenet1_0_caffe")
    shape = (size, size, 3)
    generator = np.random.default_rng(0)

    def draw(leaf: Any) -> jax.Array:
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) == 4 else 0.0  # He et al. 2015
        return jnp.asarray(deviation * generator.standard_normal(leaf.shape), jnp.float32)

    return Network(model, jax.tree.map(draw, shapes_of(model, shape)), shape, Preprocessing((0.5,), (0.25,)))
