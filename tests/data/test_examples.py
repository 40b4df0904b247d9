"""Examples in memory, on disk and of several sources; arrays of one's own as a data set."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data import identity, sources
from cnnjax.data.batches import train_indices
from cnnjax.data.dataset import Dataset, first, hold_out, shortcomings
from cnnjax.data.examples import Columns, concat, read_ahead
from cnnjax.data.formats.prepare import prepare
from cnnjax.data.stream import Joined, StreamedImages, TrainRows

RNG = np.random.default_rng(0)


def pictures(count, height=4, width=6, channels=3):
    return RNG.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def boxes(count, room, numbers):
    """Images with one object each, of these classes, and room for more."""
    valid = np.arange(room)[None].repeat(count, 0) == 0
    given = np.zeros((count, room), np.int32)
    given[:, 0] = numbers
    places = np.where(valid[..., None], np.float32([0, 1, 2, 3]), np.float32(0))
    return {"image": pictures(count), "boxes": places, "classes": given, "valid": valid}


class Encoded:
    """Image files in memory."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        file = io.BytesIO()
        Image.fromarray(self.images[index].squeeze()).save(file, "PNG")
        return file.getvalue()


def on_disk(images, name="d"):
    return StreamedImages(Encoded(images), np.arange(len(images)), Data(), images.shape[1:], name)


def test_rows_give_a_batch_and_names_a_column():
    image, label = pictures(5), np.array([0, 1, 1, 0, 1], np.int32)
    for examples in (
        Columns({"image": image, "label": label}, "ab"),
        Columns({"image": on_disk(image), "label": label}),
    ):
        rows = np.array([4, 0, 4])
        batch = examples[rows]
        np.testing.assert_array_equal(batch["image"], image[[4, 0, 4]])
        assert batch["label"].tolist() == [1, 0, 1] and isinstance(batch["image"], np.ndarray)
        assert len(examples) == 5 and set(examples) == {"image", "label"}
        assert examples.spec["image"].shape == (4, 6, 3) and examples.spec["label"].shape == ()
        assert examples.truths is None and examples["label"] is label
        taken = examples.take(np.array([2, 1]))
        np.testing.assert_array_equal(taken[np.arange(2)]["image"], image[[2, 1]])
        assert taken.in_memory == examples.in_memory == isinstance(examples["image"], np.ndarray)


def test_truths_are_in_pixels_of_the_files():
    split = boxes(2, 3, [1, 0])
    (one, other) = Columns(split, "ab").truths
    assert one.boxes.tolist() == other.boxes.tolist() == [[0, 1, 2, 3]]
    assert one.classes.tolist() == [1] and not one.ignored.any()
    halved = split | {
        "size": np.array([[8, 12], [8, 12]], np.int32),
        "ignored": np.array([[False, True, False]] * 2),
        "area": np.full((2, 3), 5, np.float32),
    }
    truth = Columns(halved).truths[0]
    assert truth.boxes[0].tolist() == [0, 2, 4, 6] and truth.crowd.tolist() == [False, True]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"points": np.zeros((3, 5, 2), np.float32)}, "points need visible"),
        ({"points": np.zeros((3, 5, 3), np.float32), "visible": np.ones((3, 5), bool)}, r"float32 \[N, \*, K, 2\]"),
        ({"points": np.zeros((3, 5, 2), np.float32), "visible": np.ones((3, 4), bool)}, "with K = 5"),
        ({"masks": np.zeros((3, 2, 4, 5), bool)}, r"masks for 3 images, not bool \[N, M, H, W\] with M = 2, H = 4, W = 6"),
        ({"boxes": np.zeros((3, 2, 4), np.float32), "valid": np.ones((3, 2), bool)}, "boxes need classes$"),
        ({"age": np.zeros(2)}, r"float64\[2\] age for 3 images"),
    ],
)  # fmt: skip
def test_targets_of_every_kind_are_checked(entries, message):
    with pytest.raises(ValueError, match=message):
        Columns({"image": pictures(3), **entries}).check("d")


def test_targets_of_every_kind_pass_through():
    """Points and masks, and an entry that only its task knows, through limits, held out parts and batches."""
    count = 10
    entries = boxes(count, 2, np.arange(count) % 2) | {
        "points": RNG.random((count, 2, 5, 2), dtype=np.float32),
        "visible": RNG.random((count, 2, 5)) < 0.5,
        "masks": RNG.random((count, 2, 4, 6)) < 0.5,
        "depth": RNG.random((count, 3), dtype=np.float32),
    }
    dataset = hold_out(first(Dataset("d", entries, entries, ("a", "b")), 8), 0.25)
    assert len(dataset.train) == 6 and len(dataset.test) == 2 and dataset.validation is dataset.test
    rows = np.array([5, 1])
    batch = dataset.train[rows]
    where = [int(np.flatnonzero((entries["image"] == image).all((1, 2, 3)))[0]) for image in batch["image"]]
    for name, values in batch.items():
        np.testing.assert_array_equal(values, entries[name][where])
    only_points = {name: entries[name] for name in ("image", "points", "visible")}
    assert shortcomings(Dataset("d", only_points, only_points, ())) == ()
    assert identity.describe(dataset)["targets"] != identity.describe(
        Dataset("d", dataset.train.replace(depth=dataset.train["depth"] + 1), dataset.test, ("a", "b"))
    )["targets"]  # fmt: skip


def test_streamed_examples_are_read_ahead_with_their_targets():
    image, label = pictures(9), np.arange(9, dtype=np.int32)
    examples = Columns({"image": on_disk(image), "masks": image[..., 0] > 9, "label": label})
    found = list(read_ahead(examples, TrainRows(3, 1, 4, 9, 4, np.arange(4)), 0))
    for step, batch in enumerate(found, start=1):
        index, _ = train_indices(3, step, 9, 4)
        assert batch["label"].tolist() == index.tolist()
        np.testing.assert_array_equal(batch["image"], image[index])
        np.testing.assert_array_equal(batch["masks"], image[index, ..., 0] > 9)
    assert len(found) == 3


def test_concat_joins_classes_by_name_and_makes_room():
    one, other = boxes(2, 1, [0, 1]), boxes(3, 2, [0, 1, 2])
    whole = concat([Columns(one, ("dog", "cat")), Columns(other, ("cat", "eel", "dog"))])
    assert whole.classes == ("dog", "cat", "eel")
    assert whole["classes"][:, 0].tolist() == [0, 1, 1, 2, 0]
    assert whole["boxes"].shape == (5, 2, 4) and whole["valid"].sum(1).tolist() == [1] * 5
    np.testing.assert_array_equal(whole["image"], np.concatenate([one["image"], other["image"]]))
    assert [truth.classes.tolist() for truth in whole.truths] == [[0], [1], [1], [2], [0]]


def test_concat_of_what_is_on_disk_decodes_nothing_before_it_is_asked(monkeypatch):
    grey, colour = pictures(3, channels=1), pictures(4)
    label = np.zeros(3, np.int32), np.ones(4, np.int32)
    parts = [
        Columns({"image": on_disk(grey), "label": label[0]}, ("a",)),
        Columns({"image": on_disk(colour), "label": label[1] - 1}, ("b",)),
    ]
    whole = concat(parts).take(np.array([6, 0, 3, 2]))
    assert isinstance(whole["image"], Joined) and whole["label"].tolist() == [1, 0, 1, 0]
    wanted = np.stack([colour[3], grey[0].repeat(3, -1), colour[0], grey[2].repeat(3, -1)])
    np.testing.assert_array_equal(np.asarray(whole["image"]), wanted)
    np.testing.assert_array_equal(whole[np.array([2, 1])]["image"], wanted[[2, 1]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(whole["image"]))[3], wanted[3])
    mixed = concat([parts[0], Columns({"image": colour, "label": label[1] - 1}, ("b",))])
    np.testing.assert_array_equal(mixed["image"][5], colour[2])


def test_concat_refuses_what_does_not_fit():
    label = np.zeros(2, np.int32)
    one = Columns({"image": pictures(2), "label": label}, ("a",))
    with pytest.raises(ConfigError, match="other targets: label, and boxes, classes, valid"):
        concat([one, Columns(boxes(2, 1, [0, 0]), ("a",))])
    with pytest.raises(ConfigError, match="images of 4x6 and of 5x6: set data.image_size"):
        concat([one, Columns({"image": pictures(2, height=5), "label": label}, ("a",))])


def test_arrays_of_ones_own():
    x, y = pictures(20), np.arange(20) % 2
    dataset = Dataset.of_arrays(x, y, x[:5], y[:5], classes=("even", "odd"))
    assert dataset.classes == ("even", "odd") and dataset.train["label"].dtype == np.int32
    assert len(dataset.train) == 20 and len(dataset.test) == 5 and dataset.validation is None
    held = Dataset.of_arrays(x, y)
    assert held.classes == ("0", "1") and np.bincount(held.test["label"]).tolist() == [2, 2]
    both = np.concatenate([held.train["image"], held.test["image"]])
    assert sorted(map(bytes, both)) == sorted(map(bytes, x)) and "4 examples held out" in held.note
    again = Dataset.of_arrays(x, y)
    np.testing.assert_array_equal(again.test["image"], held.test["image"])
    grey = Dataset.of_arrays(x[..., 0], {name: v for name, v in boxes(20, 2, y).items() if name != "image"})
    assert grey.train["image"].shape == (16, 4, 6, 1) and grey.classes == ("0", "1")
    points, seen = np.zeros((20, 5, 2)), np.ones((20, 5), bool)
    marked = Dataset.of_arrays(
        x, x_test=x, points=points, visible=seen, points_test=points, visible_test=seen
    )
    assert marked.train["points"].dtype == np.float32 and marked.classes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((20, 4, 6, 3))}, r"images are float64\[20, 4, 6, 3\], not uint8 \[N, H, W, C\]"),
        ({"x": np.zeros((4, 6), np.uint8)}, r"images are uint8\[4, 6\]"),
        ({"y": np.zeros(19, int)}, r"int32\[19\] labels for 20 images"),
        ({"y": np.zeros((20, 10))}, r"float64\[20, 10\] labels for 20 images, not int32 \[N\]"),
        ({"y": -np.ones(20, int)}, "labels -1 to -1"),
        ({"y": np.arange(20)}, "each of 20 classes keeps one"),
        ({"y": np.repeat([0, 2], 10), "classes": ("a", "b")}, "labels 0 to 2 for 2 classes"),
        ({"y": {"boxes": np.zeros((20, 1, 4))}}, "boxes need classes and valid"),
        ({"y_test": np.zeros(3, int)}, "no x_test"),
        (
            {"x_test": np.zeros((3, 4, 6, 3), np.uint8)},
            "the training split has label, the test split no targets",
        ),
        (
            {"x_test": np.zeros((3, 5, 6, 3), np.uint8), "y_test": np.zeros(3, int)},
            "the training split has images of 4x6x3, the test split of 5x6x3",
        ),
        ({"x": np.zeros((0, 4, 6, 3), np.uint8), "y": np.zeros(0, int)}, "is empty"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(change, message):
    given = {"x": pictures(20), "y": np.arange(20) % 2} | change
    with pytest.raises(ConfigError, match=message) as error:
        Dataset.of_arrays(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("digits", ["digits"]),
        ("mnist+kmnist", ["mnist", "kmnist"]),
        ("folder:a+folder:b", ["folder:a", "folder:b"]),
        ("folder:a+b", ["folder:a+b"]),
        ("folder:a+b+voc:c+d+digits", ["folder:a+b", "voc:c+d", "digits"]),
        ("digits+folder:a", ["digits", "folder:a"]),
    ],
)
def test_a_plus_joins_names_and_may_stand_in_a_path(name, parts):
    assert [one.name for one in sources.parse(name)] == parts


def test_data_that_moved_are_known_in_every_part():
    assert identity.is_moved("folder:a+folder:b", "folder:c+folder:b")
    assert identity.is_moved("digits+folder:a", "digits+folder:b")
    assert not identity.is_moved("folder:a+folder:b", "folder:a")
    assert not identity.is_moved("folder:a", "voc:a") and not identity.is_moved("mnist", "kmnist")


@pytest.fixture
def folders(tmp_path):
    """Two folders of images; both know the class "dog", and the second is grey."""
    for name, classes, mode in (("one", ("cat", "dog"), "RGB"), ("two", ("dog", "eel"), "L")):
        for i in range(20):
            path = tmp_path / name / classes[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            colour.convert(mode).save(path)
    return tmp_path


def test_several_sources_are_trained_on_together(folders, launch):
    name = f"folder:{folders / 'one'}+folder:{folders / 'two'}"
    dataset = sources.load(Data(name=name, image_size=8))
    assert dataset.classes == ("cat", "dog", "eel")
    assert dataset.train["image"].shape == (32, 8, 8, 3)
    assert np.bincount(dataset.train["label"]).tolist() == [8, 16, 8]
    assert np.bincount(dataset.test["label"]).tolist() == [2, 4, 2]
    one, two = (sources.load(Data(name=part, image_size=8)) for part in name.split("+"))
    seen = {bytes(image) for image in dataset.train["image"]}
    in_colour = [*one.train["image"], *two.train["image"].repeat(3, -1)]
    assert seen == {bytes(image) for image in in_colour}
    limited = sources.load(Data(name=name, image_size=8, limit=12))
    assert len(limited.train) == 12 and set(limited.train["label"].tolist()) == {0, 1, 2}

    data = ("--model.name=softmax_regression", "--data.image_size=8", "--data.batch_size=8")
    flags = (
        *data,
        "--train.steps=2",
        "--train.log_every=1",
        "--data.mean=0.5",
        "--data.std=0.3",
    )

    def run(*flags):
        result = launch(*flags)
        assert result.code == 0, result.err
        return result.out

    def losses(workdir):
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines]

    run(*flags, f"--data.name={name}", f"--workdir={folders / 'run'}")
    trained = losses(folders / "run")
    assert f"{trained[-1]:.4f}" in run("--mode=evaluate", f"--workdir={folders / 'run'}")
    refused = launch("--mode=prepare", f"--data.name={name}", f"--output={folders / 'out'}")
    assert refused.code == 1 and "records:A+records:B" in refused.err
    for part in ("one", "two"):
        prepare(Data(name=f"folder:{folders / part}"), folders / f"{part}_records")
    records = f"records:{folders / 'one_records'}+records:{folders / 'two_records'}"
    run(
        *flags,
        f"--data.name={records}",
        "--data.stream",
        "--data.workers=0",
        f"--workdir={folders / 'streamed'}",
    )
    assert losses(folders / "streamed") == trained


def test_sources_that_do_not_fit_together(folders, launch):
    name = f"digits+folder:{folders / 'one'}"
    wrong = launch(f"--data.name=shapes+{name}", "--data.image_size=8", f"--workdir={folders / 'run'}")
    assert wrong.code == 1 and "they have other targets: boxes, classes, valid, and label" in wrong.err
    assert launch(f"--data.name={name}+folder:nowhere").err.count("nowhere is not a folder") == 1
    both = sources.load(Data(name=name, image_size=8, validation=0.2))
    assert both.classes == (*"0123456789", "cat", "dog") and both.validation is both.test
