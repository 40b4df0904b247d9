"""Training steps compiled for devices that are not here. Most need JAX's compilers for them: pip install '.[devices]'."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax as cj
from cnnjax import config
from cnnjax.config import ConfigError
from cnnjax.detection.nms import nms
from cnnjax.inspect import step_costs
from cnnjax.inspect.program import kernels
from cnnjax.runtime import compile_for, sharding
from experiments import EXPERIMENTS


class Mine(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3, name="last")(nn.relu(nn.Conv(8, (3, 3), name="first")(x)).mean((1, 2)))


def target(name):
    try:
        return compile_for.find(name)
    except ConfigError as error:
        pytest.skip(str(error))


@functools.cache
def costs_of(device, experiment, late=False, **changes):
    changed = config.replace(EXPERIMENTS[experiment](), {k.replace("__", "."): v for k, v in changes.items()})
    with jax.default_matmul_precision("default"):  # as the launcher has it, unlike these tests
        return step_costs.compile_training(step_costs.describe_training(changed, None), target(device), late)


def test_without_the_compiler_one_line_says_what_to_install(launch, monkeypatch):
    monkeypatch.setattr(compile_for, "_is_installed", lambda module: False)
    for device, wheel in {"h200": "jax-cuda12-plugin", "a100x8": "jax-cuda12-pjrt", "v5e": "libtpu"}.items():
        result = launch("--mode=summarize", "--compiler", f"--device={device}")
        assert result.code == 1 and wheel in result.err and "pip install 'cnnjax[devices]'" in result.err
        assert len(result.err.strip().splitlines()) == 1


def test_sets_that_are_not_here_are_known_by_their_shapes(tmp_path):
    for name, images, classes in [
        ("imagenet_resnet50", (1_281_167, 224, 224, 3), 1000),
        ("cifar10_airbench", (50_000, 32, 32, 3), 10),
        ("mnist_lenet", (60_000, 28, 28, 1), 10),
    ]:
        training = step_costs.describe_training(EXPERIMENTS[name](), str(tmp_path))
        assert training.split["image"].shape == images and len(training.classes) == classes
        assert training.experiment.data.mean and list(tmp_path.iterdir()) == []
    held = config.replace(EXPERIMENTS["mnist_lenet"](), {"data.limit": 1000, "data.validation": 0.1})
    assert len(step_costs.describe_training(held, str(tmp_path)).split["label"].shape) == 1
    assert step_costs.describe_training(held, str(tmp_path)).split["label"].shape == (900,)


def test_a_mesh_of_devices_elsewhere():
    class Elsewhere:
        platform = "gpu"

    with pytest.raises(ConfigError, match="data.batch_size=12 does not divide over 8 devices"):
        sharding.make_mesh(12, devices=[Elsewhere()] * 8)


def test_the_launcher_says_what_a_step_needs(launch):
    target("h200")
    flags = ("--mode=summarize", "--experiment=digits_lenet", "--compiler")
    result = launch(*flags, "--device=h200")
    assert result.code == 0, result.err
    head, totals, memory, *rows = result.out.splitlines()
    assert head == "a training step on h200, batch 64, float32:"
    assert all(unit in totals for unit in (" kernels, ", " GB, ", " TFLOP, ", " ms (roofline of 4.8 TB/s"))
    assert "at the peak of 151.40 GB" in memory
    assert any("LeNet5/c1 backward" in row for row in rows)
    wrong = launch(*flags, "--device=h200x8", "--data.batch_size=60")
    assert wrong.code == 1 and "does not divide over 8 devices" in wrong.err


def test_one_exchange_of_gradients_without_batch_statistics():
    costs = costs_of("h200x8", "mnist_lenet")
    count, size = costs.exchanges["all-reduce"]
    assert list(costs.exchanges) == ["all-reduce"] and count == 1
    assert size >= 4 * 60_000  # LeNet's parameters


def test_what_the_compiler_says_of_a_program_that_is_too_large():
    mesh = jax.make_mesh((1,), ("data",), devices=target("v5e").devices)
    x = jax.ShapeDtypeStruct((60_000, 60_000), jnp.float32, sharding=sharding.replicated(mesh))
    with pytest.raises(
        compile_for.DoesNotFit, match=r"device=v5e: the program needs .* GB of memory, of which"
    ):
        compile_for.compile_step(jax.jit(lambda x: x @ x.T), target("v5e"), x)


def test_a_step_that_does_not_fit_says_what_would():
    device = target("a100")
    small = dataclasses.replace(device, chip=dataclasses.replace(device.chip, memory=16_000_000))
    training = step_costs.describe_training(
        config.replace(EXPERIMENTS["digits_lenet"](), {"data.batch_size": 1024}), None
    )
    with pytest.raises(ConfigError, match=r"needs .* 0.016 GB; --data.batch_size=\d+ should fit"):
        step_costs.compile_training(training, small)


FLAGSHIPS = {
    "airbench": ("cifar10_airbench", {}),
    "late_airbench": ("cifar10_airbench", {"late": True}),
    "wrn28_10": ("cifar10_resnet20", {"model__name": "wrn28_10", "model__dtype": "bfloat16"}),
    # Streamed, the host cuts out windows.
    "resnet50": ("imagenet_resnet50", {"model__dtype": "bfloat16", "augment__random_crop": 0.0}),
}


# What each needed when this was written, and some room: a step that needs more has lost something.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_kernels", "gigabytes", "temporary"),
    [
        ("airbench", 180, 6.8, 0.8),
        ("late_airbench", 180, 6.4, 0.8),
        ("wrn28_10", 450, 10.9, 1.35),
        ("resnet50", 850, 88, 10.9),
    ],
)
def test_budget_of_a_step_on_an_h200(name, num_kernels, gigabytes, temporary):
    experiment, changes = FLAGSHIPS[name]
    costs = costs_of("h200", experiment, **changes)
    assert costs.num_kernels <= num_kernels
    assert costs.bytes <= gigabytes * 1e9
    assert costs.temporary <= temporary * 1e9
    assert costs.single_products == [] and costs.exchanges == {}
    for of_the_host in ("callback", "outfeed", "infeed", " send(", " recv("):
        assert of_the_host not in costs.text
    data = 0 if costs.streamed else 50_000 * (32 * 32 * 3 + 4)
    assert not [kernel for kernel in costs.kernels if kernel.opcode == "copy" and kernel.bytes > data > 0]
    batch = 256 * (224 * 224 * 3 + 4) if costs.streamed else 0
    state = costs.arguments - data - batch
    assert 0.99 * state < costs.donated <= state  # all but the order of the examples


def test_budget_of_a_small_detector_on_an_h200(shared):
    costs = costs_of("h200", "bccd_grid", data__name=f"voc:{shared('data/bccd')}")
    assert costs.num_kernels <= 300 and costs.bytes <= 0.85e9


@pytest.mark.slow
def test_a_tpu_takes_a_batch_from_the_images_as_they_lie():
    costs = costs_of("v5e", "cifar10_airbench")
    assert costs.bytes <= 9e9
    # All of them, however they are turned, are 154 MB; the largest copy is of a batch's activations.
    assert not [kernel for kernel in costs.kernels if "arrays[" in kernel.label and kernel.bytes > 1e6]


def test_suppression_of_a_batch_is_few_launches():
    """Besides those before and after them, a few for every four rounds; of 100 random sets the most needed 11."""
    mesh = jax.make_mesh((1,), ("data",), devices=target("h200").devices)
    boxes, scores = (
        jax.ShapeDtypeStruct((64, 980, *rest), jnp.float32, sharding=sharding.replicated(mesh))
        for rest in ((4,), ())
    )
    run = jax.jit(jax.vmap(lambda boxes, scores: nms(boxes, scores, 0.5, 100)))
    program = compile_for.compile_step(run, target("h200"), boxes, scores).as_text()
    started = kernels(program)
    again = [kernel for kernel in started if "/while/body" in kernel.label or kernel.label.endswith("/while")]
    assert 0 < len(again) <= 6
    assert len(started) + 2 * len(again) <= 40


# Two for each normalization over the whole batch and one more for its sample, and those of the gradients.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "exchanges"), [("airbench", 20), ("resnet50", 151)])
def test_exchanges_of_a_step_on_eight_h200(name, exchanges):
    experiment, changes = FLAGSHIPS[name]
    costs = costs_of("h200x8", experiment, **changes)
    assert set(costs.exchanges) == {"all-reduce"}
    assert costs.exchanges["all-reduce"][0] <= exchanges


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10_resnet20", "imagenet_resnet50"])
def test_parts_with_statistics_of_their_own_are_exchanged_once_on_eight_h200(name):
    """All that devices exchange in a step: gradients, running statistics and metrics, in float32."""
    costs = costs_of("h200x8", name, train__norm_parts=8, model__dtype="bfloat16", augment__random_crop=0.0)
    assert list(costs.exchanges) == ["all-reduce"]
    count, size = costs.exchanges["all-reduce"]
    assert count == 1 and size >= 4 * {"cifar10_resnet20": 270_000, "imagenet_resnet50": 25_557_032}[name]


def test_a_module_and_data_of_ones_own():
    target("h200")
    x, y = np.zeros((64, 8, 8, 3), np.uint8), np.arange(64, dtype=np.int32) % 3
    mine = {"data": cj.Dataset.of_arrays(x, y, x, y), "model": Mine()}
    costs = cj.device_costs(cj.replace(cj.Experiment(), {"data.batch_size": 16}), "h200", **mine)
    assert costs.num_kernels > 5 and any("Mine/first" in kernel.layer for kernel in costs.kernels)
    assert str(costs).startswith("a training step on h200, batch 16, float32:")
    with pytest.raises(ConfigError, match="device='h300': unknown, did you mean h200 or h100?"):
        cj.device_costs(cj.Experiment(), "h300", **mine)
