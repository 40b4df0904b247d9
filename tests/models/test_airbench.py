"""The speed-run networks: counts, whitening by its definition, and the same network written in torch."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import abstract, count, random_variables

from cnnjax.models import create_model
from cnnjax.models.airbench import Airbench, dirac_init, unit_init, whiten


@pytest.mark.parametrize(
    "name, widths, parameters",
    [
        # bias of the whitening, convolutions, biases of the norms, head
        ("airbench94", (64, 256, 256), 24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 512) + 2560),
        ("airbench_laptop", (32, 128, 128), 24 + 9 * (24 * 32 + 32**2 + 32 * 128 + 3 * 128**2) + 2 * (32 + 256) + 1280),
        ("airbench95", (128, 384, 384), 24 + 9 * (24 * 128 + 128**2 + 128 * 384 + 3 * 384**2) + 2 * (128 + 768) + 3840),
        (
            "airbench96",
            (128, 384, 512),
            24 + 9 * (24 * 128 + 2 * 128**2 + 128 * 384 + 2 * 384**2 + 384 * 512 + 2 * 512**2)
            + 3 * (128 + 384 + 512) + 5120,
        ),
    ],
)  # fmt: skip
def test_parameters_and_stages(name, widths, parameters):
    variables, logits, stages = abstract(name, (32, 32, 3))
    assert count(variables["params"]) == parameters
    assert logits.shape == (2, 10)
    assert stages["whiten"].shape == (2, 31, 31, 24)
    for i, (size, width) in enumerate(zip((15, 7, 3), widths, strict=True), start=1):
        assert stages[f"block{i}/pool"].shape == stages[f"stage{i}"].shape == (2, size, size, width)
    assert stages["max_pool"].shape == (2, widths[2])


def test_forward_costs_236_megaflop():
    model = Airbench()
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)

    def flop(jaxpr):
        total = 0
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
                total += 2 * np.prod(out) * np.prod(kernel[:3])
            elif equation.primitive.name == "dot_general":
                total += 2 * np.prod(equation.invars[1].aval.shape)
            elif "branches" in equation.params:  # by platform: one of them
                total += flop(equation.params["branches"][0].jaxpr)
            elif "call_jaxpr" in equation.params:
                total += flop(equation.params["call_jaxpr"].jaxpr)
        return total

    cost = flop(jax.make_jaxpr(model.apply)(variables, x).jaxpr)
    assert cost == pytest.approx(236.3e6, rel=1e-3)


def test_initial_filters_pass_channels_on():
    kernel = jax.jit(dirac_init, static_argnums=1)(jax.random.key(0), (3, 3, 8, 12))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 5, 8)), jnp.float32)
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(y[..., :8], x, rtol=1e-5)
    others = kernel[..., 8:]
    assert 0.11 < others.max() < 0.118 and -0.118 < others.min() < -0.11  # 1 / sqrt(72)
    head = jax.jit(unit_init, static_argnums=1)(jax.random.key(0), (100, 50))
    assert head.std() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", ["airbench94", "airbench_laptop", "airbench95", "airbench96"])
def test_the_whitening_s_bias_begins_as_in_the_source(name):
    """Of airbench94_muon as a convolution's of torch, of the others at 0."""
    model = create_model(name)
    biases = jax.vmap(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)))["params"]["whitening"]["bias"])
    drawn = np.asarray(jax.jit(biases)(jax.random.split(jax.random.key(0), 20)))
    if name in ("airbench95", "airbench96"):
        np.testing.assert_array_equal(drawn, 0)
        return
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.cat([torch.nn.Conv2d(3, 24, 2).bias.detach() for _ in range(20)]).numpy()
    for values in (drawn, theirs):  # 480 draws, evenly within 12 ** -0.5
        assert 0.28 < values.max() <= 12**-0.5 and -(12**-0.5) <= values.min() < -0.28
        assert values.std() == pytest.approx(1 / 6, rel=0.1)


def test_whitening_by_its_definition():
    """Filter responses to the images have the second moments lambda / (lambda + epsilon) and are uncorrelated."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((50, 9, 8, 3)).cumsum(axis=1).cumsum(axis=2).astype(np.float32)
    variables = {"params": {}, "batch_stats": {"whitening": {"kernel": jnp.zeros((2, 2, 3, 24))}, "other": 1}}
    after = whiten(variables, jnp.asarray(images), epsilon=0.5)
    assert after["batch_stats"]["other"] == 1 and not variables["batch_stats"]["whitening"]["kernel"].any()
    kernel = after["batch_stats"]["whitening"]["kernel"]
    y = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).reshape(-1, 24)
    np.testing.assert_allclose(y[:, 12:], -y[:, :12], atol=1e-4 * np.abs(y).max())
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2)).reshape(-1, 12)
    eigenvalues = np.linalg.eigvalsh(patches.T.astype(np.float64) @ patches / len(patches))[::-1]
    moments = y[:, :12].T @ y[:, :12] / len(y)
    np.testing.assert_allclose(moments, np.diag(eigenvalues / (eigenvalues + 0.5)), atol=2e-3)


@pytest.mark.parametrize(
    "platform_form, convs", [("cpu", 2), ("default", 2), ("cpu", 3)], indirect=["platform_form"]
)
def test_the_same_network_in_torch(platform_form, convs):
    """Logits, running statistics and gradients in training; logits in evaluation."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    model = Airbench(widths=(8, 12, 16), convs=convs)
    # Of this seed no two values in a pooling window are so close that float32 could choose another maximum.
    x = np.random.default_rng(5).standard_normal((6, 32, 32, 3)).astype(np.float32)
    weighting = np.random.default_rng(2).standard_normal((6, 10)).astype(np.float32)
    variables = random_variables(model, jnp.asarray(x))

    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    weights = {}
    for path, value in flat.items():
        value = np.array(value)
        if path.endswith("kernel"):
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        weights[path] = torch.tensor(value, requires_grad=path.startswith("params"))

    def reference(x, train):
        def norm(x, name):
            stats = [weights[f"batch_stats/{name}/{key}"] for key in ("mean", "var")]
            return functional.batch_norm(
                x, *stats, bias=weights[f"params/{name}/bias"], training=train, momentum=0.4, eps=1e-12
            )

        def conv(x, name):
            return functional.conv2d(x, weights[f"params/{name}/kernel"], padding="same")

        kernel, bias = weights["batch_stats/whitening/kernel"], weights["params/whitening/bias"]
        x = functional.gelu(functional.conv2d(x, kernel, bias))
        for i in (1, 2, 3):
            x = functional.max_pool2d(conv(x, f"block{i}/conv1"), 2)
            x = functional.gelu(norm(x, f"block{i}/bn1"))
            y = norm(conv(x, f"block{i}/conv2"), f"block{i}/bn2")
            if convs == 3:
                y = x + norm(conv(functional.gelu(y), f"block{i}/conv3"), f"block{i}/bn3")
            x = functional.gelu(y)
        x = functional.max_pool2d(x, 3).flatten(1)
        return functional.linear(x, weights["params/output/kernel"]) / x.shape[1]

    images = torch.tensor(x.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(
        model.apply(variables, x), reference(images, train=False).detach(), rtol=1e-4, atol=1e-5
    )

    def loss(params):
        logits, state = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(logits * weighting), (logits, state["batch_stats"])

    gradients, (logits, stats) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    expected = reference(images, train=True)
    (expected * torch.tensor(weighting)).sum().backward()
    np.testing.assert_allclose(logits, expected.detach(), rtol=1e-3, atol=1e-5)
    for path, gradient in flax.traverse_util.flatten_dict({"params": gradients}, sep="/").items():
        theirs = weights[path].grad.numpy()
        if gradient.ndim >= 2:
            theirs = theirs.transpose(2, 3, 1, 0) if gradient.ndim == 4 else theirs.T
        np.testing.assert_allclose(gradient, theirs, atol=1e-4 * np.abs(theirs).max(), err_msg=path)
    for path, value in flax.traverse_util.flatten_dict({"batch_stats": stats}, sep="/").items():
        if path.endswith("mean"):
            np.testing.assert_allclose(value, weights[path].numpy(), rtol=1e-3, atol=1e-4, err_msg=path)
    np.testing.assert_array_equal(stats["whitening"]["kernel"], flat["batch_stats/whitening/kernel"])


def test_every_entry_of_the_table_takes_other_numbers_of_classes():
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    for name in ("airbench94", "airbench95", "airbench96"):
        model = create_model(name, num_outputs=100, dtype="bfloat16")
        logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
        assert logits.shape == (1, 100) and logits.dtype == jnp.bfloat16
