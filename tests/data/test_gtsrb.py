"""The official layout of the German traffic signs: boxes, classes, whole tracks."""

import numpy as np
import pytest
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data.formats import gtsrb
from cnnjax.data.sources import load

NAMES = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"


def write(folder, label, files, box=(2, 3, 10, 9)):
    """Photographs of 12x14 pixels: grey but for the box, whose value is the class and the number of the file."""
    folder.mkdir(parents=True)
    rows = [NAMES]
    for number, file in enumerate(files):
        image = np.full((14, 12, 3), 255, np.uint8)
        image[3:9, 2:10] = 10 * label + number
        Image.fromarray(image).save(folder / file)
        rows.append(f"{file};12;14;{';'.join(map(str, box))};{label}")
    (folder / f"GT-{folder.name}.csv").write_text("\n".join(rows) + "\n")


def tracks(count, frames=2):
    return [f"{track:05}_{frame:05}.ppm" for track in range(count) for frame in range(frames)]


def read(folder, **options):
    return load(Data(name=f"gtsrb:{folder}", image_size=6, **options))


def test_photographs_are_cropped_to_their_box(tmp_path):
    write(tmp_path / "Final_Training/Images/00000", 0, tracks(2))
    write(tmp_path / "Final_Training/Images/00014", 14, tracks(1))
    write(tmp_path / "Final_Test/Images", 14, ["00000.ppm", "00001.ppm"])
    dataset = read(tmp_path)
    assert dataset.train["image"].shape == (6, 6, 6, 3) and len(dataset.classes) == 43
    assert dataset.classes[14] == "stop" and sorted(dataset.train["label"]) == [0, 0, 0, 0, 14, 14]
    assert sorted(dataset.train["image"].max(axis=(1, 2, 3))) == [
        0,
        1,
        2,
        3,
        140,
        141,
    ]  # nothing from outside
    assert sorted(dataset.test["image"][:, 0, 0, 0]) == [140, 141]


def test_tracks_stay_together(tmp_path):
    write(tmp_path / "Final_Training/Images/00000", 0, tracks(10, frames=3))
    write(tmp_path / "Final_Training/Images/00001", 1, tracks(5, frames=3))
    for dataset in (read(tmp_path), read(tmp_path, validation=0.2)):  # a fifth, of tracks
        held = dataset.test["image"][:, 0, 0, 0]
        numbers = {label: sorted(held[dataset.test["label"] == label]) for label in (0, 1)}
        assert [len(numbers[0]), len(numbers[1])] == [6, 3] and len(dataset.train) == 36
        for label, found in numbers.items():
            assert all(
                found[i + 2] - found[i] == 2 and (found[i] - 10 * label) % 3 == 0
                for i in range(0, len(found), 3)
            )
    assert dataset.validation is not None


def test_a_track_in_two_splits_is_refused(tmp_path):
    write(tmp_path / "train/00000", 0, tracks(3))
    write(tmp_path / "test/00000", 0, ["00002_00007.ppm"])
    with pytest.raises(ConfigError, match="track 00000/00002 are in both splits"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Roi.X2", "X2"), "no column Roi.X2"),
        ((";10;9;0", ";13;9;0"), r"the box \(2, 3, 13, 9\) is not in 12x14 pixels"),
        ((";10;9;0", ";10;9;43"), "row 2: class 43, of 43"),
        ((";10;9;0", ";10;0"), "row 2: 7 cells, not 8"),
        ((";10;9;0", ";ten;9;0"), "not whole numbers"),
        (("00000_00000.ppm", "../secret.ppm"), "secret.ppm"),
    ],
)
def test_what_is_wrong_with_annotations_is_one_line(change, message, tmp_path):
    write(tmp_path / "train/00000", 0, tracks(2))
    table = tmp_path / "train/00000/GT-00000.csv"
    table.write_text(table.read_text().replace(*change))
    with pytest.raises(ConfigError, match=message):
        read(tmp_path)


def test_a_missing_size_or_folder_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no folder Final_Training"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="give --data.image_size"):
        load(Data(name=f"gtsrb:{tmp_path}"))
    assert len(gtsrb.SIGNS) == len(set(gtsrb.SIGNS)) == 43
