"""A run whose folder of data has moved: it goes on with the same images, and is told of others."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import identity
from cnnjax.data.dataset import Dataset
from cnnjax.runs.checkpoint import _checksum
from cnnjax.runs.run import restore
from cnnjax.runs.workdir import Workdir

FLAGS = (
    "--experiment=digits_lenet", "--model.name=softmax_regression", "--data.image_size=8", "--data.batch_size=4",
    "--optimizer.schedule=constant", "--optimizer.warmup=0", "--train.steps=2",
)  # fmt: skip


def photographs(folder, names=("apple", "leaf"), count=5, seed=0):
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder that holds photographs in `here`, and a run of two steps on them in `run`."""
    return tmp_path_factory.mktemp("moved")


@pytest.fixture
def run(trained, launch, tmp_path):
    if not (trained / "run").exists():
        photographs(trained / "here")
        flags = (*FLAGS, f"--data.name=folder:{trained / 'here'}", f"--workdir={trained / 'run'}")
        assert launch(*flags).code == 0
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("named", [(), FLAGS[:-1]], ids=["of the workdir", "by its flags"])
def test_a_run_goes_on_where_its_photographs_have_moved_to(run, trained, tmp_path, launch, caplog, named):
    shutil.copytree(trained / "here", tmp_path / "there")
    moved = f"--data.name=folder:{tmp_path / 'there'}"
    result = launch(*named, f"--workdir={run}", moved, "--train.steps=4")
    assert result.code == 0 and "going on from step 2 of 4" in result.out, result.err
    assert caplog.records == []
    assert Workdir(run).read_config().data.name == f"folder:{tmp_path / 'there'}"
    straight = tmp_path / "straight"
    flags = (
        *FLAGS[:-1],
        "--train.steps=4",
        f"--data.name=folder:{trained / 'here'}",
        f"--workdir={straight}",
    )
    assert launch(*flags).code == 0
    one, other = (restore(Workdir(path)).state.params["output"] for path in (run, straight))
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]))


def test_a_finished_run_is_looked_at_where_its_data_have_moved_to(run, trained, tmp_path, launch):
    shutil.copytree(trained / "here", tmp_path / "there")
    before = launch("--mode=evaluate", f"--workdir={run}")
    assert launch(f"--workdir={run}", f"--data.name=folder:{tmp_path / 'there'}").code == 0
    assert restore(Workdir(run)).experiment.data.name == f"folder:{tmp_path / 'there'}"
    after = launch("--mode=evaluate", f"--workdir={run}")
    assert after.code == 0 and after.out == before.out  # of the same held-out fifth


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"count": 6}, "8 training examples there, 10 here"),
        ({"names": ("apple", "sky")}, "new: 'sky'; gone: 'leaf'"),
        ({"names": ("apple", "leaf", "sky")}, "new: 'sky'"),
        ({"seed": 1}, "is another one"),
    ],
)
def test_other_data_are_refused(run, trained, tmp_path, launch, others, message):
    photographs(tmp_path / "there", **others)
    name = f"folder:{tmp_path / 'there'}"
    result = launch(f"--workdir={run}", f"--data.name={name}", "--train.steps=4")
    assert result.code == 1 and len(result.err.splitlines()) == 1
    assert f"data.name='{name}'" in result.err and message in result.err
    assert Workdir(run).read_config().data.name == f"folder:{trained / 'here'}"
    assert max(int(path.name) for path in (run / "checkpoints").iterdir()) == 2


def test_data_of_another_kind_are_another_experiment(run, launch):
    result = launch(f"--workdir={run}", "--data.name=synthetic")
    assert result.code == 1 and "holds another experiment" in result.err


def test_what_changed_under_the_same_name_is_told(trained, run, tmp_path, launch, caplog):
    photographs(tmp_path / "here")
    first = tmp_path / "first"
    flags = (f"--data.name=folder:{tmp_path / 'here'}", f"--workdir={first}")
    assert launch(*FLAGS, *flags).code == 0
    shutil.rmtree(tmp_path / "here")
    photographs(tmp_path / "here", count=6)
    assert launch(f"--workdir={first}", "--train.steps=3").code == 0
    (record,) = caplog.records
    assert record.getMessage().endswith("since the last checkpoint: 8 training examples there, 10 here")


def test_an_old_checkpoint_is_known_by_its_classes(run, tmp_path, launch, caplog):
    for path in run.rglob("_CHECKPOINT_METADATA"):
        tree = json.loads(path.read_text())
        about = tree["custom_metadata"]
        del about["data"]
        about["checksum"] = _checksum(about)
        path.write_text(json.dumps(tree))
    photographs(tmp_path / "there", seed=1)
    result = launch(f"--workdir={run}", f"--data.name=folder:{tmp_path / 'there'}", "--train.steps=3")
    assert result.code == 0, result.err
    (record,) = caplog.records
    assert "only classes were compared" in record.getMessage()
    other = photographs(tmp_path / "other", names=("leaf", "stone"))
    refused = launch(f"--workdir={run}", f"--data.name=folder:{other}", "--train.steps=4")
    assert refused.code == 1 and "new: 'stone'; gone: 'apple'" in refused.err


def dataset(label=(0, 1), value=100, boxes=None):
    image = np.full((2, 4, 4, 3), value, np.uint8)
    target = {"label": np.array(label, np.int32)}
    if boxes is not None:
        target = {
            "boxes": np.array(boxes, np.float32).reshape(2, 1, 4),
            "classes": np.zeros((2, 1), np.int32),
            "valid": np.ones((2, 1), bool),
        }
    split = {"image": image, **target}
    return Dataset("x", split, split, ("a", "b"))


def test_what_tells_data_apart():
    here = identity.describe(dataset())
    # What gzip says of the labels 0 and 1: printf '\\0\\0\\0\\0\\1\\0\\0\\0' | gzip | tail -c8
    assert here == {"train": 2, "test": 2, "targets": 0xDD9EB80C, "means": [100.0, 100.0]}
    assert identity.difference(here, identity.describe(dataset())) == ""
    assert identity.difference(here, identity.describe(dataset(value=101))) == ""  # another decoder
    assert "image 1 is another" in identity.difference(here, identity.describe(dataset(value=103)))
    assert "labels" in identity.difference(here, identity.describe(dataset(label=(1, 0))))
    boxes = [identity.describe(dataset(boxes=[0, 0, 1, 1, 0, 0, 2, right])) for right in (2, 3)]
    assert "boxes" in identity.difference(*boxes)


@pytest.mark.parametrize(
    ("there", "here", "moved"),
    [
        ("folder:/a", "folder:/b", True),
        ("records:/a", "records:/b", True),
        ("coco:/a", "coco:~/b", True),
        ("folder:/a", "folder:/a", False),
        ("folder:/a", "records:/a", False),
        ("mnist", "kmnist", False),
        ("cifar10:3.0.1", "cifar10:3.0.2", False),
    ],
)
def test_which_names_are_one_kind_of_data_elsewhere(there, here, moved):
    assert identity.is_moved(there, here) is moved
