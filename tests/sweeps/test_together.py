"""Runs in one program: the same as alone, to rounding; which may share one, failures, and going on."""

import dataclasses
import json
import threading

import jax
import numpy as np
import pytest

import cnnjax as cj
from cnnjax import config
from cnnjax.runtime import sharding
from cnnjax.sweeps import space, together
from cnnjax.sweeps.sweep import Sweep, open_sweep, run_sweep
from cnnjax.training.recipe import Varied, make_recipe
from cnnjax.training.step import compile_steps, init_states

BASE = cj.replace(
    cj.experiments.digits_lenet(),
    {"model.name": "softmax_regression", "data.limit": 200, "data.batch_size": 20, "train.epochs": 0.0,
     "train.steps": 6, "data.validation": 0.2, "train.evaluate_every": 0.4},
)  # fmt: skip
PLAIN = {name: 0.0 for name in ("rotate", "scale", "translate", "shear")}


def of(name, augment=None, classification=0.0, **optimizer):
    """An experiment with only these settings on."""
    return dataclasses.replace(
        BASE,
        optimizer=config.Optimizer(name=name, **optimizer),
        augment=config.Augment(**{**PLAIN, **(augment or {})}),
        classification=config.Classification(classification),
        data=dataclasses.replace(BASE.data, mean=(0.5,) * 3, std=(0.2,) * 3),
    )


PAIRS = {
    "sgd": (
        of("sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-3, ema=0.9, clip_norm=1.0, bias_learning_rate=0.2),
        of("sgd", learning_rate=0.03, momentum=0.5, weight_decay=1e-1, ema=0.5, clip_norm=0.1, bias_learning_rate=0.01),
    ),
    "adamw": (
        of("adamw", learning_rate=1e-2, b2=0.99, weight_decay=0.1, final=0.1, warmup=0.5, initial=0.2, classification=0.1),
        of("adamw", learning_rate=1e-3, b2=0.9, weight_decay=0.3, final=0.5, warmup=0.5, initial=0.5, classification=0.3),
    ),
    "places": (
        of("adam", {"rotate": 30.0, "scale": 0.2, "translate": 0.1, "shear": 10.0, "elastic": 20.0, "mixup": 0.2}),
        of("adam", {"rotate": 3.0, "scale": 0.1, "translate": 0.2, "shear": 20.0, "elastic": 10.0, "mixup": 1.0}),
    ),
    "colours": (
        of("adam", {"hue": 0.1, "saturation": 0.5, "exposure": 0.2, "brightness": 0.1, "contrast": 0.3, "random_crop": 0.5, "cutmix": 1.0}),
        of("adam", {"hue": 0.3, "saturation": 0.1, "exposure": 0.5, "brightness": 0.3, "contrast": 0.1, "random_crop": 0.2, "cutmix": 0.3}),
    ),
}  # fmt: skip


def differing(one, two):
    pairs = zip(config.fields(one), config.fields(two), strict=True)
    return {name: (a, b) for (name, _, a), (_, _, b) in pairs if a != b}


def twice(recipe, state, arrays, index, epoch, **how):
    """Two calls of a program of one step."""
    steps = compile_steps(recipe, sharding.make_mesh(16, 1), donate=False, **how)
    for i in range(2):
        state, metrics = steps(state, arrays, index[i : i + 1], epoch[i : i + 1])
    return state, metrics


@pytest.mark.full
@pytest.mark.parametrize(
    "kind", ["sgd", *(pytest.param(one, marks=pytest.mark.slow) for one in ("adamw", "places", "colours"))]
)
def test_steps_of_several_settings_equal_those_of_each_alone(kind):
    rng = np.random.default_rng(0)
    shape, classes = (8, 8, 3), tuple("0123456789")
    arrays = {
        "image": rng.integers(0, 256, (40, *shape), np.uint8),
        "label": np.arange(40, dtype=np.int32) % 10,
    }
    index = rng.integers(0, 40, (2, 2, 16)).astype(np.int32)
    epoch = np.zeros_like(index)
    recipes = [make_recipe(one, classes, shape, 3) for one in PAIRS[kind]]
    values = differing(*PAIRS[kind])
    assert len(values) >= 6 and set(values) <= together.SETTINGS

    def recipe_of(values):
        plain = {k: float(v) if isinstance(v, np.floating) else v for k, v in values.items()}
        return make_recipe(config.replace(PAIRS[kind][0], plain), classes, shape, 3)

    both = dataclasses.replace(recipes[0], varied=Varied(values, recipe_of))
    state = init_states(recipes[0], shape, np.array([5, 6], np.int32))
    each = [
        twice(
            recipe,
            jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], state),
            arrays,
            index[:, [i]],
            epoch[:, [i]],
        )
        for i, recipe in enumerate(recipes)
    ]
    for unroll in (True, False):  # as on CPUs, as on accelerators
        found, metrics = twice(both, state, arrays, index, epoch, unroll=unroll)
        assert max(np.abs(a[0] - a[1]).max() for a in jax.tree.leaves(found.params)) > 1e-4
        for i, (alone, said) in enumerate(each):
            for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(found), strict=True):
                scale = np.abs(a).max() if a.size else 0
                np.testing.assert_allclose(b[i : i + 1], a, rtol=1e-4, atol=1e-5 * scale)
            for name in said:
                np.testing.assert_allclose(metrics[name][:, i], said[name][:, 0], rtol=1e-4, err_msg=name)


def lines_of(member):
    kept = [{k: v for k, v in line.items() if k not in ("seconds", "split")} for line in member.lines]
    return kept, [line["step"] for line in member.workdir.read_metrics() if line["split"] == "train"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same sweep, each run alone and all in one program; the last rate diverges."""
    folder = tmp_path_factory.mktemp("together")
    varied = space.parse(["optimizer.learning_rate=0.003,0.02,1e38", "train.seed=3:5"])
    found = []
    for name, count in (("alone", 0), ("one", 10)):
        from cnnjax.sweeps import processes
        from cnnjax.sweeps.sweep import train_here

        sweep = Sweep(folder / name, BASE, varied)
        with pytest.MonkeyPatch.context() as patch:
            if not count:  # the same, without a start of Python for each

                def run_all(workdirs, jobs, data_dir, stopped, tell, sweep=sweep):
                    members = {one.workdir.path: one for one in sweep.members()}
                    for workdir in workdirs:
                        tell(workdir, train_here(sweep, members[workdir.path]))

                patch.setattr(processes, "run_all", run_all)
            found.append(run_sweep(sweep, together=count))
    return found


@pytest.mark.full
def test_a_sweep_in_one_program_is_the_sweep_of_runs_alone(pair):
    alone, one = pair
    for a, b in zip(alone, one, strict=True):
        assert (a.name, a.done) == (b.name, b.done)
        assert ("is not finite" in a.error) == ("is not finite" in b.error) == ("1e+38" in a.name)
        if not a.done:
            assert f"seed {a.experiment.train.seed} " in b.error
            continue
        (first, steps), (second, again) = lines_of(a), lines_of(b)
        assert steps == again and len(first) == len(second) == 2
        for before, after in zip(first, second, strict=True):
            assert after == pytest.approx(before, rel=1e-5)
        before, after = (cj.load_run(member.workdir.path) for member in (a, b))
        assert before.experiment == after.experiment and before.step == after.step == 6
        for x, y in zip(jax.tree.leaves(before.state), jax.tree.leaves(after.state), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    test = [
        json.loads((member.workdir.path.parents[1] / "test.json").read_text())
        for member in (alone[0], one[0])
    ]
    assert list(test[0]) == list(test[1])


@pytest.mark.slow
def test_a_program_that_was_stopped_goes_on(pair, tmp_path):
    sweep = Sweep(tmp_path, BASE, space.parse(["optimizer.learning_rate=0.003,0.02", "train.seed=3:5"]))
    members = open_sweep(sweep)
    stop = threading.Event()
    stop.set()  # a signal before the first step: one step, saved
    told = []
    together.train_group(sweep, members, stop, lambda workdir, ended: told.append(ended))
    assert [ended.stopped for ended in told] == [True] * 4
    assert [together._newest(one) for one in members] == [1] * 4
    assert [len(group) for group in together.groups(members, 10)] == [4]
    stop.clear()
    together.train_group(sweep, members, stop, lambda workdir, ended: told.append(ended))
    assert not any(ended.stopped or ended.error for ended in told[4:])
    undisturbed = {one.name: one for one in pair[1]}
    for member in members:
        assert lines_of(member)[0] == lines_of(undisturbed[member.name])[0]


def test_only_what_decides_no_shape_shares_a_program(tmp_path):
    def kinds(*words, base=BASE, most=10):
        sweep = Sweep(tmp_path, base, space.parse(words))
        return [[one.name for one in group] for group in together.groups(sweep.members(), most)]

    assert kinds("optimizer.learning_rate=0.1,0.2", "train.seed=0:2") == [
        [f"learning_rate={rate},seed={seed}" for rate in (0.1, 0.2) for seed in (0, 1)]
    ]
    assert [len(some) for some in kinds("train.seed=0:5", most=2)] == [2, 2, 1]
    assert len(kinds("data.batch_size=10,20")) == len(kinds("train.steps=5,6")) == 2
    assert kinds("optimizer.weight_decay=0,0.1,0.2") == [
        ["weight_decay=0"],
        ["weight_decay=0.1", "weight_decay=0.2"],
    ]
    assert len(kinds("train.seed=0:3", base=cj.replace(BASE, {"train.on_nan": "roll_back"}))) == 3
    assert len(kinds("train.seed=0:3", base=cj.replace(BASE, {"train.tensorboard": True}))) == 3
