"""Batch normalization with its own gradient against autodiff of the textbook form, and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models.layers import batch_norm
from cnnjax.ops import normalization
from cnnjax.ops.materialize import materialize


def plain(x, scale, bias, epsilon):
    axes = tuple(range(x.ndim - 1))
    mean, var = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
    shape = (1,) * (x.ndim - 1) + (-1,)
    return (x - mean) / jnp.sqrt(var + epsilon) * scale.reshape(shape) + bias.reshape(shape)


def arrays(*shape, seed=0):
    x, g, scale, bias = (
        np.random.default_rng(seed + i).normal(size=s)
        for i, s in enumerate((shape, shape, shape[-1:], shape[-1:]))
    )
    return 3 * x + 1, g, scale, bias


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (7, 3), (1, 2, 2, 1)])
def test_values_and_gradients_in_float64(shape):
    with jax.enable_x64(True):
        x, g, scale, bias = map(jnp.asarray, arrays(*shape))
        want, pull = jax.vjp(lambda *a: plain(*a, 1e-5), x, scale, bias)
        (y, mean, var), pull_ours = jax.vjp(lambda *a: normalization.batch_norm(*a, 1e-5), x, scale, bias)
        axes = tuple(range(x.ndim - 1))
        np.testing.assert_allclose(y, want, atol=1e-11)
        np.testing.assert_allclose(mean, np.mean(x, axes), atol=1e-12)
        np.testing.assert_allclose(var, np.var(x, axes), atol=1e-12)
        for ours, theirs in zip(
            pull_ours((g, jnp.ones_like(mean), jnp.ones_like(var))), pull(g), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_with_its_activation_in_one_operation(platform_form):
    with jax.enable_x64(True):
        x, g, scale, bias = map(jnp.asarray, arrays(4, 3, 5, 2))

        def in_one(*a):
            return normalization.activated_batch_norm(*a, 1e-5, jnp.tanh)

        want, pull = jax.vjp(lambda *a: jnp.tanh(plain(*a, 1e-5)), x, scale, bias)
        (y, mean, var), pull_ours = jax.vjp(in_one, x, scale, bias)
        np.testing.assert_allclose(y, want, atol=1e-11)
        np.testing.assert_allclose(var, np.var(x, (0, 1, 2)), atol=1e-12)
        for ours, theirs in zip(pull_ours((g, mean, var)), pull(g), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_torch_gives_the_same_training_step():
    torch = pytest.importorskip("torch", reason="the reference is torch")
    x, g, scale, bias = (a.astype(np.float32) for a in arrays(6, 4, 4, 3))
    theirs = torch.nn.BatchNorm2d(3)
    theirs.weight.data, theirs.bias.data = torch.from_numpy(scale), torch.from_numpy(bias)
    image = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    theirs(image).backward(torch.from_numpy(g.transpose(0, 3, 1, 2).copy()))

    module = batch_norm(True)
    variables = {"params": {"scale": scale, "bias": bias}, **module.init(jax.random.key(0), x)}
    variables["params"] = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}

    def out(params, x):
        y, state = module.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.vdot(y, g), state

    (grads, dx), state = jax.grad(out, (0, 1), has_aux=True)(variables["params"], jnp.asarray(x))
    stats = state["batch_stats"]
    biased = (theirs.running_var.numpy() - 0.9) * 95 / 96 + 0.9  # torch stores the unbiased variance
    for ours, wanted in (
        (dx, image.grad.numpy().transpose(0, 2, 3, 1)), (grads["scale"], theirs.weight.grad.numpy()),
        (grads["bias"], theirs.bias.grad.numpy()), (stats["mean"], theirs.running_mean.numpy()), (stats["var"], biased),
    ):  # fmt: skip
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_half_precision_is_normalized_in_float32():
    x = jnp.asarray(arrays(64, 8, 8, 2)[0] + 50, jnp.bfloat16)
    module = batch_norm(True, use_scale=False)
    y, state = module.init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16 and set(state["params"]) == {"bias"}
    assert state["batch_stats"]["mean"].dtype == jnp.float32
    wide = np.asarray(x, np.float32)
    want = (wide - wide.mean((0, 1, 2))) / wide.std((0, 1, 2))
    assert np.abs(np.asarray(y, np.float32) - want).max() < 2**-7 * np.abs(want).max()


def test_materialize_is_the_identity_with_its_gradient():
    x = jnp.asarray([0.0, -0.0, 1.5, -2.5, 1e-40, np.inf, -np.inf, np.nan], jnp.float32)
    for function in (materialize, jax.jit(materialize), jax.vmap(materialize)):
        y = np.asarray(function(x))
        np.testing.assert_array_equal(y[:4], np.asarray(x)[:4])
        np.testing.assert_array_equal(y[5:], np.asarray(x)[5:])
    gradient = jax.grad(lambda x: jnp.sum(materialize(x) ** 2 / 2))(x[:4])
    np.testing.assert_array_equal(gradient, x[:4])
    assert materialize(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    for platform, stored in {"cpu": True, "cuda": False, "tpu": False}.items():
        program = jax.jit(materialize).trace(x).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.maximum" in program) == stored


@pytest.mark.parametrize("mean, deviation", [(0.0, 1.0), (1e4, 2.0), (-3e5, 1.0)])
def test_a_mean_far_above_the_deviation_costs_no_digits(mean, deviation):
    """Against float64, in units of what float32 can tell apart at that mean."""
    x, g, scale, bias = arrays(8, 6, 5, 4)
    x = (mean + deviation * (x - 1) / 3).astype(np.float32)
    g, scale, bias = (jnp.asarray(a, jnp.float32) for a in (g, scale, bias))
    (y, _, var), pull = jax.vjp(lambda *a: normalization.batch_norm(*a, 1e-5), jnp.asarray(x), scale, bias)
    dx, dscale, _ = pull((g, jnp.zeros(4), jnp.zeros(4)))
    with jax.enable_x64(True):
        exact, pull64 = jax.vjp(
            lambda *a: plain(*a, 1e-5), *(jnp.asarray(a, jnp.float64) for a in (x, scale, bias))
        )
        dx64, dscale64, _ = pull64(jnp.asarray(g, jnp.float64))
    digits = 4 * np.finfo(np.float32).eps * (1 + abs(mean) / deviation)
    np.testing.assert_allclose(var, np.var(x.astype(np.float64), (0, 1, 2)), rtol=max(digits, 1e-6) * 4)
    for ours, theirs in ((y, exact), (dx, dx64), (dscale, dscale64)):
        np.testing.assert_allclose(ours, theirs, atol=8 * max(digits, 1e-6) * np.abs(theirs).max())
