"""Data parallelism over eight virtual devices: the losses of one, and one fused all-reduce of the gradients."""

import json
import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, re, sys
from cnnjax.runtime import platform
platform.configure()
import jax, numpy as np
from cnnjax.runtime import sharding
from cnnjax.config import Data, Experiment, Model, Optimizer, Train
from cnnjax.training.step import compile_init, compile_steps, make_recipe

data = Data(name="synthetic", batch_size=16, mean=(0.5,), std=(0.25,))
optimizer = Optimizer(name="sgd", learning_rate=0.05, momentum=0.9)
experiment = Experiment(data=data, model=Model(name="lenet5"), optimizer=optimizer, train=Train(steps=3))
shape = (28, 28, 1)
rng = np.random.default_rng(0)
arrays = {"image": rng.integers(0, 256, (64, *shape), np.uint8), "label": rng.integers(0, 10, 64).astype(np.int32)}
found = {}
for devices in (1, 8):
    recipe = make_recipe(experiment, tuple("0123456789"), shape, 3)
    mesh = sharding.make_mesh(16, devices > 1)
    assert mesh.size == devices
    state = compile_init(recipe, shape, mesh)(np.zeros(1, np.int32))
    resident = jax.device_put(arrays, sharding.replicated(mesh))
    step, losses = None, []
    for i in range(3):
        index = np.arange(16 * i, 16 * (i + 1), dtype=np.int32).reshape(1, 1, 16)
        rows = jax.device_put((index, np.zeros_like(index)), sharding.sharded(mesh, 2))
        step = step or compile_steps(recipe, mesh).lower(state, resident, *rows).compile()
        state, metrics = step(state, resident, *rows)
        losses.append(float(metrics["loss"][0, 0]))
    reduces = [line.split(" all-reduce")[0].split(" = ")[1] for line in step.as_text().splitlines()
               if re.search(r" all-reduce(-start)?\\(", line)]
    found[devices] = {"losses": losses, "reduces": reduces}
    parameters = sum(a[0].size for a in jax.tree.leaves(state.params))
print(json.dumps({"parameters": parameters, "one": found[1], "eight": found[8]}))
"""


def test_eight_devices_give_the_losses_of_one_with_one_all_reduce_of_gradients():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
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
    assert len(gradients) == 1 and gradients[0] >= found["parameters"], found["eight"]["reduces"]
