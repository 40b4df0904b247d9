"""Committees of runs that differ in architecture, input size, preprocessing and the order of their classes."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax import export
from PIL import Image

from cnnjax import config
from cnnjax.config import ConfigError
from cnnjax.data.sources import load
from cnnjax.runs.committee import RunCommittee, restore_all
from cnnjax.tasks.significance import exact_interval, mcnemar
from cnnjax.training.recipe import make_recipe


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of runs a, b and c, trained for a few steps."""
    import cnnjax
    from experiments import named

    root = tmp_path_factory.mktemp("committee")
    common = {"train.epochs": 0.0, "train.steps": 6, "data.batch_size": 32, "train.evaluate_every": 0.0}
    changes = {
        "a": {"model.name": "softmax_regression", "data.image_size": 8},
        "b": {"model.name": "mlp", "data.image_size": 12, "data.mean": (0.1,), "data.std": (0.5,)},
        "c": {"model.name": "softmax_regression", "data.image_size": 8, "train.seeds": 2, "train.seed": 5},
    }
    for name, own in changes.items():
        experiment = config.replace(named("digits_lenet"), {**common, **own})
        cnnjax.train(experiment, root / name)
    return root


def probabilities(run) -> list[np.ndarray]:
    """[N, K] of each seed, float64, from the model itself."""
    data = load(run.experiment.data)
    out = []
    for seed in range(jax.tree.leaves(run.state.variables)[0].shape[0]):
        variables = jax.tree.map(lambda a, i=seed: a[i], run.state.variables)
        mean, std = run.experiment.data.mean[0], run.experiment.data.std[0]
        x = ((data.test["image"] / np.float32(255) - np.float32(mean)) / np.float32(std)).astype(np.float32)
        logits = np.asarray(run.recipe.model.apply(variables, x, train=False), np.float64)
        p = np.exp(logits - logits.max(1, keepdims=True))
        out.append(p / p.sum(1, keepdims=True))
    return out


def test_the_average_is_that_of_all_networks_probabilities(folders):
    committee = restore_all([folders / n for n in "abc"], weights=(2, 1, 1))
    found = committee.evaluate()
    labels = load(committee.runs[0].experiment.data).test["label"]
    each = [p for run in committee.runs for p in probabilities(run)]
    p = np.average(each, axis=0, weights=[2, 1, 1, 1])
    assert [row.name.rpartition("/")[2] for row in found.members] == ["a", "b", "c, seed 5", "c, seed 6"]
    wanted = [float(np.mean(one.argmax(1) == labels)) for one in each]
    np.testing.assert_allclose([row.metrics["accuracy"] for row in found.members], wanted, rtol=1e-12)
    assert found.committee.metrics["accuracy"] == np.mean(p.argmax(1) == labels)
    loss = -np.log(p[np.arange(len(labels)), labels]).mean()
    np.testing.assert_allclose(found.committee.metrics["loss"], loss, rtol=1e-5)
    assert found.committee.count == len(labels) == 360
    best = each[int(np.argmax(wanted))].argmax(1) == labels
    assert found.p_value == mcnemar(p.argmax(1) == labels, best)


def test_order_changes_nothing_and_one_member_is_itself(folders):
    forth = restore_all([folders / n for n in "abc"], weights=(1, 2, 3)).evaluate()
    back = restore_all([folders / n for n in "cba"], weights=(3, 2, 1)).evaluate()
    assert forth.committee.metrics == back.committee.metrics
    np.testing.assert_array_equal(forth.predictions["probability"], back.predictions["probability"])
    alone = restore_all([folders / "a"])
    evaluation = alone.runs[0].evaluate()
    found = alone.evaluate()
    np.testing.assert_array_equal(found.predictions["label"], evaluation.predictions["label"])
    assert found.committee.metrics["accuracy"] == found.members[0].metrics["accuracy"]
    np.testing.assert_allclose(found.committee.metrics["loss"], evaluation.mean["loss"], rtol=1e-6)


def reversed_classes(run):
    """The same run with its classes, and its outputs, in the opposite order."""
    flip = lambda path, a: a[..., ::-1] if a.shape[-1] == 10 else a  # noqa: E731
    params = jax.tree_util.tree_map_with_path(flip, run.state.params)
    classes = run.classes[::-1]
    recipe = make_recipe(run.experiment, classes, run.image_shape, num_steps=1)
    return dataclasses.replace(
        run, classes=classes, recipe=recipe, state=dataclasses.replace(run.state, params=params)
    )


def test_classes_are_matched_by_name(folders):
    together = restore_all([folders / "a", folders / "b"])
    mixed = RunCommittee.of([together.runs[0], reversed_classes(together.runs[1])], ["a", "b"])
    plain, other = together.evaluate(), mixed.evaluate()
    np.testing.assert_array_equal(plain.predictions["label"], other.predictions["label"])
    np.testing.assert_allclose(plain.committee.metrics["loss"], other.committee.metrics["loss"], rtol=1e-5)


def test_predictions_and_the_exported_file_see_each_frame(folders, launch, tmp_path):
    committee = restore_all([folders / "a", folders / "b"])
    image = np.random.default_rng(0).integers(0, 256, (30, 20, 1), dtype=np.uint8)
    path, workdirs = tmp_path / "photo.png", f"--workdir={folders / 'a'},{folders / 'b'}"
    Image.fromarray(image[..., 0]).save(path)
    result = launch("--mode=predict", workdirs, f"--inputs={path}", f"--output={tmp_path / 'out'}")
    assert result.code == 0, result.err
    (entry,) = json.loads((tmp_path / "out/predictions.json").read_text())
    # By hand: Pillow's sizes, each member's probabilities, their mean.
    each = []
    for run, side in zip(committee.runs, (8, 12), strict=True):
        small = np.asarray(Image.fromarray(image[..., 0]).resize((side, side), Image.Resampling.BILINEAR))
        (rows,) = run.predictor().predictions(small[None, ..., None])
        p = np.zeros(10)
        p[rows["label"]] = rows["probability"]
        each.append((set(rows["label"].tolist()), p))
    top = entry["top"][0]
    k = committee.classes.index(top["class"])
    if all(k in known for known, _ in each):
        np.testing.assert_allclose(top["probability"], np.mean([p[k] for _, p in each]), rtol=1e-4)
    result = launch("--mode=export", workdirs, f"--output={tmp_path / 'both.stablehlo'}")
    assert result.code == 0, result.err
    about = json.loads((tmp_path / "both.json").read_text())
    assert [one["shape"] for one in about["inputs"]] == [["batch", 8, 8, 1], ["batch", 12, 12, 1]]
    exported = export.deserialize(bytearray((tmp_path / "both.stablehlo").read_bytes()))
    inputs = [
        np.asarray(Image.fromarray(image[..., 0]).resize((side, side), Image.Resampling.BILINEAR))[None, ..., None]
        for side in (8, 12)
    ]  # fmt: skip
    found = exported.call(*inputs)
    assert committee.classes[int(found["label"][0, 0])] == top["class"]
    np.testing.assert_allclose(found["probability"][0, 0], top["probability"], rtol=1e-4)


def test_the_table_of_mode_evaluate(folders, launch):
    result = launch("--mode=evaluate", f"--workdir={folders / 'b'},{folders / 'a'}", "--votes=1,2")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split()[:3] == ["member", "n", "accuracy"]
    assert lines[1].startswith(str(folders / "a")) and lines[3].startswith("committee")
    assert "McNemar" in result.out and str(360) in lines[3]


def test_what_cannot_be_meant_is_one_line(folders, launch):
    both = f"--workdir={folders / 'a'},{folders / 'b'}"
    assert "as many weights" in launch("--mode=evaluate", both, "--votes=1").err
    assert "--votes=x" in launch("--mode=evaluate", both, "--votes=x").err
    assert "for several runs" in launch("--mode=evaluate", f"--workdir={folders / 'a'}", "--votes=1").err
    assert "twice" in launch("--mode=evaluate", f"--workdir={folders / 'a'},{folders / 'a'}").err
    assert "needs --output" in launch("--mode=export", both).err
    run = restore_all([folders / "a"]).runs[0]
    other = dataclasses.replace(run, classes=(*run.classes[:-1], "ten"))
    with pytest.raises(ConfigError, match="b has other classes than a: 10 and 10, such as 'ten'"):
        RunCommittee.of([run, other], ["a", "b"])
    held = dataclasses.replace(run, experiment=config.replace(run.experiment, {"data.validation": 0.1}))
    with pytest.raises(ConfigError, match="other examples"):
        RunCommittee.of([run, held], ["a", "b"]).evaluate()


def test_the_interval_and_the_test_are_exact():
    # Clopper-Pearson of 9977 of 10,000 by the quantiles of the beta distribution; McNemar by its binomial sum.
    from scipy.stats import beta

    low, high = exact_interval(9977, 10_000)
    np.testing.assert_allclose(
        [low, high], [beta.ppf(0.025, 9977, 24), beta.ppf(0.975, 9978, 23)], rtol=1e-12
    )
    assert exact_interval(10, 10) == (pytest.approx(0.025**0.1, rel=1e-9), 1.0)
    one = np.array([True] * 8 + [False] * 2 + [True] * 5)
    other = np.array([False] * 8 + [True] * 2 + [True] * 5)
    assert mcnemar(one, other) == pytest.approx(2 * (1 + 10 + 45) / 2**10, rel=1e-12)
    assert mcnemar(one, one) == 1.0
