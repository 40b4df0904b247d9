"""The files of an evaluation, against what scikit-learn, pycocotools and a network in numpy say of the same answers."""

import contextlib
import csv
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import config, tasks
from cnnjax.config import ConfigError
from cnnjax.data.examples import Columns
from cnnjax.detection.results import Detections, Truth
from cnnjax.drawing import figures
from cnnjax.models import create_model
from cnnjax.runs import evaluated, run, train, transfer
from cnnjax.runs.workdir import Workdir
from cnnjax.tasks.classification import Classification
from cnnjax.weights.convert import save_torchvision


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def some_answers(count, classes, top):
    """Labels and ranked answers of a network that is right now and then; class 2 never occurs."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(classes, 0.3), count).astype(np.float32)
    label = rng.integers(0, classes, count).astype(np.int32)
    label[label == 2] = 0
    ranked = np.argsort(-p, axis=1, kind="stable")[:, :top].astype(np.int32)
    predictions = {"label": ranked, "probability": np.take_along_axis(p, ranked, 1)}
    images = np.zeros((count, 4, 4, 3), np.uint8)
    files = [f"some/{i}.png" for i in range(count)]
    return Columns({"image": images, "label": label}, files=files), predictions, p


def test_tables_of_classes_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    names = ("cat", "dog", "emu", "fox", "gnu", "hen")
    split, predictions, p = some_answers(200, 6, 6)
    task = Classification(names).in_full()
    tables = task.tables(predictions, split)
    wanted = metrics.confusion_matrix(split["label"], p.argmax(1), labels=range(6))
    assert tables["confusion_matrix"].head == ["true", *names]
    assert [row[1:] for row in tables["confusion_matrix"].rows] == wanted.tolist()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        split["label"], p.argmax(1), labels=range(6), zero_division=0
    )
    per_class = [dict(zip(tables["per_class"].head, row, strict=True)) for row in tables["per_class"].rows]
    for i, row in enumerate(per_class):
        assert (row["index"], row["class"], row["examples"]) == (i, names[i], support[i])
        assert row["precision"] == pytest.approx(precision[i]) and row["f1"] == pytest.approx(f1[i])
        assert row["recall"] == (None if i == 2 else pytest.approx(recall[i]))
        wrong = wanted[i] * (np.arange(6) != i)
        assert row["taken for"] == (None if i == 2 else names[wrong.argmax()])
    said = [dict(zip(tables["predictions"].head, row, strict=True)) for row in tables["predictions"].rows]
    assert [row["file"] for row in said] == split.files
    found = [[row[f"probability of {name}"] for name in names] for row in said]
    np.testing.assert_allclose(found, p, rtol=1e-6)
    np.testing.assert_array_equal([row["right"] for row in said], p.argmax(1) == split["label"])


def test_of_very_many_classes_what_occurs_is_written():
    names = tuple(f"class {i // 2}" for i in range(150))  # each name stands twice
    split, predictions, p = some_answers(40, 150, 5)
    task = Classification(names)
    assert task.in_full() == task
    tables = task.tables(predictions, split)
    assert len(tables["per_class"].rows) == 150
    assert sum(row[-1] for row in tables["confusion_matrix"].rows) == 40
    for row, label, probabilities in zip(tables["predictions"].rows, split["label"], p, strict=True):
        said = dict(zip(tables["predictions"].head, row, strict=True))
        order = np.argsort(-probabilities, kind="stable")
        assert (said["true index"], said["true class"]) == (label, names[label])
        assert [said["predicted index"], *(said[f"index {k}"] for k in range(2, 6))] == order[:5].tolist()
        assert said["probability 3"] == pytest.approx(probabilities[order[2]])
    picture = figures.confusion_matrix(task.confusion(predictions, split), names)
    assert "Of 150 classes the 40" in picture.caption and len(picture.figure.axes[0].get_yticks()) == 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for name in ("circle", "square"):
        (folder / name).mkdir()
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (20 + i, 33, 3), dtype=np.uint8)).save(
                folder / name / f"{i}.png"
            )
    return folder


@pytest.fixture(scope="module")
def of_photos(tmp_path_factory):
    """A run of random weights whose network takes any size: its head is a mean over places."""
    folder = tmp_path_factory.mktemp("of_photos")
    model, rng = create_model("tiny_squeezenet", 2), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    variables = jax.tree.map(lambda a: rng.normal(0, 0.3, a.shape).astype(np.float32), shapes)
    save_torchvision(folder / "w.safetensors", "tiny_squeezenet", variables)
    changes = {"model.name": "tiny_squeezenet", "data.image_size": 32, "data.resize": "stretch"}
    experiment = config.replace(config.Experiment(), changes)
    workdir = Workdir(folder / "run")
    transfer.import_weights(
        experiment, folder / "w.safetensors", workdir, ("circle", "square"), list(changes)
    )
    return workdir.path


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    """A run whose network takes the images as they come, 8x8."""
    workdir = Workdir(tmp_path_factory.mktemp("of_digits"))
    changes = {"model.name": "softmax_regression", "data.limit": 40, "train.epochs": 0.0, "train.steps": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.report, "write", lambda *_, **__: None)
        train.train_run(config.replace(config.Experiment(), changes), workdir, None, "")
    return workdir.path


def test_an_evaluation_leaves_files_that_agree(launch, photos, of_photos, tmp_path):
    """Metrics are those of the predictions that were written, under the protocol that was asked for and is told."""
    workdir = of_photos
    data = f"--data.name=folder:{photos}"
    result = launch("--mode=evaluate", f"--workdir={workdir}", data)
    assert result.code == 0, result.err
    folder = workdir / "evaluation"
    assert f"report: {folder / 'report.html'}" in result.out and "predictions.csv" in result.out
    found = json.loads((folder / "metrics.json").read_text())
    rows = rows_of(folder / "predictions.csv")
    assert len(rows) == found["protocol"]["images"] == 20
    assert all(row["file"].startswith(str(photos)) and row["true class"] in row["file"] for row in rows)
    p = np.array([[float(row[f"probability of {name}"]) for name in ("circle", "square")] for row in rows])
    label = np.array([int(row["true index"]) for row in rows])
    loss = -np.log(p[np.arange(20), label]).mean()
    assert found["metrics"]["mean"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["metrics"]["mean"]["accuracy"] == pytest.approx((p.argmax(1) == label).mean())
    assert {row["class"]: int(row["examples"]) for row in rows_of(folder / "per_class.csv")} == {
        "circle": 10, "square": 10,
    }  # fmt: skip
    assert {"mistakes.png", "confusion.png", "confusion_matrix.csv"} <= {p.name for p in folder.iterdir()}

    changes = {"image_size": 48, "resize": "crop", "resize_short": 56, "interpolation": "bicubic"}
    protocol = [f"--data.{name}={value}" for name, value in changes.items()]
    result = launch("--mode=evaluate", f"--workdir={workdir}", data, *protocol, f"--output={tmp_path}")
    assert result.code == 0, result.err
    told = json.loads((tmp_path / "metrics.json").read_text())["protocol"]
    assert told["network input"] == [48, 48] and {name: told[name] for name in changes} == changes
    restored = run.restore(Workdir(workdir)).under({f"data.{k}": v for k, v in changes.items()})
    first = rows_of(tmp_path / "predictions.csv")[0]
    (alone,) = restored.predict([first["file"]])
    assert dict(alone.top)[1] == pytest.approx(float(first["probability of square"]), rel=1e-4)
    assert rows[0]["probability of square"] != first["probability of square"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data.resize_short=40", "--data.resize_short has no effect with data.resize=stretch"),
        ("--data.resize=crop --data.resize_short=10", "resize_short=10 is smaller than data.image_size=32"),
        ("--data.limit=2", "--data.limit cannot be changed by mode=evaluate"),
        ("--output=/proc/nothing", "/proc/nothing cannot be written"),
    ],
)
def test_protocols_that_cannot_be_meant(launch, photos, of_photos, flags, message):
    data = f"--data.name=folder:{photos}"
    result = launch("--mode=evaluate", f"--workdir={of_photos}", data, *flags.split())
    assert result.code == 1 and message in result.err and result.err.count("\n") == 1, result.err


def test_sizes_that_the_network_cannot_take_are_told_before_data_are_read(of_digits):
    restored = run.restore(Workdir(of_digits))
    with pytest.raises(ConfigError, match="cannot be run on 20x20"):
        restored.evaluated({"data.name": "mnist", "data.image_size": 20}, "/nowhere")
    with pytest.raises(
        ConfigError, match="--data.interpolation has no effect: the images of data.name='digits'"
    ):
        restored.evaluated({"data.interpolation": "bicubic"})


def test_detections_that_are_written_are_judged_the_same_by_pycocotools(tmp_path):
    """Everything that was found is in coco.json, also what scores too little to be drawn."""
    coco_tools, cocoeval = (
        pytest.importorskip("pycocotools.coco"),
        pytest.importorskip("pycocotools.cocoeval"),
    )
    rng = np.random.default_rng(1)
    count, most = 12, 6
    experiment = config.replace(
        config.Experiment(task="grid_detection"), {"detection.shown_score": 0.6, "model.name": "grid8"}
    )
    task = tasks.make_task(experiment, ("ball", "box"), (64, 64, 3))
    corner = rng.uniform(0, 40, (count, most, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 20, (count, most, 2))], -1).astype(np.float32)
    valid = rng.random((count, most)) < 0.7
    classes = rng.integers(0, 2, (count, most)).astype(np.int32)
    size = np.tile([[128, 96]], (count, 1)).astype(np.int32)
    split = Columns(
        {"image": np.zeros((count, 64, 64, 3), np.uint8), "boxes": boxes, "classes": classes, "valid": valid, "size": size},
        files=[f"{i}.jpg" for i in range(count)],
    )  # fmt: skip
    scores = -np.sort(-rng.random((count, most)).astype(np.float32), axis=1)
    predictions = {
        "boxes": boxes + rng.normal(0, 2, boxes.shape).astype(np.float32), "scores": scores, "classes": classes,
        "counts": np.full(count, most, np.int32),
    }  # fmt: skip
    names = evaluated.write_predictions(tmp_path, task, split, predictions)
    assert names == ["predictions.jsonl", "predictions.json", "coco.json"]
    written = json.loads((tmp_path / "coco.json").read_text())
    assert len(written["annotations"]) > 0.9 * count * most and {i["width"] for i in written["images"]} == {
        96
    }
    truth = {"images": written["images"], "categories": written["categories"], "annotations": []}
    # a frame of 64 rows for 128: half, and 8 columns of padding at the left
    for i, j in np.argwhere(valid).tolist():
        x0, y0, x1, y1 = ((boxes[i, j] - [8, 0, 8, 0]) * 2).tolist()
        truth["annotations"].append(
            {"id": len(truth["annotations"]) + 1, "image_id": i + 1, "category_id": int(classes[i, j]) + 1,
             "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
        )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco_tools.COCO()
        known.dataset = truth
        known.createIndex()
        judge = cocoeval.COCOeval(known, known.loadRes(written["annotations"]), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    found = task.judge(predictions, split).metrics
    assert found["ap"] == pytest.approx(judge.stats[0], rel=1e-3) and found["ap50"] == pytest.approx(
        judge.stats[1], rel=1e-3
    )
    tables = task.tables(predictions, split)
    per_class = [dict(zip(tables["per_class"].head, row, strict=True)) for row in tables["per_class"].rows]
    assert sum(row["objects"] for row in per_class) == valid.sum()
    assert sum(row["found"] for row in per_class) == (scores >= 0.6).sum()
    assert np.mean([row["ap50"] for row in per_class]) == pytest.approx(found["ap50"])
    assert tables["confusion_matrix"].head == ["true", "ball", "box", "background"]


def test_mistakes_of_a_detector_are_counted_image_by_image():
    """A right box, one of another class, one where nothing is, one that is missed, and one too unsure to be shown."""
    experiment = config.replace(config.Experiment(task="grid_detection"), {"model.name": "grid8"})
    task = tasks.make_task(experiment, ("ball", "box"), (64, 64, 3))
    places = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
    truth = Truth(places, np.array([0, 1, 1]))
    found = Detections(
        np.array([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 0, 60, 10], [40, 40, 50, 50]]),
        np.array([0.9, 0.8, 0.7, 0.1]),
        np.array([0, 0, 1, 1]),
    )
    assert task._mistakes(truth, found) == 3
    assert task._mistakes(truth, Detections(places, np.ones(3), np.array([0, 1, 1]))) == 0


def test_a_committee_writes_where_it_is_told(launch, of_digits, tmp_path):
    for name in "ab":
        shutil.copytree(of_digits, tmp_path / name)
    both = f"--workdir={tmp_path / 'a'},{tmp_path / 'b'}"
    result = launch("--mode=evaluate", both)
    assert result.code == 0 and "give --output=DIR" in result.out
    result = launch("--mode=evaluate", both, f"--output={tmp_path / 'both'}")
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "both" / "metrics.json").read_text())
    assert set(found["metrics"]) == {str(tmp_path / "a"), str(tmp_path / "b"), "committee"}
    assert len(rows_of(tmp_path / "both" / "predictions.csv")) == found["protocol"]["images"]


def windows(x, side, step):
    """[N, H, W, C] -> [N, H', W', side, side, C]"""
    seen = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))[:, ::step, ::step]
    return seen.transpose(0, 1, 2, 4, 5, 3)


def convolved(x, weights, name, step=1, padding=0):
    """Convolution and ReLU, by the numbers of a Caffe layer."""
    w, b = weights[f"{name}.w"], weights[f"{name}.b"]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    seen = windows(x, w.shape[-1], step)
    flat = seen.reshape(-1, w[0].size) @ w.transpose(2, 3, 1, 0).reshape(w[0].size, -1)
    return np.maximum(flat.reshape(*seen.shape[:3], -1) + b, 0)


def pooled(x):
    """Largest of 3x3, in steps of two; Caffe rounds up, so that the last window may hang over."""
    over = [-(-(side - 3) // 2) * 2 + 3 - side for side in x.shape[1:3]]
    x = np.pad(x, ((0, 0), (0, over[0]), (0, over[1]), (0, 0)), constant_values=-np.inf)
    return windows(x, 3, 2).max((3, 4))


def squeezenet(images, weights):
    """Probabilities of uint8 [N, 227, 227, 3], as Caffe computes them."""
    x = images[..., ::-1].astype(np.float32) - np.float32([104, 117, 123])
    x = convolved(x, weights, "conv1", step=2)
    for fire in range(2, 10):
        if fire in (2, 5, 9):
            x = pooled(x)
        x = convolved(x, weights, f"fire{fire}.squeeze1x1")
        x = np.concatenate(
            [convolved(x, weights, f"fire{fire}.expand1x1"), convolved(x, weights, f"fire{fire}.expand3x3", padding=1)], -1
        )  # fmt: skip
    # of padding too; the softmax changes no order
    return convolved(x, weights, "conv10", padding=1).mean((1, 2))


def framed(photo, protocol):
    """A photograph in its frame of 227x227, by Pillow alone."""
    if protocol == "stretch_crop":
        return photo.resize((256, 256), Image.Resampling.BILINEAR).crop((14, 14, 241, 241))
    short, kind = protocol
    width, height = (short * side // min(photo.size) for side in photo.size)
    left, top = round((width - 227) / 2), round((height - 227) / 2)
    return photo.resize((width, height), kind).crop((left, top, left + 227, top + 227))


PROTOCOLS = {
    "short side 256": ((256, Image.Resampling.BILINEAR), ()),
    "short side 227": ((227, Image.Resampling.BILINEAR), ("--data.resize_short=227",)),
    "bicubic": ((256, Image.Resampling.BICUBIC), ("--data.interpolation=bicubic",)),
    "bicubic 227": ((227, Image.Resampling.BICUBIC), ("--data.interpolation=bicubic", "--data.resize_short=227")),
    "Caffe's": ("stretch_crop", ("--data.resize=stretch_crop",)),
}  # fmt: skip


@pytest.mark.slow
def test_photographs_under_every_protocol_against_pillow_and_numpy(launch, shared, tmp_path):
    """Top-1 and top-5 of 100 photographs, each within one image."""
    sample = shared("data/imagenet_sample")
    file = shared("data/weights/squeezenet1_0/squeezenet1_0.npz")
    weights, workdir, folders = dict(np.load(file)), tmp_path / "run", tmp_path / "photos"
    flags = ("--experiment=imagenet_squeezenet", f"--weights={file}", f"--classes={sample / 'classes.txt'}")
    assert launch("--mode=import", *flags, f"--workdir={workdir}").code == 0
    label = {}
    for row in rows_of(sample / "labels.csv"):
        name, number = list(row.values())[:2]
        label[name] = int(number)
        (folders / number).mkdir(parents=True, exist_ok=True)
        (folders / number / name).symlink_to(sample / name)
    for title, (protocol, more) in PROTOCOLS.items():
        result = launch("--mode=evaluate", f"--workdir={workdir}", f"--data.name=folder:{folders}", *more)
        assert result.code == 0, result.err
        metrics = json.loads((workdir / "evaluation" / "metrics.json").read_text())["metrics"]["mean"]
        right = np.zeros(2)
        for name, number in label.items():
            photo = framed(Image.open(sample / name).convert("RGB"), protocol)
            order = np.argsort(-squeezenet(np.asarray(photo)[None], weights)[0])
            right += [order[0] == number, number in order[:5]]
        found = [100 * metrics["accuracy"], 100 * metrics["top5"]]
        print(title, found, right)
        np.testing.assert_allclose(found, right, atol=1 + 1e-6, err_msg=title)
