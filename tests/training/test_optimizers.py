"""Update rules against torch.optim and the singular value decomposition; schedules against hand numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.config import ConfigError, Optimizer
from cnnjax.training import optimizers


def parameters(seed: int = 0) -> dict:
    """A convolution, a norm and a dense layer."""
    draw = np.random.default_rng(seed).standard_normal
    shapes = {
        "conv": {"kernel": (3, 3, 2, 4), "bias": (4,)},
        "norm": {"scale": (4,), "bias": (4,)},
        "dense": {"kernel": (4, 5), "bias": (5,)},
    }
    return {
        name: {leaf: jnp.asarray(draw(shape), jnp.float32) for leaf, shape in leaves.items()}
        for name, leaves in shapes.items()
    }


GRADIENTS = [parameters(seed) for seed in range(1, 7)]


def train(config: Optimizer, gradients=GRADIENTS, total_steps: int = len(GRADIENTS)) -> dict:
    transform = optimizers.make_optimizer(config, total_steps)
    params = parameters()
    state = transform.init(params)
    step = jax.jit(transform.update)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def train_torch(config: Optimizer, rule: str, gradients=GRADIENTS, clip: float = 0.0, **options) -> dict:
    """The same steps by torch, rates from our schedule, weight decay switched off for biases and norms."""
    torch = pytest.importorskip("torch")
    flat = jax.tree_util.tree_leaves_with_path(parameters())
    tensors = [torch.nn.Parameter(torch.tensor(np.array(leaf))) for _, leaf in flat]
    kernels = [t for (path, _), t in zip(flat, tensors, strict=True) if path[-1].key == "kernel"]
    others = [t for (path, _), t in zip(flat, tensors, strict=True) if path[-1].key != "kernel"]
    optimizer = getattr(torch.optim, rule)(
        [
            {"params": kernels, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        **options,
    )
    schedule = optimizers.make_schedule(config, len(gradients))
    for step, gradient in enumerate(gradients):
        for tensor, leaf in zip(tensors, jax.tree.leaves(gradient), strict=True):
            tensor.grad = torch.tensor(np.array(leaf))
        if clip:
            torch.nn.utils.clip_grad_norm_(tensors, clip)
        for group in optimizer.param_groups:
            group["lr"] = float(schedule(step))
        optimizer.step()
    tree = jax.tree.structure(parameters())
    return jax.tree.unflatten(tree, [t.detach().numpy() for t in tensors])


def assert_close(actual, expected, **tolerance) -> None:
    for (path, a), e in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, e, err_msg=jax.tree_util.keystr(path), **tolerance)


@pytest.mark.parametrize(
    "config, rule, options",
    [
        (Optimizer("sgd", 0.1, momentum=0.0), "SGD", {}),
        (Optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.05), "SGD", {"momentum": 0.9}),
        (
            Optimizer("sgd", 0.1, momentum=0.8, weight_decay=0.05, nesterov=True),
            "SGD",
            {"momentum": 0.8, "nesterov": True},
        ),
        (Optimizer("adam", 0.01, momentum=0.85, weight_decay=0.05), "Adam", {"betas": (0.85, 0.999)}),
        (Optimizer("adamw", 0.01, b2=0.95, weight_decay=0.5), "AdamW", {"betas": (0.9, 0.95)}),
    ],
)
def test_update_rules_match_torch(config, rule, options):
    assert_close(train(config), train_torch(config, rule, **options), rtol=2e-5, atol=1e-6)


def test_clipping_by_global_norm_matches_torch():
    config = Optimizer("sgd", 0.1, momentum=0.9, clip_norm=1.5)
    assert_close(
        train(config), train_torch(config, "SGD", clip=1.5, momentum=0.9), rtol=2e-5, atol=1e-6
    )  # fmt: skip


def test_accumulation_is_one_update_with_the_mean_gradient():
    config = Optimizer("sgd", 0.1, momentum=0.9, accumulate=2)
    means = [jax.tree.map(lambda a, b: (a + b) / 2, *GRADIENTS[i : i + 2]) for i in (0, 2, 4)]
    expected = train_torch(Optimizer("sgd", 0.1), "SGD", gradients=means, momentum=0.9)
    assert_close(train(config), expected, rtol=2e-5, atol=1e-6)


def test_weight_decay_leaves_biases_and_norms_alone():
    zeros = jax.tree.map(jnp.zeros_like, parameters())
    config = Optimizer("adamw", 0.1, schedule="constant", weight_decay=0.5)
    before, after = parameters(), train(config, [zeros])
    for name, leaf in (("conv", "bias"), ("norm", "scale"), ("norm", "bias"), ("dense", "bias")):
        np.testing.assert_array_equal(after[name][leaf], before[name][leaf])
    np.testing.assert_allclose(after["dense"]["kernel"], 0.95 * before["dense"]["kernel"], rtol=1e-6)


def test_an_untied_bias_counts_as_bias():
    labels = optimizers.groups({"local": {"kernel": jnp.ones((4, 4, 9, 2)), "bias": jnp.ones((4, 4, 2))}})
    assert labels == {"local": {"kernel": "conv", "bias": "bias"}}


def test_rates_of_biases_and_dense_kernels():
    config = Optimizer(
        "sgd", 0.1, schedule="linear", momentum=0.0, bias_learning_rate=6.4, dense_learning_rate=0.3
    )
    before, after = parameters(), train(config, GRADIENTS[:1])
    moved = jax.tree.map(lambda old, new, g: (old - new) / g, before, after, GRADIENTS[0])
    assert_close(
        moved,
        {
            "conv": {"kernel": np.full((3, 3, 2, 4), 0.1), "bias": np.full(4, 6.4)},
            "norm": {"scale": np.full(4, 6.4), "bias": np.full(4, 6.4)},
            "dense": {"kernel": np.full((4, 5), 0.3), "bias": np.full(5, 6.4)},
        },
        rtol=1e-3,
    )


def test_the_bias_of_a_whitening_layer_comes_to_rest():
    config = Optimizer("sgd", 0.1, schedule="linear", momentum=0.0, bias_learning_rate=0.2, whitening=0.5)
    params = {name: {"bias": jnp.ones(2)} for name in ("whitening", "other")}
    gradients = jax.tree.map(jnp.ones_like, params)
    transform = optimizers.make_optimizer(config, total_steps=8)
    state, moved = transform.init(params), []
    for _ in range(8):
        updates, state = transform.update(gradients, state, params)
        moved.append((-updates["whitening"]["bias"][0], -updates["other"]["bias"][0]))
    expected = [(0.2 * max(0, 1 - step / 4), 0.2 * (1 - step / 8)) for step in range(8)]
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-7)


def test_groups_of_airbench96_match_torch():
    """Biases with a rate and a decay of their own; the whitening's with those of the weights, and then at rest."""
    torch = pytest.importorskip("torch")
    rate, decay, steps, still = 0.05, 0.02, 6, 3
    config = Optimizer(
        "sgd", rate, bias_learning_rate=64 * rate, schedule="triangular", warmup=1 / 3, initial=0.2, momentum=0.85,
        nesterov=True, weight_decay=decay, bias_weight_decay=decay / 64, whitening=still / steps,
        whitening_rate="weights",
    )  # fmt: skip
    draw = np.random.default_rng(5).standard_normal
    names = {"whitening": "bias", "conv": "kernel", "norm": "bias"}
    shapes = {"whitening": (4,), "conv": (3, 3, 2, 4), "norm": (4,)}
    params = {name: {kind: jnp.asarray(draw(shapes[name]), jnp.float32)} for name, kind in names.items()}
    theirs = {
        name: torch.nn.Parameter(torch.tensor(np.array(params[name][kind]))) for name, kind in names.items()
    }
    rest = dict(params=[theirs["whitening"], theirs["conv"]], lr=rate, weight_decay=decay)
    biases = dict(params=[theirs["norm"]], lr=64 * rate, weight_decay=decay / 64)
    reference = torch.optim.SGD([biases, rest], momentum=0.85, nesterov=True)
    shares = [0.2, 0.6, 1.0, 0.75, 0.5, 0.25]
    transform = optimizers.make_optimizer(config, steps)
    state = transform.init(params)
    for step in range(steps):
        gradient = {name: {kind: draw(shapes[name]).astype(np.float32)} for name, kind in names.items()}
        for name, kind in names.items():
            theirs[name].grad = torch.tensor(gradient[name][kind])
        if step >= still:
            theirs["whitening"].grad = None
        for group, peak in zip(reference.param_groups, (64 * rate, rate), strict=True):
            group["lr"] = shares[step] * peak
        reference.step()
        updates, state = transform.update(jax.tree.map(jnp.asarray, gradient), state, params)
        params = optax.apply_updates(params, updates)
    for name, kind in names.items():
        np.testing.assert_allclose(params[name][kind], theirs[name].detach(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("platform", "half"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_newton_schulz_multiplies_in_half_precision_but_on_a_cpu(platform, half):
    x = jax.ShapeDtypeStruct((2, 8, 4), jnp.float32)
    program = jax.jit(optimizers.newton_schulz).trace(x).lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert products and all(("bf16" in line) == half for line in products)


@pytest.mark.parametrize("shape", [(2, 18, 4), (3, 4, 18), (1, 6, 6)])
def test_newton_schulz_acts_on_singular_values_alone(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    actual = optimizers.newton_schulz(jnp.asarray(x, jnp.float32), steps=3)
    for matrix, result in zip(x, actual, strict=True):
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        s = s / np.sqrt((s**2).sum())
        for _ in range(3):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        np.testing.assert_allclose(result, u @ np.diag(s) @ v, atol=2e-5)


def test_muon_matches_torch_up_to_its_bfloat16():
    """A wide kernel, so that the scale sqrt(O / (H*W*I)) counts, and a tall one."""
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(3).standard_normal
    kernels = {"wide": {"kernel": draw((1, 2, 2, 16))}, "tall": {"kernel": draw((3, 3, 4, 8))}}
    params = jax.tree.map(lambda k: jnp.asarray(k, jnp.float32), kernels)
    start = params
    config = Optimizer(
        "muon", 0.1, schedule="constant", momentum=0.6, nesterov=True, weight_decay=0.2, muon_steps=4
    )
    transform = optimizers.make_optimizer(config, 4)
    state = transform.init(params)
    # torch keeps filters first: [O, H*W*I].
    matrices = [
        torch.nn.Parameter(torch.tensor(np.array(k).reshape(-1, k.shape[-1]).T))
        for k in jax.tree.leaves(params)
    ]
    reference = torch.optim.Muon(
        matrices, lr=0.1, momentum=0.6, nesterov=True, weight_decay=0.2, ns_steps=4
    )  # fmt: skip
    for _ in range(4):
        gradient = jax.tree.map(lambda p: jnp.asarray(draw(p.shape), jnp.float32), params)
        for matrix, leaf in zip(matrices, jax.tree.leaves(gradient), strict=True):
            matrix.grad = torch.tensor(np.array(leaf).reshape(-1, leaf.shape[-1]).T.copy())
        reference.step()
        updates, state = transform.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    for new, old, matrix in zip(
        jax.tree.leaves(params), jax.tree.leaves(start), matrices, strict=True
    ):  # fmt: skip
        expected = matrix.detach().numpy().T.reshape(new.shape)
        error = np.linalg.norm(new - expected) / np.linalg.norm(expected - old)
        assert error < 0.02


@pytest.mark.parametrize(
    "rest, rule, options",
    [("sgd", "SGD", {"momentum": 0.7, "nesterov": True}), ("adamw", "AdamW", {"betas": (0.7, 0.999)})],
)
def test_muon_leaves_the_rest_to_another_rule(rest, rule, options):
    config = Optimizer("muon", 0.01, nesterov=True, muon_rest=rest, muon_rest_momentum=0.7)
    actual, expected = train(config), train_torch(config, rule, **options)
    actual["conv"].pop("kernel")
    expected["conv"].pop("kernel")
    assert_close(actual, expected, rtol=2e-5, atol=1e-6)


def test_normalized_kernels_start_each_update_at_norm_sqrt_of_filters():
    zeros = jax.tree.map(jnp.zeros_like, parameters())
    config = Optimizer("muon", 0.1, muon_normalize=True)
    before, after = parameters(), train(config, [zeros])
    np.testing.assert_allclose(np.linalg.norm(after["conv"]["kernel"]), 2.0, rtol=1e-6)  # 4 filters
    np.testing.assert_array_equal(after["dense"]["kernel"], before["dense"]["kernel"])


@pytest.mark.parametrize(
    "config, expected",
    [
        (Optimizer(learning_rate=2.0, schedule="constant"), {0: 2, 100: 2}),
        (Optimizer(learning_rate=2.0, schedule="constant", warmup=0.1), {0: 0, 5: 1, 10: 2, 99: 2}),
        (Optimizer(learning_rate=2.0, schedule="linear"), {0: 2, 25: 1.5, 50: 1, 100: 0, 120: 0}),
        (Optimizer(learning_rate=2.0, schedule="linear", warmup=0.2, final=0.5), {10: 1, 20: 2, 60: 1.5, 100: 1}),
        (Optimizer(learning_rate=2.0, schedule="cosine"), {0: 2, 50: 1, 25: 1 + 0.5**0.5, 100: 0}),
        (
            Optimizer(learning_rate=2.0, schedule="cosine", warmup=0.5, final=0.1),
            {25: 1, 50: 2, 75: 1.1, 100: 0.2},
        ),
        (
            Optimizer(learning_rate=2.0, schedule="piecewise", boundaries=(0.5, 0.75), decay=0.1),
            {0: 2, 49: 2, 50: 0.2, 74: 0.2, 75: 0.02, 100: 0.02},
        ),
        # airbench94 with SGD: 0.2 -> 1 at 23 % of the run -> 0.07.
        (
            Optimizer(learning_rate=1.0, schedule="triangular", warmup=0.2, initial=0.2, final=0.07),
            {0: 0.2, 10: 0.6, 20: 1, 60: 0.535, 100: 0.07},
        ),
        # torch.optim.lr_scheduler.OneCycleLR(max_lr=1, total_steps=101, pct_start=0.3, div_factor=25).
        (
            Optimizer(learning_rate=1.0, schedule="one_cycle", warmup=0.3, initial=0.04),
            {0: 0.04, 15: 0.52, 30: 1, 65: 0.5, 100: 0},
        ),
        (Optimizer(learning_rate=2.0, schedule="linear", accumulate=4), {0: 2, 5: 1.6, 25: 0}),
    ],
)  # fmt: skip
def test_schedules_by_hand(config, expected):
    schedule = optimizers.make_schedule(config, total_steps=100)
    for count, rate in expected.items():
        assert schedule(count) == pytest.approx(rate, rel=1e-5, abs=1e-6 * config.learning_rate), count
        assert jax.jit(schedule)(jnp.int32(count)) == pytest.approx(
            rate, rel=1e-5, abs=1e-6 * config.learning_rate
        ), count


@pytest.mark.parametrize(
    "config, word",
    [
        (Optimizer(schedule="one_cycle"), "warmup"),
        (Optimizer(schedule="triangular"), "warmup"),
        (Optimizer(schedule="piecewise"), "boundaries"),
        (Optimizer(schedule="piecewise", boundaries=(0.7, 0.5)), "ascending"),
        (Optimizer(schedule="piecewise", boundaries=(30.0,)), "boundaries"),
        (Optimizer(warmup=1.0), "warmup"),
        (Optimizer(learning_rate=0.0), "learning_rate"),
        (Optimizer(name="lion"), "choose one of"),
    ],
)
def test_mistakes_are_named(config, word):
    with pytest.raises(ConfigError, match=word):
        optimizers.make_optimizer(config, 100)


@pytest.mark.parametrize(("name", "place"), [("sgd", 0), ("adam", 0), ("adamw", 1), ("muon", 1)])
def test_decay_of_weights_alone_lies_where_older_checkpoints_have_it(name, place):
    state = optimizers.make_optimizer(Optimizer(name=name, weight_decay=0.1), 10).init(parameters())
    assert isinstance(state[0][place], optax.MaskedState)
