"""Data parallelism over eight virtual devices: the losses of one, and one fused all-reduce of the gradients; with batch
normalization, one in all if each of eight parts of a batch has its own statistics."""

import json
import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, re, sys
from cnnjax.runtime import platform
platform.configure()
import flax.linen as nn, jax, numpy as np
from cnnjax.models.layers import batch_norm
from cnnjax.runtime import sharding
from cnnjax.config import Data, Experiment, Model, Optimizer, Train
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import compile_init, compile_steps

rng = np.random.default_rng(0)
labels = rng.integers(0, 10, 96).astype(np.int32)

class Small(nn.Module):
    # A convolution, batch normalization and dropout.

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(batch_norm(train, name="norm")(nn.Conv(4, (3, 3), name="conv")(x)))
        return nn.Dense(10)(nn.Dropout(0.3, deterministic=not train)(x.mean((1, 2))))

def run(name, shape, devices, batch, **options):
    data = Data(name="synthetic", batch_size=batch, mean=(0.5,), std=(0.25,))
    optimizer = Optimizer(name="sgd", learning_rate=0.05, momentum=0.9)
    model, train = Model(name=name), Train(steps=3, **options)
    experiment = Experiment(data=data, model=model, optimizer=optimizer, train=train)
    arrays = {"image": np.random.default_rng(0).integers(0, 256, (96, *shape), np.uint8), "label": labels}
    recipe = make_recipe(experiment, tuple("0123456789"), shape, 3, model=Small() if name == "small" else None)
    mesh = sharding.make_mesh(batch, devices > 1)
    assert mesh.size == devices
    state = compile_init(recipe, shape, mesh)(np.zeros(1, np.int32))
    resident = jax.device_put(arrays, sharding.replicated(mesh))
    step, losses = None, []
    for i in range(3):
        index = np.arange(batch * i, batch * (i + 1), dtype=np.int32).reshape(1, 1, batch)
        rows = jax.device_put((index, np.zeros_like(index)), sharding.sharded(mesh, 2))
        step = step or compile_steps(recipe, mesh).lower(state, resident, *rows).compile()
        state, metrics = step(state, resident, *rows)
        losses.append(float(metrics["loss"][0, 0]))
    reduces = [line.split(" all-reduce")[0].split(" = ")[1] for line in step.as_text().splitlines()
               if re.search(r" all-reduce(-start)?\\(", line)]
    found = {"losses": losses, "reduces": reduces, "accuracy": float(metrics["accuracy"][0, 0])}
    found["var"] = [float(a.sum()) for a in jax.tree.leaves(state.model_state)]
    return found | {"parameters": sum(a[0].size for a in jax.tree.leaves(state.params))}

"""


def run_script(more: str) -> dict:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT + textwrap.dedent(more)],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_eight_devices_give_the_losses_of_one_with_one_all_reduce_of_gradients():
    found = run_script("""
    print(json.dumps({name: run("lenet5", (28, 28, 1), n, 16) for name, n in (("one", 1), ("eight", 8))}))
    """)
    one, eight = found["one"]["losses"], found["eight"]["losses"]
    assert len(set(one)) == 3
    assert max(abs(a - b) / a for a, b in zip(one, eight, strict=True)) < 1e-5
    assert found["one"]["reduces"] == []
    # The compiler turns kernels as it likes, so what an all-reduce carries is told by how much it is.
    carried = [
        sum(
            math.prod(map(int, filter(None, shape.split(","))))
            for shape in re.findall(r"\[([\d,]*)\]", types)
        )
        for types in found["eight"]["reduces"]
    ]
    gradients = [count for count in carried if count > 100]
    assert len(gradients) == 1 and gradients[0] >= found["one"]["parameters"], found["eight"]["reduces"]


def test_parts_with_statistics_of_their_own_are_exchanged_once_and_equal_on_any_number_of_devices():
    """Dropout and running statistics, too. On devices that do not divide the parts, all is the same but the exchanges."""
    found = run_script("""
    shape = (8, 8, 3)
    all = {f"{parts}/{n}": run("small", shape, n, 32, norm_parts=parts) for parts, n in ((8, 1), (8, 8), (4, 1), (4, 8))}
    all["whole"] = run("small", shape, 8, 32)
    print(json.dumps(all))
    """)
    for parts in (8, 4):
        one, eight = found[f"{parts}/1"], found[f"{parts}/8"]
        for name in ("losses", "accuracy", "var"):
            np.testing.assert_allclose(eight[name], one[name], rtol=1e-4)
        assert one["reduces"] == []
    assert len(found["8/8"]["reduces"]) == 1
    assert len(found["whole"]["reduces"]) > 1 and len(found["4/8"]["reduces"]) > 1
    assert abs(found["whole"]["losses"][0] / found["8/8"]["losses"][0] - 1) > 1e-4
