"""A run that begins from trained weights: a workdir, a checkpoint of one, a published file."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import Data, Experiment, Model, Optimizer, Train, replace
from cnnjax.models import create_model
from cnnjax.models.head import head_layers
from cnnjax.runs.beginning import Beginning, begin_from, find, short, with_preprocessing
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.run import restore
from cnnjax.runs.train import train_run
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import sharding
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import compile_init
from cnnjax.weights.convert import save_torchvision

SMALL = ("--model.name=tiny_resnet18", "--data.name=synthetic", "--data.batch_size=4")
STILL = (*SMALL, "--data.limit=8", "--train.steps=1", "--optimizer.learning_rate=1e-30")  # weights stay


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with torchvision's names, of random numbers and 1000 classes; and the numbers."""
    model = create_model("tiny_resnet18", 1000)
    variables = jax.eval_shape(model.init, jax.random.key(7), jnp.zeros((1, 64, 64, 3)))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: draw.uniform(0.5, 1.5, a.shape).astype(np.float32), variables)
    path = tmp_path_factory.mktemp("weights") / "r.safetensors"
    save_torchvision(path, "tiny_resnet18", variables)
    return path, variables


def trunk(variables):
    return {name: value for name, value in variables["params"].items() if name != "output"}


@pytest.mark.full
def test_a_file_of_other_classes_gives_all_but_the_head_and_its_preprocessing(launch, tmp_path, weights):
    path, variables = weights
    result = launch(*STILL, f"--train.init_from={path}", f"--workdir={tmp_path}", "--data.image_size=48")
    assert result.code == 0, result.err
    run = restore(Workdir(tmp_path))
    found = jax.tree.map(lambda a: np.asarray(a[0]), run.state.variables)
    jax.tree.map(np.testing.assert_array_equal, trunk(found), trunk(variables))
    count = len(jax.tree.leaves(variables))
    assert f"taken from {path}: {count - 2} of {count} arrays: block1_1/bn1, " in result.out
    assert "made anew: 2 arrays: output\n" in result.out
    data = json.loads((tmp_path / "config.json").read_text())["data"]
    assert data["mean"] == [0.485, 0.456, 0.406] and data["std"] == [0.229, 0.224, 0.225]
    assert (data["image_size"], data["resize_short"], data["resize"]) == (48, 55, "crop")  # 48 / 224 * 256
    assert (
        "as you said, or as follows from it: image_size=48, not 224; resize_short=55, not 256" in result.out
    )


MLP = (
    "--model.name=mlp",
    "--data.limit=20",
    "--data.batch_size=10",
    "--optimizer.ema=0.5",
    "--train.seeds=2",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of a small network on digits: two seeds, two steps, a checkpoint of each."""
    path = tmp_path_factory.mktemp("source")
    experiment = Experiment(
        data=Data(limit=20, batch_size=10, image_size=28),
        model=Model(name="mlp"),
        optimizer=Optimizer(ema=0.5),
        train=Train(steps=2, seeds=2, checkpoint_every=0.5, evaluate_every=0),
    )
    train_run(experiment, Workdir(path))
    return path


@pytest.mark.full
def test_a_checkpoint_gives_each_seed_its_own_and_its_preprocessing(launch, tmp_path, source):
    still = ("--train.steps=1", "--optimizer.learning_rate=1e-30", "--train.seed=5")
    result = launch(
        *MLP[:-1], *still, "--train.seeds=3", f"--train.init_from={source / 'checkpoints' / '1'}", f"--workdir={tmp_path}"
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "made anew: 0 arrays\n" in result.out
    with CheckpointStore(source / "checkpoints") as store:
        given = store.variables(1)["params"]
    run = restore(Workdir(tmp_path))
    # The average of a run that stands still is what it began from; a value of 0 moves by 1e-30.
    for seed, of in enumerate((0, 1, 0)):
        for new, old in zip(jax.tree.leaves(run.state.params), jax.tree.leaves(given), strict=True):
            np.testing.assert_allclose(new[seed], old[of], rtol=0, atol=1e-25)
    data, theirs = (json.loads((path / "config.json").read_text())["data"] for path in (tmp_path, source))
    assert [data[name] for name in ("mean", "std")] == [theirs[name] for name in ("mean", "std")]


def test_other_classes_have_a_head_of_their_own_also_if_they_are_as_many(source):
    """Without training: what Plan.begin makes of the source."""
    experiment = Experiment(
        data=Data(batch_size=10, image_size=28, mean=(0.5,), std=(0.5,)),
        model=Model(name="mlp"),
        train=Train(steps=1),
    )
    own = tuple("0123456789")
    fresh, begun, same = begin(experiment, own, None), *(begin(experiment, names, source) for names in (tuple("abcdefghij"), own))  # fmt: skip
    with CheckpointStore(source / "checkpoints") as store:
        given = store.variables(2)["params"]
    for name in given:
        for leaf, value in given[name].items():
            expected = fresh.state.params[name][leaf] if name == "output" else value[:1]
            np.testing.assert_array_equal(begun.state.params[name][leaf], expected)
            np.testing.assert_array_equal(same.state.params[name][leaf], value[:1])
    assert begun.said[1] == "made anew: 2 arrays: output" and same.said[1] == "made anew: 0 arrays"


def begin(experiment, classes, source):
    """The beginning of a run on digits with these classes, from a source or from scratch."""
    recipe = make_recipe(experiment, classes, (28, 28, 1), 1)
    mesh = sharding.make_mesh(10)
    state = compile_init(recipe, (28, 28, 1), mesh)(np.zeros(1, np.int32), None)
    if source is None:
        return Beginning(0, state)
    found = find(replace(experiment, {"train.init_from": str(source)}))
    return begin_from(found, recipe, state, classes, (28, 28, 1), mesh)


@pytest.mark.full
def test_it_goes_on_to_the_last_bit_without_the_weights(launch, tmp_path, source):
    there = shutil.copytree(source, tmp_path / "there")
    flags = (
        *MLP,
        f"--train.init_from={there}",
        "--train.checkpoint_every=0.5",
        "--optimizer.schedule=constant",
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert launch(*flags, "--train.steps=4", f"--workdir={whole}").code == 0
    assert launch(*flags, "--train.steps=2", f"--workdir={parts}").code == 0
    shutil.rmtree(there)
    result = launch(*flags, "--train.steps=4", f"--workdir={parts}")
    assert result.code == 0 and "going on from step 2 of 4" in result.out, result.err
    assert "taken from" not in result.out
    one, other = (restore(Workdir(w)).state for w in (whole, parts))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("said", "changes", "expected"),
    [
        ((), {}, (224, 256, (0.1, 0.2, 0.3), "bgr")),
        (("image_size",), {"data.image_size": 96}, (96, 110, (0.1, 0.2, 0.3), "bgr")),  # 96 / 224 * 256
        (("image_size", "resize_short"), {"data.image_size": 96, "data.resize_short": 96}, (96, 96, (0.1, 0.2, 0.3), "bgr")),
        (("channel_order",), {}, (224, 256, (0.3, 0.2, 0.1), "rgb")),
        (("std",), {"data.mean": (1.0,), "data.std": (1.0,)}, (224, 256, (1.0,), "bgr")),
    ],
)  # fmt: skip
def test_what_is_said_stays_and_what_follows_from_it_follows(said, changes, expected):
    source = {
        "image_size": 224, "resize_short": 256, "resize": "crop", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6),
        "channel_order": "bgr",
    }  # fmt: skip
    experiment = replace(Experiment(train=Train(steps=1)), changes)
    data = with_preprocessing(experiment, source, {f"data.{name}" for name in said}).data
    assert (data.image_size, data.resize_short, data.mean, data.channel_order) == expected


@pytest.mark.full
def test_devices_do_not_change_what_is_taken(launch, tmp_path, weights):
    """Tests run on four virtual devices: a batch of 4 on all of them, and on one."""
    states = []
    for name, parallel in (("many", "true"), ("one", "false")):
        flags = (*STILL, "--data.image_size=32", f"--train.data_parallel={parallel}")
        assert launch(*flags, f"--train.init_from={weights[0]}", f"--workdir={tmp_path / name}").code == 0
        states.append(restore(Workdir(tmp_path / name)).state.params)
    # The bias of the fresh head is 0 and moves by 1e-30.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-25), *states)


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        ("tiny_resnet18", "nothing", "no such workdir, checkpoint or file of weights"),
        ("tiny_densenet", "FILE", "they are of another architecture"),
        ("lenet5", "FILE", "no torch weights of lenet5 are known"),
    ],
)
def test_mistakes_are_one_line(launch, tmp_path, weights, model, source, message):
    source = str(weights[0]) if source == "FILE" else source
    result = launch(
        *STILL, f"--model.name={model}", "--data.image_size=32", f"--train.init_from={source}", f"--workdir={tmp_path}"
    )  # fmt: skip
    assert result.code == 1 and message in result.err and len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "size", "head"),
    [
        ("tiny_resnet18", 32, {"output"}),
        ("tiny_squeezenet", 64, {"output"}),
        ("tiny_yolov3_tiny", 64, None),
    ],
)
def test_the_head_is_what_other_classes_make_anew(name, size, head):
    found = head_layers(create_model(name), (size, size, 3))
    assert found == head if head else len(found) == 2  # one output for each of two scales


def test_preprocessing_is_told_in_few_digits():
    assert short((1 / 3, 0.25)) == "0.3333/0.25" and short(224) == "224" and short("crop") == "crop"


def test_a_trunk_of_random_numbers_that_is_held_back_is_told(launch, tmp_path):
    flags = ("--model.name=mlp", "--data.limit=10", "--data.batch_size=8", "--train.steps=1")
    result = launch(*flags, "--optimizer.frozen=trunk", f"--workdir={tmp_path}")
    assert result.code == 0, result.err
    assert "frozen: 4 of 6 parameters: fc1, fc2\n" in result.out
    assert (
        "note: optimizer.frozen=trunk of random numbers; --train.init_from begins from trained" in result.out
    )
