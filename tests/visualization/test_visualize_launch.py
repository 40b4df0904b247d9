"""mode=visualize as a user types it: one command that trains or imports, then makes the gallery; mistakes."""

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.models import create_model
from cnnjax.weights.names import caffe_names

TRAIN = ("--data.limit=40", "--data.batch_size=20", "--train.epochs=0", "--train.steps=4")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(2):
        image = np.random.default_rng(i).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def caffe_file(tmp_path_factory):
    """Random weights of SqueezeNet 1.0 in the names and layout of its authors."""
    model = create_model("squeezenet1_0_caffe")
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 227, 227, 3), np.float32))["params"]
    names = caffe_names(model, dict.fromkeys(params))
    tensors = {}
    for layer, leaves in params.items():
        shape = leaves["kernel"].shape
        kernel = np.random.default_rng(0).normal(0, (2 / np.prod(shape[:3])) ** 0.5, shape)
        tensors[f"{names[layer]}.w"] = kernel.transpose(3, 2, 0, 1).astype(np.float32)
        tensors[f"{names[layer]}.b"] = np.zeros(shape[3], np.float32)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.npz"
    np.savez(path, **tensors)
    return path


@pytest.mark.full
def test_one_command_trains_and_looks(launch, tmp_path):
    pages = ("--visualize.pages=filters,evolution,embeddings", "--visualize.channels=2")
    result = launch(
        "--mode=visualize", "--experiment=visualize_digits", *TRAIN, *pages, f"--workdir={tmp_path}"
    )
    assert result.code == 0, result.err
    found = {path.name for path in (tmp_path / "gallery").iterdir()}
    assert {"filters.png", "evolution-conv1.png", "SVM.png", "neighbours-fc2.png", "projector"} <= found
    page = (tmp_path / "gallery" / "gallery.html").read_text()
    assert "--experiment=visualize_digits" in page and "Trained on 40 training images, tested on 40" in page
    (tmp_path / "gallery" / "filters.png").unlink()
    again = launch("--mode=visualize", f"--workdir={tmp_path}", "--visualize.pages=filters")
    assert again.code == 0 and (tmp_path / "gallery" / "filters.png").exists(), again.err


@pytest.mark.full
def test_one_command_imports_and_looks(launch, tmp_path, caffe_file, photographs):
    flags = (
        "--mode=visualize", "--experiment=visualize_squeezenet", f"--workdir={tmp_path}", f"--inputs={photographs}",
    )  # fmt: skip
    without = launch(*flags)
    assert without.code == 1 and "holds no run: give --weights=FILE" in without.err
    result = launch(
        *flags, f"--weights={caffe_file}", "--visualize.pages=predictions", f"--output={tmp_path / 'out'}"
    )
    assert result.code == 0, result.err
    assert (tmp_path / "out" / "predictions.png").exists()
    (tmp_path / "text.png").write_text("no picture")
    for arguments, message in [
        ((f"--inputs={tmp_path / 'text.png'}",), "text.png"),
        (("--visualize.layer=fire99",), "unknown layer 'fire99'; did you mean fire9"),
        (("--visualize.layer=fire9:512",), "fire9 has channels 0 to 511"),
        (("--visualize.size=16",), "images of 16x16 are too small"),
        (("--visualize.classes=1000",), "classes 0 to 999"),
        (("--visualize.toward=dog",), "class 'dog'"),
        (("--visualize.pages=evolution",), "evolution needs several checkpoints, there is 1"),
    ]:
        wrong = launch(*flags, *arguments)
        assert wrong.code == 1 and message in wrong.err, (arguments, wrong.err)
        assert len(wrong.err.strip().splitlines()) == 1


@pytest.mark.full
def test_what_a_network_cannot_show(launch, tmp_path):
    flags = ("--experiment=digits_lenet", "--model.name=softmax_regression", *TRAIN)
    assert launch(*flags, f"--workdir={tmp_path}").code == 0
    for page, message in [
        ("deconvnet", "needs a layer with height and width"),
        ("filters", "no convolution"),
    ]:
        wrong = launch("--mode=visualize", f"--workdir={tmp_path}", f"--visualize.pages={page}")
        assert wrong.code == 1 and message in wrong.err, wrong.err
    changed = launch("--mode=visualize", f"--workdir={tmp_path}", "--model.name=mlp")
    assert changed.code == 1 and "--model.name cannot be changed by mode=visualize" in changed.err
    missing = launch("--mode=visualize", f"--workdir={tmp_path / 'nothing'}")
    assert missing.code == 1 and "does not exist" in missing.err
