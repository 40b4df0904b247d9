"""Evaluation is exact: over every example once, whatever the batch size or the number of devices."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from cnnjax.config import Data, Experiment, Model, Optimizer, Train, replace
from cnnjax.runtime import sharding
from cnnjax.training.evaluate import Evaluator
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import init_state

CLASSES = tuple("0123456789")
COUNT = 203


@pytest.fixture(scope="module")
def setup():
    experiment = Experiment(
        data=Data(batch_size=8, mean=(0.5,), std=(0.25,)),
        model=Model(name="softmax_regression"),
        optimizer=Optimizer(name="sgd"),
        train=Train(steps=1),
    )
    rng = np.random.default_rng(0)
    split = {
        "image": rng.integers(0, 256, (COUNT, 12, 12, 1), dtype=np.uint8),
        "label": rng.integers(0, 10, COUNT).astype(np.int32),
    }
    recipe = make_recipe(experiment, CLASSES, (12, 12, 1), 1)
    states = [init_state(recipe, (12, 12, 1), jax.numpy.int32(seed)) for seed in (0, 1, 2)]
    variables = jax.tree.map(lambda *a: jax.numpy.stack(a), *[s.variables for s in states])
    return recipe, split, variables


def evaluate(setup, batch_size=50, devices=1, seeds=slice(0, 1), views="none"):
    recipe, split, variables = setup
    variables = jax.tree.map(lambda a: a[seeds], variables)
    mesh = sharding.make_mesh(devices, data_parallel=devices > 1)
    assert mesh.size == devices
    return Evaluator(recipe, split, batch_size, mesh, views)(
        jax.device_put(variables, sharding.replicated(mesh))
    )


@pytest.mark.parametrize("batch_size", [1, 7, 100, 10_000])
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_result_does_not_depend_on_batch_size_or_devices(setup, batch_size, devices):
    one = evaluate(setup)
    other = evaluate(setup, batch_size, devices)
    assert other.mean["accuracy"] == one.mean["accuracy"]
    assert other.mean["loss"] == pytest.approx(one.mean["loss"], rel=1e-6)
    np.testing.assert_array_equal(other.predictions["label"], one.predictions["label"])


def test_metrics_equal_those_of_scikit_learn(setup):
    recipe, split, variables = setup
    result = evaluate(setup)
    x = (split["image"].astype(np.float64) / 255 - 0.5) / 0.25
    dense = variables["params"]["output"]
    logits = x.reshape(COUNT, -1) @ np.asarray(dense["kernel"][0], np.float64) + np.asarray(dense["bias"][0])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.arange(10)
    assert result.mean["loss"] == pytest.approx(log_loss(split["label"], p, labels=labels), rel=1e-5)
    assert result.mean["accuracy"] == pytest.approx(top_k_accuracy_score(split["label"], p, k=1))
    assert result.mean["top5"] == pytest.approx(top_k_accuracy_score(split["label"], p, k=5))
    np.testing.assert_array_equal(
        recipe.task.confusion(result.predictions, split),
        confusion_matrix(split["label"], p.argmax(axis=1), labels=labels),
    )


def test_several_seeds_give_mean_std_and_a_committee(setup):
    each = [evaluate(setup, seeds=slice(i, i + 1)).mean for i in range(3)]
    result = evaluate(setup, seeds=slice(0, 3))
    for got, want in zip(result.per_seed, each, strict=True):
        assert got == pytest.approx(want, rel=1e-6)
    values = [m["loss"] for m in each]
    assert result.mean["loss"] == pytest.approx(np.mean(values))
    assert result.std["loss"] == pytest.approx(np.std(values, ddof=1))
    assert result.committee["loss"] < result.mean["loss"]  # the logarithm is concave


def test_views_of_a_symmetric_image_change_nothing(setup):
    recipe, split, variables = setup
    image = np.concatenate([split["image"][:, :, :6], split["image"][:, :, 5::-1]], axis=2)
    plain, flipped = (
        evaluate((recipe, {**split, "image": image}, variables), views=v) for v in ("none", "flip")
    )
    assert flipped.mean["loss"] == pytest.approx(plain.mean["loss"], rel=1e-5)


def test_ten_crops_are_averaged_as_probabilities(setup):
    """Against Krizhevsky's protocol in NumPy: the mean of ten softmax outputs."""
    recipe, _, variables = setup
    recipe = dataclasses.replace(
        recipe, preprocessing=dataclasses.replace(recipe.preprocessing, image_size=12)
    )
    rng = np.random.default_rng(1)
    split = {
        "image": rng.integers(0, 256, (23, 17, 17, 1), dtype=np.uint8),
        "label": rng.integers(0, 10, 23).astype(np.int32),
    }
    corners = [(0, 0), (0, 5), (5, 0), (5, 5), (2, 2)]
    kernel, bias = (
        np.asarray(variables["params"]["output"][leaf][0], np.float64) for leaf in ("kernel", "bias")
    )
    mean = np.zeros((23, 10))
    for y, x in corners:
        crop = (split["image"][:, y : y + 12, x : x + 12, 0] / 255 - 0.5) / 0.25
        for view in (crop, crop[:, :, ::-1]):
            logits = view.reshape(23, -1) @ kernel + bias
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            mean += p / p.sum(axis=1, keepdims=True) / 10
    for batch_size in (4, 50, 100_000):
        result = evaluate((recipe, split, variables), batch_size, views="ten_crop")
        assert result.mean["loss"] == pytest.approx(
            -np.log(mean[np.arange(23), split["label"]]).mean(), rel=1e-5
        )
        top = np.argsort(-mean, axis=1)[:, :5]
        np.testing.assert_array_equal(result.predictions["label"], top)
        assert result.mean["top5"] == pytest.approx((top == split["label"][:, None]).any(axis=1).mean())
        np.testing.assert_allclose(
            result.predictions["probability"], np.take_along_axis(mean, top, axis=1), rtol=1e-4
        )


def test_views_on_several_devices(setup):
    one, four = (evaluate(setup, 40, devices, views="flip_shift").mean for devices in (1, 4))
    assert four == pytest.approx(one, rel=1e-5)


def test_not_finite_outputs_count_as_wrong(setup):
    recipe, split, variables = setup
    broken = jax.tree.map(lambda a: a * np.float32(np.nan), variables)
    assert evaluate((recipe, split, broken)).mean["accuracy"] == 0


@pytest.mark.full
def test_evaluation_in_training_equals_evaluation_of_the_checkpoint(tmp_path, launch):
    flags = ("--data.limit=150", "--train.steps=6", "--data.batch_size=25", f"--workdir={tmp_path}")
    trained = launch("--experiment=digits_lenet", "--model.name=mlp", *flags)
    again = launch("--mode=evaluate", f"--workdir={tmp_path}")
    assert trained.code == again.code == 0
    table, _, files = again.out.strip().partition("\nreport: ")
    assert "evaluation/report.html" in files
    assert "accuracy" in table and table in trained.out
    refused = launch("--mode=evaluate", f"--workdir={tmp_path}", "--data.limit=3")
    assert refused.code == 1 and "cannot be changed" in refused.err
    smaller = launch(
        "--mode=evaluate", f"--workdir={tmp_path}", "--evaluate.batch_size=7", "--checkpoint=best"
    )
    assert smaller.out.split()[:3] == again.out.split()[:3]


def test_experiment_is_replaceable():
    assert replace(Experiment(), {"evaluate.batch_size": 3}).evaluate.batch_size == 3


def test_evaluation_on_another_folder_of_the_same_classes(tmp_path, launch):
    from sklearn.datasets import load_digits

    run, photos = tmp_path / "run", tmp_path / "photos"
    flags = ("--experiment=digits_lenet", "--model.name=softmax_regression", "--train.steps=60")
    assert launch(*flags, f"--workdir={run}").code == 0
    digits = load_digits()
    for i in range(40):
        name = ("3", "007")[i % 2]
        image = digits.images[np.flatnonzero(digits.target == int(name))[i]]
        (photos / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(image * 15.9375)).resize((16, 16), 0).save(photos / name / f"{i}.png")
    result = launch("--mode=evaluate", f"--workdir={run}", f"--data.name=folder:{photos}")
    assert result.code == 0, result.err
    # Of two classes among ten, found by their names: by chance 10 %, by a wrong order of classes 0 %.
    assert float(result.out.split("accuracy")[1].split("%")[0]) > 70
    (photos / "007").rename(photos / "seven")
    wrong = launch("--mode=evaluate", f"--workdir={run}", f"--data.name=folder:{photos}")
    assert wrong.code == 1 and "no class 'seven', but 0, 1, 2 and 7 more" in wrong.err
    crops = launch("--mode=evaluate", f"--workdir={run}", "--evaluate.augment=ten_crop")
    assert crops.code == 1 and "needs data.resize=crop" in crops.err


def test_training_does_not_evaluate_ten_crops(tmp_path, launch):
    result = launch("--experiment=digits_lenet", "--evaluate.augment=ten_crop", f"--workdir={tmp_path}")
    assert result.code == 1 and "use it with mode=evaluate" in result.err
