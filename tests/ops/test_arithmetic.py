"""How exactly products of float32 are computed: chosen for a network, and the same in its gradients and exported files."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from cnnjax import config
from cnnjax.augment.geometry import gaussian_blur
from cnnjax.config import ConfigError, Experiment, Model
from cnnjax.detection.heatmaps import encode_heatmaps, soft_argmax
from cnnjax.detection.masks import mask_targets
from cnnjax.models.grid import spatial_softmax
from cnnjax.runs.export import export_run
from cnnjax.runs.run import Run
from cnnjax.runtime import compile_for, sharding
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import init_state, init_states, train_step

SHAPE, CLASSES = (28, 28, 1), tuple("abc")
AS_LAUNCHED = functools.partial(jax.default_matmul_precision, "default")  # unlike all of these tests


def experiment(**model) -> Experiment:
    return config.replace(Experiment(model=Model(**model)), {"data.mean": (0.5,), "data.std": (0.25,)})


def step_of(precision: str, name: str = "lenet5", seeds: int = 0):
    """The training step of a network, and shapes of its arguments."""
    recipe = make_recipe(experiment(name=name, precision=precision), CLASSES, SHAPE, 1)
    state = jax.eval_shape(functools.partial(init_state, recipe, SHAPE), jnp.int32(0))
    rows = jax.ShapeDtypeStruct((4,), np.int32)
    batch = {
        "image": jax.ShapeDtypeStruct((4, *SHAPE), np.uint8),
        "label": rows,
        "index": rows,
        "epoch": rows,
    }
    return functools.partial(train_step, recipe), state, batch


def said_by_products(function, *arguments) -> set[str]:
    """The precisions of all convolutions and matrix products of a program, in JAX's words."""
    with AS_LAUNCHED():
        program = str(jax.make_jaxpr(function)(*arguments))
    return {word.lower() for word in re.findall(r"[ (]precision=\(?(?:Precision\.)?(\w+)", program)}


@pytest.mark.parametrize("precision", ["default", "high"])
def test_a_step_computes_forward_and_back_as_precisely_as_it_is_told(precision):
    step, state, batch = step_of(precision)
    assert said_by_products(step, state, batch) - {"none"} == {precision}


def test_what_says_where_something_is_never_computes_in_less_than_float32():
    """A place of 250 pixels has no neighbour nearer than one or two in bfloat16."""
    maps, points = jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 3, 2))
    masks, boxes = jnp.zeros((1, 16, 16), bool), jnp.zeros((2, 4))
    for function, arguments in [
        (functools.partial(gaussian_blur, sigma=2.0), (maps,)),
        (soft_argmax, (maps,)),
        (spatial_softmax, (maps,)),
        (lambda p: encode_heatmaps(p, jnp.ones((2, 3), bool), (8, 8), 4.0), (points,)),
        (lambda m, b: mask_targets(m, jnp.zeros(2, jnp.int32), b, 7), (masks, boxes)),
    ]:
        assert said_by_products(function, *arguments) == {"highest"}, function


def test_an_exported_file_has_the_precision_of_its_run_and_the_choices_of_each_platform(tmp_path):
    """Of a CPU's product over patches and others' convolution of one channel, both are in the file."""
    asked = experiment(name="lenet5", precision="highest")
    recipe = make_recipe(asked, CLASSES, SHAPE, 1)
    run = Run(asked, CLASSES, SHAPE, recipe, init_states(recipe, SHAPE, np.zeros(1, np.int32)), 1)
    with AS_LAUNCHED():
        export_run(run, tmp_path / "network.stablehlo")
    exported = export.deserialize(bytearray((tmp_path / "network.stablehlo").read_bytes()))
    program = exported.mlir_module()
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*", program)
    assert len(products) >= 6 and all("HIGHEST" in line for line in products)
    assert "stablehlo.case" in program and exported.platforms == ("cpu", "cuda", "tpu")
    for first in (r"stablehlo.dot_general .*x28x28x25xf32", r"stablehlo.convolution.*x28x28x1xf32"):
        assert re.search(first, program)


def test_precision_is_of_float32_and_may_be_chosen_for_an_evaluation():
    recipe = make_recipe(experiment(name="lenet5"), CLASSES, SHAPE, 1)
    run = Run(experiment(name="lenet5"), CLASSES, SHAPE, recipe, None, 1)
    assert run.under({"model.precision": "highest"}).recipe.arithmetic.precision == "highest"
    half = config.replace(run.experiment, {"model.dtype": "bfloat16"})
    with pytest.raises(ConfigError, match=r"--model.precision has no effect with model.dtype=bfloat16"):
        Run(half, CLASSES, SHAPE, recipe, None, 1).under({"model.precision": "highest"})


@pytest.mark.slow
@pytest.mark.parametrize("device", ["h200", "v5e"])
def test_the_program_of_a_device_keeps_what_is_asked(device):
    """In the compiled program, where XLA has chosen kernels: on a TPU the default stores even activations in bfloat16."""
    try:
        target = compile_for.find(device)
    except ConfigError as error:
        pytest.skip(str(error))
    everywhere = sharding.replicated(sharding.make_mesh(4, False, target.devices))
    asked = {}
    for precision in ("default", "highest"):
        step, *arguments = step_of(precision)
        placed = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere), arguments
        )
        with AS_LAUNCHED():
            text = compile_for.compile_step(jax.jit(step), target, *placed).as_text()
        products = [
            line
            for line in text.splitlines()
            if re.search(r' convolution\(| dot\(|custom_call_target="__(cudnn\$conv|cublas\$)', line)
        ]
        asked[precision] = [re.search(r"operand_precision=?\W*(\w+)", line) for line in products]
        bfloat16 = "bf16[" in text
    assert len(asked["highest"]) >= 10 and all(asked["highest"])
    assert {found[1].lower() for found in asked["highest"]} == {"highest"} and not bfloat16
    assert not any(asked["default"])
