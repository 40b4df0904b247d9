"""A run that begins from trained weights: a workdir, a checkpoint of one, a published file."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models import create_model
from cnnjax.models.head import head_layers
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.run import restore
from cnnjax.runs.workdir import Workdir
from cnnjax.weights.convert import save_torchvision

SMALL = ("--model.name=tiny_resnet18", "--data.name=synthetic", "--data.batch_size=4")
STILL = (*SMALL, "--data.limit=8", "--train.steps=1", "--optimizer.learning_rate=1e-30")  # weights stay


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with torchvision's names, of random numbers and 1000 classes; and the numbers."""
    model = create_model("tiny_resnet18", 1000)
    variables = model.init(jax.random.key(7), jnp.zeros((1, 64, 64, 3)))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: draw.uniform(0.5, 1.5, a.shape).astype(np.float32), variables)
    path = tmp_path_factory.mktemp("weights") / "r.safetensors"
    save_torchvision(path, "tiny_resnet18", variables)
    return path, variables


def trunk(variables):
    return {name: value for name, value in variables["params"].items() if name != "output"}


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
    assert (data["image_size"], data["resize_short"], data["resize"]) == (48, 256, "crop")
    assert "as you said: image_size=48, not 224" in result.out


def test_a_run_of_other_classes_gives_all_but_the_head(launch, tmp_path):
    """Seeds of their own; a checkpoint that is named; a head of equally many classes is anew if they are others."""
    flags = ("--model.name=tiny_resnet18", "--data.limit=16", "--data.batch_size=8", "--optimizer.ema=0.5")
    source, same, other = (tmp_path / name for name in ("source", "same", "other"))
    more = ("--train.steps=2", "--train.seeds=2", "--train.checkpoint_every=0.5", "--data.image_size=16")
    assert launch(*flags, *more, f"--workdir={source}").code == 0
    begin = ("--train.steps=1", "--train.seeds=3", "--optimizer.learning_rate=1e-30", "--train.seed=5")
    checkpoint = source / "checkpoints" / "1"
    result = launch(*flags, *begin, f"--train.init_from={checkpoint}", f"--workdir={same}")
    assert result.code == 0, result.err
    assert "made anew: 0 arrays\n" in result.out
    with CheckpointStore(source / "checkpoints") as store:
        given = store.variables(1)["params"]
    run = restore(Workdir(same))
    assert run.image_shape == (28, 28, 1) and "as you said: image_size=28, not 16" in result.out
    # The average of a run that stands still is what it began from.
    for seed, of in enumerate((0, 1, 0)):
        for new, old in zip(jax.tree.leaves(run.state.params), jax.tree.leaves(given), strict=True):
            np.testing.assert_array_equal(new[seed], old[of])
    config = json.loads((source / "config.json").read_text())["data"]
    assert json.loads((same / "config.json").read_text())["data"]["mean"] == config["mean"]
    strangers = tmp_path / "folder"
    for name in "abcdefghij":
        (strangers / name).mkdir(parents=True)
        for i in range(2):
            _grey(strangers / name / f"{i}.png")
    result = launch(
        *flags[:1], "--data.batch_size=8", f"--data.name=folder:{strangers}", *begin[:1], f"--train.init_from={source}",
        f"--workdir={other}",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "made anew: 2 arrays: output\n" in result.out


def _grey(path):
    from PIL import Image

    Image.fromarray(np.full((20, 20), 90, np.uint8)).save(path)


def test_it_goes_on_to_the_last_bit_without_the_weights(launch, tmp_path, weights):
    file = tmp_path / "w.safetensors"
    shutil.copy(weights[0], file)
    flags = (*SMALL, "--data.limit=8", "--data.image_size=32", "--train.seeds=2", f"--train.init_from={file}")
    length = ("--train.checkpoint_every=0.5", "--optimizer.schedule=constant")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert launch(*flags, *length, "--train.steps=4", f"--workdir={whole}").code == 0
    assert launch(*flags, *length, "--train.steps=2", f"--workdir={parts}").code == 0
    file.unlink()
    result = launch(*flags, *length, "--train.steps=4", f"--workdir={parts}")
    assert result.code == 0 and "going on from step 2 of 4" in result.out, result.err
    assert "taken from" not in result.out
    one, other = (restore(Workdir(w)).state for w in (whole, parts))
    jax.tree.map(np.testing.assert_array_equal, one, other)


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
        ("tiny_resnet18", "s3://bucket/w", "a URL cannot be used here"),
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
