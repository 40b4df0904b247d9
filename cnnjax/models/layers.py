"""What every model shares: named stages, normalization and pooling as the papers and torch define them."""

import itertools
import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from cnnjax.config import ConfigError
from cnnjax.ops import normalization, pooling
from cnnjax.ops.convolution import conv_general_dilated, doubled
from cnnjax.ops.materialize import materialize

Activation = Callable[[Array], Array]
Pool = Callable[..., Array]
Norm = Callable[..., nn.Module]
Padding = str | int | tuple[tuple[int, int], tuple[int, int]]

_MOST = 3  # the largest window of a max pool that is computed by comparisons

# He et al. 2015, "Delving deep into rectifiers": keeps the variance through ReLU layers.


def he_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Normal values of variance 2 / fan-in (He et al. 2015), cut at two standard deviations.

    Drawn flat: XLA:CPU takes seconds to compile a random draw in four dimensions, and every shape is another.
    """
    flat = nn.initializers.he_normal()(key, (math.prod(shape[:-1]), shape[-1]), dtype)
    return flat.reshape(shape)


def stage(module: nn.Module, name: str, x: Array) -> Array:
    """Gives `x` the name under which the paper, and so the user, knows it; returns `x`.

    The value is stored in the collection "stages" when the caller makes that mutable, and costs nothing
    otherwise. If the variables hold a collection "perturbations" with this name, its value is added: the
    gradient with respect to a zero perturbation is the gradient with respect to this stage.

    A submodule with stages of its own must not have the same name as a stage of its parent.
    """
    if module.has_variable("perturbations", name):
        x = x + module.get_variable("perturbations", name)
    if module.is_mutable_collection("stages") and not module.is_initializing():
        module.put_variable("stages", name, x)
    trunk = _TRUNK.get()
    if trunk is not None and module is trunk[0]:
        trunk[1][name] = x
    return x


_TRUNK: ContextVar[tuple[nn.Module, dict[str, Array]] | None] = ContextVar("trunk", default=None)


class Trunk(nn.Module):
    """A model without its last layer, for what comes on top of it: images -> {"stage1": ..., "stage4": ...}.

    The stages are those of the model itself, by the names it gives them, in their order; what is not used of them is
    not computed under jit. The variables of the model are below "model".
    """

    model: nn.Module

    def __call__(self, x: Array, train: bool = False) -> dict[str, Array]:
        stages: dict[str, Array] = {}
        token = _TRUNK.set((self.model, stages))
        try:
            self.model(x, train)
        finally:
            _TRUNK.reset(token)
        return stages


def depth_rates(most: float, stage_sizes: Sequence[int]) -> list[list[float]]:
    """How often each block of each stage is left out: rising evenly to `most` at the last (Huang et al. 2016, eq. 4).

    Raises ConfigError if `most` is no probability below 1.
    """
    if not 0 <= most < 1:
        raise ConfigError(f"model.options: stochastic_depth={most:g}: a probability, from 0 to below 1")
    rates = (most * number / sum(stage_sizes) for number in itertools.count(1))
    return [[next(rates) for _ in range(blocks)] for blocks in stage_sizes]


def leave_out(x: Array, rate: float, train: bool) -> Array:
    """Stochastic depth (Huang et al. 2016): in training, what a block adds is zero for this share of the examples, and
    divided by the share of the others for them; all of it, as it is, otherwise. To be called in a compact module."""
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train)(x)


def class_scores(module: Any, x: Array) -> Array:
    """The fully connected layer "output" and the stage "logits" that a classifier ends with; a trunk, whose
    `num_outputs` is None, ends before it."""
    if module.num_outputs is None:
        return x
    return stage(module, "logits", nn.Dense(module.num_outputs, dtype=module.dtype, name="output")(x))


def activate(module: Any, name: str, x: Array) -> Array:
    """The module's activation function with both its sides named: `<name>_pre_relu`, and `<name>` after it."""
    x = stage(module, f"{name}_pre_relu", x)
    return stage(module, name, materialize(module.act(x)))


def is_watched(module: nn.Module, name: str) -> bool:
    """Whether anybody asks for what the activation function of `activate(module, name, ...)` is given."""
    asked = module.is_mutable_collection("stages") or module.has_variable("perturbations", f"{name}_pre_relu")
    trunk = _TRUNK.get()
    return asked or (trunk is not None and module is trunk[0])


def normalize_and_activate(module: Any, name: str, norm: nn.Module, x: Array) -> Array:
    """`activate(module, name, norm(x))`, as one operation where nobody asks for what is in between.

    For activations that cost more than a comparison. XLA sees by itself that a ReLU is best computed again.
    """
    if is_watched(module, name) or not isinstance(norm, BatchNorm) or norm.use_running_average:
        return activate(module, name, norm(x))
    return stage(module, name, materialize(norm(x, module.act)))


def max_pool(x: Array, window: int = 2, stride: int | None = None, padding: Padding = 0) -> Array:
    """Max pooling, NHWC. `padding` counts pixels on each side (filled with -inf), or is "SAME"/"VALID"."""
    stride = stride or window
    wanted = _pairs(padding)
    pads = (
        lax.padtype_to_pads(x.shape[1:3], (window, window), (stride, stride), wanted)
        if isinstance(wanted, str)
        else wanted
    )
    padded = [size + sum(ends) for size, ends in zip(x.shape[1:3], pads, strict=True)]
    if window > _MOST or min(padded) < window:  # too many comparisons, or nothing is left of the image
        return nn.max_pool(x, (window, window), (stride, stride), pads)
    if any(map(any, pads)):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    return pooling.max_pool(x, window, stride)


def avg_pool(x: Array, window: int = 2, stride: int | None = None, padding: Padding = 0) -> Array:
    """Average pooling, NHWC; padded zeros count, as in torch's default."""
    stride = stride or window
    total = nn.pool(x, 0.0, lax.add, (window, window), (stride, stride), _pairs(padding))
    return total / window**2


def ceil_padding(x: Array, window: int, stride: int) -> Padding:
    """Padding at the bottom and right with which a pool keeps incomplete windows: "ceil mode" of Caffe and torch."""

    def extra(size: int) -> int:
        outputs = -(-(size - window) // stride) + 1
        if (outputs - 1) * stride >= size:  # a window must start inside the image
            outputs -= 1
        return max(0, (outputs - 1) * stride + window - size)

    return ((0, extra(x.shape[1])), (0, extra(x.shape[2])))


def adaptive_avg_pool(x: Array, size: int) -> Array:
    """[N, H, W, C] -> [N, size, size, C]: averages over nearly equal parts, as torch's adaptive pooling.

    Part i of n pixels spans floor(i n / size) to ceil((i + 1) n / size).
    """
    _check_not_empty(x)
    for axis in (1, 2):
        n = x.shape[axis]
        if n != size:
            parts = [slice(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
            means = [
                jnp.mean(lax.slice_in_dim(x, p.start, p.stop, axis=axis), axis, keepdims=True) for p in parts
            ]
            x = jnp.concatenate(means, axis)
    return x


def global_avg_pool(x: Array) -> Array:
    """[N, H, W, C] -> [N, C]. Raises ConfigError if nothing is left of the image."""
    _check_not_empty(x)
    return jnp.mean(x, axis=(1, 2))


def flatten(x: Array) -> Array:
    """[N, ...] -> [N, features], in height, width, channel order. Raises ConfigError if nothing is left."""
    _check_not_empty(x)
    return x.reshape(x.shape[0], -1)


def fully_connected(x: Array, features: int, *, dense: bool, window: int = 1, **kwargs: Any) -> Array:
    """A fully connected layer over the whole of `x`; with `dense`, the same layer as a convolution.

    [N, H, W, C] or [N, C] -> [N, features]. Dense, [N, H, W, C] -> [N, H - window + 1, W - window + 1, features]:
    each output sees window x window positions, the size of the map on which the layer was trained. The weights
    have the same names and, in height, width, channel order, the same values: see ops/dense.py.
    """
    if dense:
        return nn.Conv(features, (window, window), padding="VALID", **kwargs)(x)
    return nn.Dense(features, **kwargs)(flatten(x))


def conv(
    features: int,
    kernel: int | tuple[int, int] = 3,
    stride: int = 1,
    padding: Padding = "SAME",
    **kwargs: Any,
) -> nn.Conv:
    """A convolution, NHWC, with He initialization. An int `padding` pads both sides equally as torch does.

    "SAME" with stride 2 pads one side more than the other, which torch does not: give a number there.
    """
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    kwargs = {"kernel_init": he_init, "conv_general_dilated": conv_general_dilated, **kwargs}
    return nn.Conv(features, size, strides=(stride, stride), padding=_pairs(padding), **kwargs)


class Doubling(nn.Module):
    """A transposed convolution of stride 2 with an even kernel, that doubles height and width.

    The variables are those of linen's ConvTranspose: a kernel [h, w, out, in], as torch has it, or without `as_torch`
    [h, w, in, out], turned around.
    """

    features: int
    kernel: int
    as_torch: bool = True
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = he_init
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        ends = (self.features, x.shape[-1]) if self.as_torch else (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, (self.kernel, self.kernel, *ends))
        if not self.as_torch:
            kernel = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
        y = doubled(x.astype(self.dtype), kernel.astype(self.dtype))
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return y + bias.astype(self.dtype)[None, None, None]


class BatchNorm(nn.Module):
    """Batch normalization [N, ..., C] that computes in float32 whatever the precision of the layers around it.

    The variables are those of linen's: "scale" and "bias", and "mean" and "var" in "batch_stats".
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, act: Activation | None = None) -> Array:
        """With `act` what that makes of it."""
        shape = x.shape[-1:]
        bias = self.param("bias", nn.initializers.zeros, shape)
        scale = self.param("scale", nn.initializers.ones, shape) if self.use_scale else jnp.ones_like(bias)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        if self.use_running_average:
            factor = lax.rsqrt(var.value + self.epsilon) * scale
            y = normalization.normalize(x.astype(jnp.float32), mean.value, factor, bias).astype(x.dtype)
            return act(y) if act else y
        if act:
            y, *moments = normalization.activated_batch_norm(x, scale, bias, self.epsilon, act)
        else:
            y, *moments = normalization.batch_norm(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            for kept, new in zip((mean, var), moments, strict=True):
                kept.value = self.momentum * kept.value + (1 - self.momentum) * new
        return y.astype(x.dtype)


def batch_norm(train: bool, **kwargs: Any) -> nn.Module:
    """Batch normalization with epsilon 1e-5 and running statistics that keep a share of 0.9, torch's momentum of 0.1.

    The running variance is of the batch's biased variance, as in TensorFlow and the paper's appendix; torch's is of
    the unbiased one, which n values of a channel make larger by n / (n - 1). Imported statistics serve as they are.
    """
    return BatchNorm(use_running_average=not train, **{"momentum": 0.9, "epsilon": 1e-5, **kwargs})


class FrozenBatchNorm(nn.Module):
    """Batch normalization with constants only, [N, ..., C]: scale, bias, mean and var are all in "batch_stats".

    For networks that start from published weights and see a few images at a time.
    """

    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        start = {"scale": jnp.ones, "bias": jnp.zeros, "mean": jnp.zeros, "var": jnp.ones}
        value = {
            name: self.variable("batch_stats", name, of, x.shape[-1:]).value for name, of in start.items()
        }
        factor = lax.rsqrt(value["var"] + self.epsilon) * value["scale"]
        return normalization.normalize(x.astype(jnp.float32), value["mean"], factor, value["bias"]).astype(
            x.dtype
        )


def frozen_batch_norm(train: bool, **kwargs: Any) -> nn.Module:
    """`FrozenBatchNorm` for models that take a `norm`; it is the same in training."""
    return FrozenBatchNorm(**kwargs)


def _pairs(padding: Padding) -> str | tuple[tuple[int, int], tuple[int, int]]:
    return ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding


def _check_not_empty(x: Array) -> None:
    if 0 in x.shape[1:]:
        raise ConfigError("the images are too small for this model: its pooling leaves nothing of them")
