"""The pure step, the loop and what a resumed run promises."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import config
from cnnjax.config import Augment, Data, Experiment, Model, Optimizer, Train
from cnnjax.data.dataset import Dataset
from cnnjax.runtime import sharding
from cnnjax.training import step as steps
from cnnjax.training.loop import Callbacks, Diverged, train
from cnnjax.training.recipe import make_recipe
from cnnjax.training.resident import as_rows
from cnnjax.training.step import for_each_seed, init_state, is_finite, train_step

CLASSES = tuple("0123456789")


def tiny(**changes) -> Experiment:
    base = Experiment(
        data=Data(name="synthetic", batch_size=8, mean=(0.5,), std=(0.25,)),
        model=Model(name="softmax_regression"),
        optimizer=Optimizer(name="sgd", learning_rate=0.1),
        train=Train(steps=4),
    )
    return config.replace(base, {name.replace("__", "."): value for name, value in changes.items()})


def make_batch(n: int = 8, seed: int = 0, size: int = 28):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (n, size, size, 1)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 10, n), jnp.int32),
        "index": jnp.arange(n, dtype=jnp.int32),
        "epoch": jnp.zeros(n, jnp.int32),
    }


SHAPE = (28, 28, 1)
one_step = jax.jit(train_step, static_argnums=0)


def setup(experiment: Experiment):
    recipe = make_recipe(experiment, CLASSES, SHAPE, num_steps=10)
    return recipe, jax.jit(lambda: init_state(recipe, SHAPE, jnp.int32(0)))()


def test_golden_step():
    """Pins one step of LeNet-5 with SGD. Update only if what a step computes was changed on purpose."""
    recipe, state = setup(tiny(model__name="lenet5"))
    state, metrics = one_step(recipe, state, make_batch())
    assert {k: pytest.approx(float(v), rel=1e-5) for k, v in metrics.items()} == GOLDEN_METRICS
    assert float(jnp.sum(jnp.abs(state.params["c1"]["kernel"]))) == pytest.approx(GOLDEN_C1, rel=1e-5)
    assert int(state.step) == 1


GOLDEN_METRICS = {"accuracy": 0.25, "grad_norm": 14.890565, "loss": 2.6892414, "top5": 0.5}
GOLDEN_C1 = 36.485313


def test_step_descends_and_is_a_function_of_its_arguments():
    recipe, state = setup(tiny(augment__rotate=10.0))
    batch = make_batch()
    step = jax.jit(lambda s: train_step(recipe, s, batch))
    losses = []
    current = state
    for _ in range(15):
        current, metrics = step(current)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert float(step(state)[1]["loss"]) == losses[0]


def test_weight_decay_spares_biases():
    recipe, state = setup(tiny(optimizer__weight_decay=0.5, optimizer__name="adamw"))
    plain, _ = setup(tiny(optimizer__name="adamw"))
    batch = make_batch()
    decayed = one_step(recipe, state, batch)[0].params["output"]
    free = one_step(plain, state, batch)[0].params["output"]
    np.testing.assert_array_equal(decayed["bias"], free["bias"])
    assert (decayed["kernel"] != free["kernel"]).any()


def test_moving_average_follows_the_weights():
    recipe, state = setup(tiny(optimizer__ema=0.9))
    after, _ = one_step(recipe, state, make_batch())
    # The first step keeps a share of min(0.9, 1 / 10).
    np.testing.assert_allclose(
        after.variables["params"]["output"]["kernel"],
        0.1 * state.params["output"]["kernel"] + 0.9 * after.params["output"]["kernel"],
        rtol=1e-5,
        atol=1e-7,
    )


def test_lookahead_goes_on_from_the_average_of_every_second_step():
    """Against plain steps, with the weights replaced between them from outside."""
    recipe, state = setup(tiny(optimizer__ema=0.9, optimizer__lookahead=2))
    plain, expected = setup(tiny())
    slow = expected.params
    for done in (1, 2, 3, 4, 5):
        state, _ = one_step(recipe, state, make_batch(seed=done))
        expected, _ = one_step(plain, expected, make_batch(seed=done))
        if done % 2 == 0:
            keep = 0.9**2 * (done / 10) ** 3
            slow = jax.tree.map(lambda a, b, k=keep: k * a + (1 - k) * b, slow, expected.params)
            expected = dataclasses.replace(expected, params=slow)
        for actual, wanted in ((state.params, expected.params), (state.variables["params"], slow)):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), actual, wanted)


def test_accumulation_equals_the_larger_batch():
    """Two batches of 8 with accumulate=2 make the update of one batch of 16."""
    big, state = setup(tiny())
    small, accumulating = setup(tiny(optimizer__accumulate=2))
    first, second = make_batch(seed=1), make_batch(seed=2)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    want, _ = one_step(big, state, both)
    for batch in (first, second):
        accumulating, _ = one_step(small, accumulating, batch)
    np.testing.assert_allclose(
        accumulating.params["output"]["kernel"], want.params["output"]["kernel"], rtol=1e-4, atol=1e-6
    )


def test_bfloat16_computes_in_half_and_keeps_float32_weights():
    recipe, state = setup(tiny(model__dtype="bfloat16", model__name="lenet5"))
    after, metrics = one_step(recipe, state, make_batch())
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(after.params))
    assert jnp.isfinite(metrics["loss"])


def test_seeds_unrolled_equal_seeds_under_vmap():
    recipe, _ = setup(tiny())
    states = jax.tree.map(lambda *a: jnp.stack(a), *[init_state(recipe, SHAPE, jnp.int32(s)) for s in (0, 1)])
    batches = jax.tree.map(lambda *a: jnp.stack(a), make_batch(seed=1), make_batch(seed=2))
    loop = jax.jit(lambda s, b: for_each_seed(lambda s, b: train_step(recipe, s, b), s, b))(states, batches)
    mapped = jax.jit(jax.vmap(lambda s, b: train_step(recipe, s, b)))(states, batches)
    for a, b in zip(jax.tree.leaves(loop[0].params), jax.tree.leaves(mapped[0].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def run_loop(experiment, stop_after=None, devices=1):
    """Runs the loop from scratch; returns what the callbacks saw."""
    n = 20
    batch = make_batch(n)
    split = {"image": np.asarray(batch["image"]), "label": np.asarray(batch["label"])}
    data = Dataset("x", split, split, CLASSES)
    recipe, state = setup(experiment)
    mesh = sharding.make_mesh(experiment.data.batch_size, data_parallel=devices > 1)
    assert mesh.size == devices
    state = jax.device_put(jax.tree.map(lambda a: a[None], state), sharding.replicated(mesh))
    seen = {"metrics": [], "evaluated": [], "saved": []}
    callbacks = Callbacks(
        on_metrics=lambda step, m: seen["metrics"].append((step, m["loss"])) or seen.update(m),
        on_evaluate=lambda step, _: seen["evaluated"].append(step) or 0.5,
        on_checkpoint=lambda step, _, headline: seen["saved"].append((step, headline)),
        should_stop=lambda: stop_after is not None and len(seen["metrics"]) >= stop_after,
    )
    final = train(experiment, recipe, data, mesh, state, experiment.train.steps, callbacks)
    return final, seen


def test_loop_evaluates_saves_and_logs_when_asked():
    # 20 examples in batches of 8: an epoch is 2.5 steps.
    experiment = tiny(
        train__steps=10, train__evaluate_every=2.0, train__checkpoint_every=1.0, train__log_every=4
    )
    final, seen = run_loop(experiment)
    assert int(final.step[0]) == 10
    assert seen["evaluated"] == [5, 10]
    assert seen["saved"] == [(2, None), (4, None), (6, None), (8, None), (10, 0.5)]
    assert [step for step, _ in seen["metrics"]] == [2, 4, 5, 6, 8, 10]


def test_many_steps_in_one_call_change_nothing():
    one, _ = run_loop(tiny(train__steps=6, train__evaluate_every=0.0, train__checkpoint_every=0.0))
    many, _ = run_loop(
        tiny(train__steps=6, train__evaluate_every=0.0, train__checkpoint_every=0.0, train__steps_per_call=3)
    )
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_four_devices_give_the_losses_of_one():
    _, one = run_loop(tiny(train__steps=6, train__log_every=1))
    _, four = run_loop(tiny(train__steps=6, train__log_every=1), devices=4)
    np.testing.assert_allclose([m[1] for m in one["metrics"]], [m[1] for m in four["metrics"]], rtol=1e-5)


def test_divergence_names_the_step_and_saves_nothing_after_it():
    experiment = tiny(
        train__steps=30, optimizer__learning_rate=1e6, train__checkpoint_every=0.5, model__name="lenet5"
    )
    with pytest.raises(Diverged, match="is not finite at step [0-9]+") as error:
        run_loop(experiment)
    assert error.value.step <= 30


def test_stopping_saves_where_it_stopped():
    _, seen = run_loop(
        tiny(train__steps=100, train__log_every=2, train__evaluate_every=0.0, train__checkpoint_every=0.0),
        stop_after=1,
    )
    assert len(seen["saved"]) == 1 and seen["saved"][0][0] < 100 and seen["saved"][0][1] is None


def test_an_update_that_blows_up_the_weights_is_never_saved():
    """The loss and the gradient are those before the update."""
    changes = {"optimizer__learning_rate": 3e38, "train__checkpoint_every": 0.5, "train__steps": 3}
    with pytest.raises(Diverged, match="the updated state of seed 0 is not finite at step 1"):
        _, seen = run_loop(tiny(**changes, optimizer__name="sgd"))
    recipe, state = setup(tiny(**changes, optimizer__name="sgd", train__on_nan="skip"))
    after, metrics = one_step(recipe, state, make_batch())
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
    assert float(metrics["skipped"]) == 1 and not is_finite(after, metrics)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_moving_average_follows_updates_not_batches():
    """Against the average of every second state of the run without one."""
    experiment = tiny(optimizer__accumulate=2, train__steps=8)
    plain, expected = setup(experiment)
    recipe, state = setup(tiny(optimizer__accumulate=2, optimizer__ema=0.9, train__steps=8))
    average = expected.params
    for done in range(1, 7):
        state, _ = one_step(recipe, state, make_batch(seed=done))
        expected, _ = one_step(plain, expected, make_batch(seed=done))
        if done % 2 == 0:
            update = done // 2 - 1
            keep = min(0.9, (1 + update) / (10 + update))
            average = jax.tree.map(lambda a, b, k=keep: k * a + (1 - k) * b, average, expected.params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            state.variables["params"],
            average,
        )


@pytest.mark.parametrize("accelerator", [False, True])
def test_calls_of_many_steps_compile_once_or_twice_whatever_the_distances(monkeypatch, accelerator):
    """An accelerator's program has one shape, a CPU's also one for single steps; the result is the same."""
    monkeypatch.setattr(sharding, "on_cpu", lambda mesh: not accelerator)
    traced = []
    step = steps.train_step
    monkeypatch.setattr(steps, "train_step", lambda *a: traced.append(1) or step(*a))
    changes = {"train__steps": 10, "train__evaluate_every": 1.0, "train__checkpoint_every": 0.3}
    one, seen = run_loop(tiny(**changes, train__log_every=1, train__steps_per_call=1))
    single = len(traced)
    many, other = run_loop(tiny(**changes, train__log_every=1, train__steps_per_call=4))
    assert single <= 2 and len(traced) - single <= (3 if accelerator else 5)
    assert [step for step, _ in other["saved"]] == [step for step, _ in seen["saved"]]
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def poisoned(monkeypatch, when):
    """Makes the loss infinite wherever `when(index [N])` says so of an example."""
    from cnnjax.tasks.classification import Classification

    loss = Classification.loss
    monkeypatch.setattr(
        Classification,
        "loss",
        lambda self, outputs, batch: loss(self, outputs, batch) + jnp.where(when(batch["index"]), jnp.inf, 0),
    )


def test_skipping_leaves_everything_as_it_was_and_counts(monkeypatch):
    plain, _ = setup(tiny(optimizer__ema=0.9, optimizer__name="adamw"))
    recipe, state = setup(tiny(train__on_nan="skip", optimizer__ema=0.9, optimizer__name="adamw"))
    batch = make_batch()
    want, _ = jax.jit(lambda s: train_step(plain, s, batch))(state)
    good, metrics = jax.jit(lambda s: train_step(recipe, s, batch))(state)
    assert float(metrics["skipped"]) == 0
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(good), strict=True):
        np.testing.assert_array_equal(a, b)
    poisoned(monkeypatch, lambda index: index == 3)
    bad, metrics = one_step(recipe, good, batch)
    assert float(metrics["skipped"]) == 1 and int(bad.step) == 2
    bad = dataclasses.replace(bad, step=good.step)
    for a, b in zip(jax.tree.leaves(good), jax.tree.leaves(bad), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("per_call", [1, 3])
def test_metrics_leave_out_skipped_steps_until_there_are_too_many_in_a_row(monkeypatch, per_call):
    poisoned(monkeypatch, lambda index: index == 3)  # one batch of each epoch of 2.5 steps
    changes = {
        "train__steps": 9,
        "train__log_every": 9,
        "train__evaluate_every": 0.0,
        "train__checkpoint_every": 0.0,
    }
    changes |= {"train__on_nan": "skip", "train__steps_per_call": per_call}
    final, seen = run_loop(tiny(**changes))
    ((step, loss),) = seen["metrics"]
    assert step == 9 and np.isfinite(loss) and 3 <= seen["skipped"] <= 4 and int(final.step[0]) == 9
    poisoned(monkeypatch, lambda index: index >= 0)
    with pytest.raises(Diverged, match="not finite at step 4, after 3 skipped updates in a row"):
        run_loop(tiny(**changes, train__nan_limit=3))


def lines_without_times(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


SMALL = (
    "--model.name=softmax_regression",
    "--data.limit=120", "--data.batch_size=32", "--train.steps=12", "--train.log_every=3",
    "--train.checkpoint_every=1", "--train.evaluate_every=2", "--evaluate.batch_size=60",
)  # fmt: skip


def final_params(workdir):
    from cnnjax.runs.run import restore
    from cnnjax.runs.workdir import Workdir

    return jax.tree.leaves(restore(Workdir(workdir)).state.params)


def test_equal_runs_and_resumed_runs_are_equal_to_the_last_bit(tmp_path, launch, monkeypatch):
    whole, again, broken = (tmp_path / name for name in ("whole", "again", "broken"))
    assert launch(*SMALL, f"--workdir={whole}").code == 0
    assert launch(*SMALL, f"--workdir={again}").code == 0
    assert lines_without_times(whole / "metrics.jsonl") == lines_without_times(again / "metrics.jsonl")

    from cnnjax.runs import checkpoint

    class Crash(Exception):
        pass

    save = checkpoint.CheckpointStore.save

    def save_then_crash(self, step, *args):
        save(self, step, *args)
        if step == 8:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.CheckpointStore, "save", save_then_crash)
        with pytest.raises(Crash):
            launch(*SMALL, f"--workdir={broken}")
    result = launch(*SMALL, f"--workdir={broken}")
    assert result.code == 0 and "going on from step 8 of 12" in result.out
    assert lines_without_times(whole / "metrics.jsonl") == lines_without_times(broken / "metrics.jsonl")
    for a, b, c in zip(final_params(whole), final_params(again), final_params(broken), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_deterministic_is_a_flag_that_xla_knows(launch, monkeypatch):
    """XLA ends a process that is given an unknown flag; it reads them when JAX first computes something."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert launch("--deterministic", "--mode=layers").code == 1  # without --workdir
    assert os.environ["XLA_FLAGS"].split()[0] == "--xla_cpu_enable_fast_math=false"
    code = "import jax; print(jax.numpy.ones(2).sum())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "deterministic" in os.environ["XLA_FLAGS"] and result.stdout == "2.0\n", result.stderr


def test_a_finished_run_can_be_extended_but_not_changed(tmp_path, launch):
    assert launch(*SMALL, f"--workdir={tmp_path}").code == 0
    longer = launch(f"--workdir={tmp_path}", "--train.steps=16")
    assert longer.code == 0 and "going on from step 12 of 16" in longer.out
    changed = launch(f"--workdir={tmp_path}", "--optimizer.learning_rate=0.5")
    assert changed.code == 1 and "optimizer.learning_rate: 0.003 -> 0.5" in changed.err


def test_augmentation_is_off_by_default():
    recipe, state = setup(tiny())
    batch = make_batch()
    moved = {**batch, "epoch": batch["epoch"] + 7}
    assert float(one_step(recipe, state, batch)[1]["loss"]) == float(
        one_step(recipe, state, moved)[1]["loss"]
    )
    assert recipe.augment == Augment()


def test_one_order_of_channels_decides_statistics_normalization_and_fills(monkeypatch):
    """data.mean and data.std are in the order that the model expects, whoever gave them."""
    from cnnjax.network import Preprocessing
    from cnnjax.runs.plan import with_statistics
    from cnnjax.training.step import augmented, stream

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 8, 8, 3)) * np.array([0.2, 0.6, 1.0])
    split = {"image": image.astype(np.uint8), "label": rng.integers(0, 10, 50).astype(np.int32)}
    data = Dataset("x", split, split, CLASSES)
    for order in ("rgb", "bgr"):
        experiment = with_statistics(
            tiny(data__mean=(), data__std=(), data__channel_order=order, augment__cutout=99), data
        )
        x = np.asarray(Preprocessing.of(experiment.data)(split["image"]))
        np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(x.std((0, 1, 2)), 1, rtol=1e-4)
        assert (experiment.data.mean[0] < experiment.data.mean[2]) == (order == "rgb")
        recipe = make_recipe(experiment, CLASSES, (8, 8, 3), 1)
        batch = {name: jnp.asarray(v[:4]) for name, v in split.items()}
        batch |= {"index": jnp.arange(4), "epoch": jnp.zeros(4, jnp.int32)}
        filled = augmented(recipe, batch, stream(jnp.int32(0), 1))["image"]
        # all cut out: the mean pixel
        np.testing.assert_allclose(Preprocessing.of(experiment.data)(filled), 0, atol=1e-4)


def test_examples_on_a_device_are_rows_of_it():
    x = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    held = as_rows({"image": x, "label": np.arange(4)})
    assert held["image"].values.shape == (4, 12) and np.shares_memory(held["image"].values, x)
    taken = jax.jit(lambda rows, index: rows[index])(held["image"], jnp.array([2, 0]))
    np.testing.assert_array_equal(taken, x[[2, 0]])
    np.testing.assert_array_equal(held["image"][:3], x[:3])
    assert held["label"].shape == (4,)
