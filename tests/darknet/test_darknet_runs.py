"""Runs of darknet's networks through the launcher: the file of the network stays with the run, weights come out again."""

import json
import shutil

import cfgs
import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.models import create_model
from cnnjax.runs.run import restore
from cnnjax.runs.workdir import Workdir
from cnnjax.weights.darknet import Header, count_numbers

CLASSES = ("a", "b")


def small_cfg(filters=4, classes=None):
    classes = len(CLASSES) if classes is None else classes
    cfg = cfgs.Cfg(side=32)
    for i in range(3):
        cfg.conv(filters * 2**i, stride=2)
    cfg.head("0,1", "4,4, 8,8", classes=classes)
    return cfg.text()


@pytest.fixture
def files(tmp_path):
    """A network, its weights and the names of its classes, in a folder of their own."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "own.cfg").write_text(small_cfg())
    count = count_numbers(create_model(f"darknet:{folder}/own.cfg"))
    numbers = np.random.default_rng(0).uniform(0.1, 1, count).astype("<f4")
    (folder / "own.weights").write_bytes(Header().pack() + numbers.tobytes())
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)).save(folder / "p.png")
    return folder


def imported(launch, files, weights, workdir):
    result = launch(
        "--mode=import", "--experiment=coco_yolov3_tiny", f"--model.name=darknet:{files}/own.cfg",
        f"--weights={weights}", f"--classes={files}/classes.txt", f"--workdir={workdir}",
    )  # fmt: skip
    assert result.code == 0, result.err
    return result


def test_a_run_outlives_the_file_of_its_network_and_gives_its_weights_back(launch, files, tmp_path):
    imported(launch, files, files / "own.weights", tmp_path / "run")
    (files / "own.cfg").rename(files / "moved.cfg")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    run = f"--workdir={tmp_path / 'elsewhere'}"
    assert launch("--mode=export_weights", run, f"--output={tmp_path / 'out.weights'}").code == 0
    assert (tmp_path / "out.weights").read_bytes() == (files / "own.weights").read_bytes()
    result = launch("--mode=predict", run, f"--inputs={files / 'p.png'}", f"--output={tmp_path / 'found'}")
    assert result.code == 0, result.err
    assert (tmp_path / "found" / "coco.json").exists()

    (files / "own.cfg").write_text(small_cfg(8))
    result = launch("--mode=predict", run, f"--inputs={files / 'p.png'}")
    assert result.code == 1
    assert f"{files / 'own.cfg'} is another network than that of the run" in result.err.splitlines()[-1]


def test_safetensors_of_darknets_networks_come_back_with_their_preprocessing(launch, files, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    first = imported(launch, files, files / "own.weights", tmp_path / "run")
    out = tmp_path / "own.safetensors"
    assert launch("--mode=export_weights", f"--workdir={tmp_path / 'run'}", f"--output={out}").code == 0
    tensors = safetensors.load_file(out)
    assert tensors["layer0.conv.weight"].shape == (4, 3, 3, 3)  # torch's order
    # In darknet's file: bias, scale, mean and variance of four filters, then these, out, in, height, width.
    numbers = np.frombuffer((files / "own.weights").read_bytes()[20:], "<f4")
    names = ("bias", "weight", "running_mean", "running_var")
    for i, name in enumerate(names):
        np.testing.assert_array_equal(tensors[f"layer0.norm.{name}"], numbers[4 * i : 4 * i + 4])
    np.testing.assert_array_equal(tensors["layer0.conv.weight"].ravel(), numbers[16 : 16 + 4 * 27])
    again = imported(launch, files, out, tmp_path / "again")
    assert first.out.splitlines()[:2] == again.out.splitlines()[:2]  # what is said of the preprocessing
    one, other = (restore(Workdir(tmp_path / name)).state.variables for name in ("run", "again"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_training_goes_on_without_the_file(launch, files, tmp_path):
    (files / "own.cfg").write_text(small_cfg(classes=4))
    flags = (
        "--experiment=detect", "--data.image_size=32", "--data.limit=8", "--data.batch_size=4", "--augment.mosaic=false",
        "--train.evaluate_every=0", "--model.options=", "--nodetection.kmeans", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    result = launch(*flags, f"--model.name=darknet:{files}/own.cfg", "--train.steps=2")
    assert result.code == 0, result.err
    (files / "own.cfg").unlink()
    for name in (f"darknet:{files}/own.cfg", "darknet:own.cfg"):
        result = launch(*flags, f"--model.name={name}", "--train.steps=2")
        assert result.code == 0, result.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"]["name"].startswith("darknet:") and (tmp_path / "run" / "own.cfg").exists()
