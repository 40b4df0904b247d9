"""The model zoo: one explicit table. Outside this package nothing imports linen."""

import difflib
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from cnnjax.config import ConfigError
from cnnjax.models.airbench import Airbench
from cnnjax.models.classic import (
    MLP,
    MNIST_CNN,
    TOY_CNN,
    TWO_STAGE,
    WORKED_EXAMPLE,
    ConvNet,
    LeNet5,
    LocalNet,
)
from cnnjax.models.resnet_cifar import CifarResNet

Model = nn.Module

MODELS: dict[str, Callable[..., Model]] = {
    "softmax_regression": partial(MLP, hidden=()),
    "mlp": MLP,
    "local": LocalNet,
    "lenet5": LeNet5,
    "two_stage": partial(ConvNet, convs=TWO_STAGE),
    "toy_cnn": partial(ConvNet, convs=TOY_CNN),
    "worked_example": partial(ConvNet, convs=WORKED_EXAMPLE),
    "mnist_cnn": partial(ConvNet, convs=MNIST_CNN, hidden=(256,)),
    # CIFAR: depth 6 * blocks + 2
    "tiny_resnet": partial(CifarResNet, blocks=1),
    "resnet20": partial(CifarResNet, blocks=3),
    "resnet32": partial(CifarResNet, blocks=5),
    "resnet44": partial(CifarResNet, blocks=7),
    "resnet56": partial(CifarResNet, blocks=9),
    "resnet110": partial(CifarResNet, blocks=18),
    "resnet20_b": partial(CifarResNet, blocks=3, option="B"),
    "resnet32_b": partial(CifarResNet, blocks=5, option="B"),
    "resnet44_b": partial(CifarResNet, blocks=7, option="B"),
    "resnet56_b": partial(CifarResNet, blocks=9, option="B"),
    "resnet110_b": partial(CifarResNet, blocks=18, option="B"),
    "airbench94": Airbench,
    "airbench95": partial(Airbench, widths=(128, 384, 384)),
    "airbench96": partial(Airbench, widths=(128, 384, 512), convs=3, bn_momentum=0.9),
}


def create_model(name: str, num_outputs: int | None = None, dtype: str = "float32") -> Model:
    """A model of the table: a linen module with `init(key, x)` and `apply(variables, x, train=...)`.

    Weights are float32; `dtype` is what the layers compute in. Without `num_outputs` the model has as many
    as its paper. Raises ConfigError if the table has no such name.
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(MODELS)}"
        raise ConfigError(f"no model is called {name!r}: {hint}")
    outputs = {} if num_outputs is None else {"num_outputs": num_outputs}
    return MODELS[name](**outputs, dtype=jnp.dtype(dtype))
