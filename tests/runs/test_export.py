"""Exported networks in a process that knows JAX only, and that every family of models takes a batch of any size."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from PIL import Image, ImageOps

from cnnjax import config
from cnnjax.config import Experiment, Model
from cnnjax.models import create_model
from cnnjax.predict.predict import predict_files
from cnnjax.runs.export import export_run
from cnnjax.runs.run import Run
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import init_states

ROOT = Path(__file__).parents[2]
CLASSES = tuple("abcd")
SUBJECTS = {
    "committee": config.replace(
        Experiment(model=Model(name="lenet5")), {"train.seeds": 2, "evaluate.augment": "flip"}
    ),
    "localization": Experiment(task="localization", model=Model(name="localizer")),
    "logistic": Experiment(task="grid_detection", model=Model(name="grid8")),
    "anchors": config.replace(
        Experiment(task="grid_detection", model=Model(name="grid8")),
        {"detection.form": "anchors", "detection.anchors": (8.0, 8.0, 20.0, 12.0)},
    ),
    "two_stage": Experiment(task="two_stage", model=Model(name="maskrcnn_small")),
}
FRESH = """
import sys
import jax
import numpy as np
for name in sys.argv[2:]:
    exported = jax.export.deserialize(bytearray(open(f"{sys.argv[1]}/{name}.stablehlo", "rb").read()))
    images = np.load(f"{sys.argv[1]}/images_{name}.npy")
    np.savez(f"{sys.argv[1]}/{name}.npz", **exported.call(images))
"""
ALONE = """
assert not [module for module in sys.modules if module.startswith(("cnnjax", "flax", "optax"))]
"""


def random_run(experiment: Experiment, shape: tuple[int, ...] = ()) -> Run:
    """A run with statistics of its own and random weights, without training."""
    shape = shape or ((64, 64, 3) if experiment.task != "classification" else (28, 28, 3))
    experiment = config.replace(
        experiment, {"data.mean": (0.5, 0.4, 0.3), "data.std": (0.2, 0.3, 0.4), "data.channel_order": "bgr"}
    )
    recipe = make_recipe(experiment, CLASSES, shape, num_steps=1)
    seeds = jnp.arange(experiment.train.seeds, dtype=jnp.int32)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        value = rng.normal(0, 0.1, leaf.shape)
        return jnp.asarray(np.abs(value) if path[-1] == jax.tree_util.DictKey("var") else value, leaf.dtype)

    shapes = jax.eval_shape(lambda seeds: init_states(recipe, shape, seeds), seeds)
    state = jax.tree_util.tree_map_with_path(draw, shapes)
    return Run(experiment, CLASSES, shape, recipe, state, step=3)


@pytest.mark.full
def test_a_fresh_process_without_cnnjax_gives_the_same_answers(tmp_path):
    rng = np.random.default_rng(1)
    wanted = {}
    for name, experiment in SUBJECTS.items():
        run = random_run(experiment)
        about = export_run(run, tmp_path / f"{name}.stablehlo")
        content = (tmp_path / f"{name}.stablehlo").read_bytes()
        assert about == json.loads((tmp_path / f"{name}.json").read_text())
        assert about["sha256"] == hashlib.sha256(content).hexdigest()
        assert about["platforms"] == ["cpu", "cuda", "tpu"] and about["classes"] == list(CLASSES)
        assert about["input"]["shape"] == ["batch", *run.image_shape]
        images = rng.integers(0, 256, (5, *run.image_shape), dtype=np.uint8)
        np.save(tmp_path / f"images_{name}.npy", images)
        rows = run.predictor().predictions(images)
        wanted[name] = ({key: np.stack([row[key] for row in rows]) for key in rows[0]}, about)
    with_cnnjax = fresh_answers("import cnnjax.runs.run" + FRESH, tmp_path)
    alone = fresh_answers(FRESH + ALONE, tmp_path)
    for name, (predicted, about) in wanted.items():
        assert set(alone[name]) == set(with_cnnjax[name]) == set(predicted) == set(about["outputs"])
        for key, value in alone[name].items():
            np.testing.assert_array_equal(value, with_cnnjax[name][key], err_msg=f"{name} {key}")
            assert [5, *about["outputs"][key]["shape"][1:]] == list(value.shape)
            # Boxes of random weights, in pixels, went through the exponentials of two stages.
            close = {"rtol": 1e-4, "atol": 2e-3 if name == "two_stage" else 1e-4}
            np.testing.assert_allclose(value, predicted[key], **close, err_msg=f"{name} {key}")
    assert 0 < alone["anchors"]["counts"].min() and alone["anchors"]["boxes"].max() <= 64


def fresh_answers(code: str, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """What the exported files say in a new process. Threads and flags, on which last bits depend, are its own."""
    command = [sys.executable, "-c", code, str(folder), *SUBJECTS]
    env = {**os.environ, "PYTHONPATH": str(ROOT) if "cnnjax.runs.run" in code else ""}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)
    assert result.returncode == 0, result.stderr
    answers = {}
    for name in SUBJECTS:
        with np.load(folder / f"{name}.npz") as found:
            answers[name] = dict(found)
    return answers


def test_mode_export_names_what_is_missing(launch, tmp_path):
    assert "needs --workdir" in launch("--mode=export").err
    result = launch("--mode=export", f"--workdir={tmp_path}", "--output=network.json")
    assert result.code == 1 and "description" in result.err


FAMILIES = (
    "local", "tiny_vgg_bn", "tiny_googlenet_bn", "resnet20", "grid8", "sliding_window", "maskrcnn_small",
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_models_take_a_batch_of_any_size(name):
    model = create_model(name)
    side = {"local": 28, "sliding_window": 28}.get(name, 64)
    channels = 1 if side == 28 else 3
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, channels)))
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, side, side, channels), jnp.float32)
    assert all(
        leaf.shape[0] == batch for leaf in jax.tree.leaves(jax.eval_shape(model.apply, variables, images))
    )


def rebuilt(about: dict, photo: Image.Image) -> np.ndarray:
    """The input of an exported network from its description alone, with Pillow and numpy."""
    how = about["preprocessing"]
    height, width = how["height"], how["width"]
    photo = ImageOps.exif_transpose(photo).convert(
        "L" if about["input"]["channels"].startswith("grey") else "RGB"
    )
    kind = Image.Resampling[how["filter"].split("Pillow's ")[1]]
    if "short_side" in how or "sides" in how:
        if "sides" in how:
            w = h = how["sides"]
        else:
            w, h = (how["short_side"] * side // min(photo.size) for side in photo.size)
        left, top = round((w - width) / 2), round((h - height) / 2)
        image = photo.resize((w, h), kind).crop((left, top, left + width, top + height))
    elif "fill" in how:
        scale = min(height / photo.height, width / photo.width)
        inner = photo.resize((round(photo.width * scale), round(photo.height * scale)), kind)
        image = Image.new("RGB", (width, height), (how["fill"],) * 3)
        image.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    else:
        image = photo.resize((width, height), kind)
    return np.asarray(image).reshape(1, height, width, about["input"]["shape"][-1])


@pytest.mark.parametrize(
    ("resize", "short", "kind"),
    [("stretch", 0, "bilinear"), ("crop", 0, "lanczos"), ("crop", 80, "bilinear"), ("letterbox", 0, "bicubic"),
     ("stretch_crop", 80, "bicubic")],
)  # fmt: skip
def test_a_stranger_can_rebuild_the_preprocessing_from_the_description(tmp_path, resize, short, kind):
    experiment = config.replace(
        Experiment(model=Model(name="tiny_resnet18")),
        {
            "data.image_size": 64,
            "data.resize": resize,
            "data.resize_short": short,
            "data.interpolation": kind,
        },
    )
    run = random_run(experiment, (64, 64, 3))
    about = export_run(run, tmp_path / "network.stablehlo")
    photo = Image.fromarray(np.random.default_rng(2).integers(0, 256, (90, 131, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    exported = export.deserialize(bytearray((tmp_path / "network.stablehlo").read_bytes()))
    found = exported.call(rebuilt(about, photo))
    predict_files(run, [tmp_path / "photo.png"], tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert entry["top"][0]["class"] == about["classes"][int(found["label"][0, 0])]
    wanted = [one["probability"] for one in entry["top"]]
    np.testing.assert_allclose(found["probability"][0], wanted, rtol=1e-4, atol=1e-6)
