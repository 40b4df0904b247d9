"""GoogLeNet, or Inception v1 (Szegedy et al. 2015), in the three forms in which trained weights exist."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Norm,
    Pool,
    activate,
    adaptive_avg_pool,
    avg_pool,
    batch_norm,
    ceil_padding,
    class_scores,
    conv,
    flatten,
    global_avg_pool,
    he_init,
    max_pool,
    stage,
)
from cnnjax.ops.lrn import local_response_norm

# Output channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection: table 1 of the paper.
INCEPTION: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# Google's own network, the one of lucid, has 508 channels in mixed4a and differs in 5a.
INCEPTION5H = INCEPTION | {"4a": (192, 96, 204, 16, 48, 64), "5a": (256, 160, 320, 48, 128, 128)}

# The paper gives no constants. Caffe's GoogLeNet: size 5, alpha 1e-4 (divided by the size), beta 0.75, k 1.
caffe_lrn = partial(local_response_norm, radius=2, bias=1.0, alpha=2e-5, beta=0.75)
inception5h_lrn = partial(local_response_norm, radius=5, bias=2.0, alpha=1e-4, beta=0.5)

# What differs from the defaults in torchvision's form, in Google's graph, and in one small enough for tests.
TORCHVISION: dict[str, Any] = {
    "norm": partial(batch_norm, epsilon=1e-3),
    "lrn": None,
    "kernel5": 3,
    "dropout": 0.2,
}
GOOGLE: dict[str, Any] = {
    "num_outputs": 1008,
    "inception": INCEPTION5H,
    "lrn": inception5h_lrn,
    "same_padding": True,
}
TINY: dict[str, Any] = {
    "inception": {name: (4, 6, 8, 2, 3, 3) for name in ("3b", "4a", "4d", "5a")},
    "stem": (4, 4, 8),
    "aux_sizes": (3, 8),
}


class InceptionModule(nn.Module):
    """Four branches side by side; returns their concatenation (1x1, 3x3, 5x5, pool) before the activation."""

    sizes: tuple[int, int, int, int, int, int]
    kernel5: int
    act: Activation
    norm: Norm | None
    pool: Pool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        layer = partial(_layer, self, train)
        f = self.sizes
        b1x1 = layer("b1x1", x, f[0], 1)
        b3x3 = layer("b3x3", activate(self, "b3x3_bottleneck", layer("b3x3_bottleneck", x, f[1], 1)), f[2], 3)
        b5x5 = activate(self, "b5x5_bottleneck", layer("b5x5_bottleneck", x, f[3], 1))
        b5x5 = layer("b5x5", b5x5, f[4], self.kernel5)
        pooled = layer("pool_reduce", stage(self, "pool", self.pool(x, 3, 1, 1)), f[5], 1)
        return jnp.concatenate([b1x1, b3x3, b5x5, pooled], axis=-1)


class AuxiliaryHead(nn.Module):
    """Class scores from the middle of the network, to bring gradients there (section 5 of the paper)."""

    num_outputs: int
    features: int
    hidden: int
    act: Activation
    norm: Norm | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = adaptive_avg_pool(x, 4) if self.norm else avg_pool(x, 5, 3)
        x = activate(self, "conv", _layer(self, train, "conv", x, self.features, 1))
        x = activate(
            self, "fc", nn.Dense(self.hidden, kernel_init=he_init, dtype=self.dtype, name="fc")(flatten(x))
        )
        x = nn.Dropout(0.7, deterministic=not train)(x)
        return nn.Dense(self.num_outputs, dtype=self.dtype, name="output")(x)


class GoogLeNet(nn.Module):
    """GoogLeNet: 6,998,552 parameters, 13,378,280 with both auxiliary heads.

    The stages carry the names of Google's graph: conv2d0, maxpool0, localresponsenorm0, conv2d1, conv2d2,
    localresponsenorm1, maxpool1, mixed3a, mixed3b, maxpool4, mixed4a to mixed4e, maxpool10, mixed5a, mixed5b,
    avgpool0, logits. mixed4a is the concatenation of 1x1, 3x3, 5x5 and pool branches, in this order.

    The defaults are the paper's network. With `norm` it is torchvision's: batch normalization, no biases, no
    local response normalization, 3x3 filters in the 5x5 branch (`kernel5`) and a 2x2 maxpool10; 6,624,904
    parameters. With `same_padding`, INCEPTION5H and its constants it is the graph "inception5h" that lucid
    shows, 7,066,380 parameters and 1008 outputs; its strided layers pad as TensorFlow does.

    With `aux`, the class scores of the auxiliary heads are the stages "aux1" (after mixed4a) and "aux2"
    (after mixed4d), and `auxiliary` names them: in training, classification adds 0.3 of the loss of each.
    """

    num_outputs: int | None = 1000
    inception: dict[str, tuple[int, int, int, int, int, int]] | None = None
    stem: tuple[int, int, int] = (64, 64, 192)
    aux: bool = False
    aux_sizes: tuple[int, int] = (128, 1024)
    kernel5: int = 5
    same_padding: bool = False
    dropout: float = 0.4
    act: Activation = nn.relu
    norm: Norm | None = None
    lrn: Activation | None = caffe_lrn
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """The stages that are class scores, beside the logits."""
        return ("aux1", "aux2") if self.aux else ()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        layer = partial(_layer, self, train)
        x = activate(self, "conv2d0", layer("conv2d0", x, self.stem[0], 7, 2))
        x = stage(self, "maxpool0", self._halve(x))
        if self.lrn:
            x = stage(self, "localresponsenorm0", self.lrn(x))
        x = activate(self, "conv2d1", layer("conv2d1", x, self.stem[1], 1))
        x = activate(self, "conv2d2", layer("conv2d2", x, self.stem[2], 3))
        if self.lrn:
            x = stage(self, "localresponsenorm1", self.lrn(x))
        x = stage(self, "maxpool1", self._halve(x))
        for name, sizes in (self.inception or INCEPTION).items():
            if name == "4a":
                x = stage(self, "maxpool4", self._halve(x))
            if name == "5a":
                x = stage(self, "maxpool10", self._halve(x, 2 if self.norm else 3))
            block = InceptionModule(
                sizes, self.kernel5, self.act, self.norm, self.pool, self.dtype, name=f"inception{name}"
            )
            x = activate(self, f"mixed{name}", block(x, train))
            if self.aux and self.num_outputs is not None and name in ("4a", "4d"):
                number = 1 if name == "4a" else 2
                head = AuxiliaryHead(
                    self.num_outputs,
                    *self.aux_sizes,
                    self.act,
                    self.norm,
                    self.dtype,
                    name=f"aux_head{number}",
                )
                stage(self, f"aux{number}", head(x, train))
        x = stage(self, "avgpool0", global_avg_pool(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return class_scores(self, x)

    def _halve(self, x: Array, window: int = 3) -> Array:
        return self.pool(x, window, 2, "SAME" if self.same_padding else ceil_padding(x, window, 2))


def _layer(
    module: GoogLeNet | InceptionModule | AuxiliaryHead,
    train: bool,
    name: str,
    x: Array,
    features: int,
    kernel: int,
    stride: int = 1,
) -> Array:
    """A convolution, followed by batch normalization instead of a bias if the module has one."""
    padding = "SAME" if getattr(module, "same_padding", False) else kernel // 2
    x = conv(features, kernel, stride, padding, use_bias=not module.norm, dtype=module.dtype, name=name)(x)
    return module.norm(train, name=f"{name}_bn")(x) if module.norm else x
