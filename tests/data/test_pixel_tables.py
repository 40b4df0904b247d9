"""Tables of pixels with labels, and the Arabic characters in that form."""

import numpy as np
import pytest

from cnnjax.config import ConfigError, Data
from cnnjax.data.formats.pixels import ARABIC
from cnnjax.data.sources import load


def write(path, rows, header=""):
    text = "\n".join(",".join(map(str, row)) for row in rows)
    path.write_text(f"{header}\n{text}\n" if header else text + "\n")


def test_a_table_with_its_labels_and_files_of_labels_are_the_same(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 9))
    label = np.array([3, 7, 3, 7, 7, 3, 7, 3])
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    names = "label," + ",".join(f"pixel{i}" for i in range(9))
    for name, part in (("train", slice(0, 6)), ("test", slice(6, 8))):
        write(one / f"{name}.csv", np.column_stack([label, images])[part], names)
        write(two / f"csv{name.title()}Images 6x9.csv", images[part])
        write(two / f"csv{name.title()}Label 6x1.csv", label[part, None])
    for folder in (one, two):
        dataset = load(Data(name=f"csv:{folder}"))
        np.testing.assert_array_equal(dataset.train["image"], images[:6].reshape(6, 3, 3, 1))
        np.testing.assert_array_equal(dataset.test["image"], images[6:].reshape(2, 3, 3, 1))
        assert dataset.classes == ("3", "7") and dataset.train["label"].tolist() == [0, 1, 0, 1, 1, 0]
    (one / "test.csv").unlink()
    held = load(Data(name=f"csv:{one}"))
    assert (len(held.train), len(held.test)) == (5, 1)


def test_arabic_characters_go_down_the_columns_first(tmp_path):
    image = np.arange(16).reshape(4, 4)
    for name in ("train", "test"):
        write(tmp_path / f"{name}Images.csv", [image.T.ravel(), image.T.ravel()])
        write(tmp_path / f"{name}Label.csv", [[1], [28]])
    dataset = load(Data(name=f"ahcd:{tmp_path}"))
    np.testing.assert_array_equal(dataset.train["image"][0, ..., 0], image)
    assert dataset.classes == ARABIC and dataset.test["label"].tolist() == [0, 27]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([[1, 2, 3, 4], [1, 2, 3]], [[0], [1]], "trainImages.csv: .*number of columns changed"),
        ([[1, 2, 3]] * 2, [[0], [1]], "rows of 3 pixels are no square images"),
        ([[1, 2, 3, 400]] * 2, [[0], [1]], "pixels from 1 to 400"),
        ([[1, 2, 3, 4]] * 2, [[0]], "1 x 1 labels for 2 images"),
        ([[1, 2, 3, "x"]] * 2, [[0], [1]], "trainImages.csv: could not convert"),
        ([[1, 2, 3, 4.5], [1, 2, 3, 4]], [[0], [1]], "trainImages.csv: could not convert"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(images, labels, message, tmp_path):
    write(tmp_path / "trainImages.csv", images)
    write(tmp_path / "trainLabel.csv", labels)
    with pytest.raises(ConfigError, match=message) as error:
        load(Data(name=f"csv:{tmp_path}"))
    assert "\n" not in str(error.value)


def test_missing_files_and_labels_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no .csv with 'train'"):
        load(Data(name=f"csv:{tmp_path}"))
    write(tmp_path / "train.csv", [[1, 2, 3, 4]])
    with pytest.raises(ConfigError, match="no column called label"):
        load(Data(name=f"csv:{tmp_path}"))
    with pytest.raises(ConfigError, match="of train and test"):
        load(Data(name=f"ahcd:{write_labels(tmp_path)}"))


def write_labels(folder):
    write(folder / "train_label.csv", [[1]])
    return folder
