"""WIDER FACE as it is published, all or a part of it."""

import numpy as np
import pytest
import scipy.io
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data import sources
from cnnjax.data.formats import wider

LINES = """0--Parade/a.jpg
2
4 2 6 8 0 0 0 0 0 0
30 20 5 6 0 0 0 1 0 0
0--Parade/elsewhere.jpg
1
1 1 9 9 0 0 0 0 0 0
1--Shaking/none.jpg
0
0 0 0 0 0 0 0 0 0 0
"""


def cells(values):
    """A column of cells as MATLAB has them."""
    column = np.empty((len(values), 1), object)
    for i, value in enumerate(values):
        column[i, 0] = value
    return column


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wider_face_split").mkdir()
    for split, names in (("train", ("0--Parade/a", "1--Shaking/none")), ("val", ("0--Parade/a",))):
        for name in names:
            path = tmp_path / f"WIDER_{split}" / "images" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (90, 80, 70)).save(path)
        (tmp_path / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt").write_text(LINES)
    return tmp_path


def check(found, missing=1):
    assert found.classes == ("face",)
    assert [image.path for image in found.images] == ["0--Parade/a.jpg", "1--Shaking/none.jpg"]
    first, second = found.truths
    assert first.boxes.tolist() == [[4, 2, 10, 10], [30, 20, 35, 26]] and first.ignored.tolist() == [
        False,
        True,
    ]
    assert second.boxes.shape == (0, 4)
    assert sum(problem.count for problem in found.problems) == missing


def test_text_and_matlab_s_file_say_the_same(folder):
    pictures, lists = folder / "WIDER_train" / "images", folder / "wider_face_split"
    check(wider.read_wider(pictures, lists / "wider_face_train_bbx_gt.txt"))
    scipy.io.savemat(
        lists / "wider_face_train.mat",
        {
            "event_list": cells(["0--Parade", "1--Shaking"]),
            "file_list": cells([cells(["a", "elsewhere"]), cells(["none"])]),
            "face_bbx_list": cells(
                [
                    cells([np.array([[4, 2, 6, 8], [30, 20, 5, 6]]), np.array([[1, 1, 9, 9]])]),
                    cells([np.zeros((0, 4))]),
                ]
            ),
            "invalid_label_list": cells(
                [cells([np.array([[0], [1]]), np.array([[0]])]), cells([np.zeros((0, 1))])]
            ),
        },
    )
    assert wider.as_published(folder)["train"].args[1].suffix == ".mat"
    check(wider.read_wider(pictures, lists / "wider_face_train.mat"))


def test_by_its_name(folder):
    found = sources.load(Data(name=f"wider:{folder}", image_size=40))
    assert found.train["image"].shape == (2, 40, 40, 3) and len(found.test["image"]) == 1
    assert found.train["boxes"][0, 0].tolist() == [4, 7, 10, 15]  # 30 rows stand in the middle of 40
    assert found.train["ignored"].tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (LINES[:38], "is cut off: not all 2 faces of 0--Parade/a.jpg"),
        ("0--Parade/a.jpg\n", "line 2: '' is no number of faces"),
        ("0--Parade/a.jpg\nmany\n", "line 2: 'many' is no number of faces"),
        ("0--Parade/a.jpg\n1\n4 2 wide 8\n", "line 3: '4 2 wide 8' does not begin with x, y"),
        ("../../etc/a.jpg\n1\n4 2 6 8\n", "leads out of the image folder"),
    ],
)
def test_a_damaged_list_is_one_line(folder, text, line):
    path = folder / "wider_face_split" / "wider_face_train_bbx_gt.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=line):
        wider.read_wider(folder / "WIDER_train" / "images", path)


def test_a_matlab_file_of_something_else(folder):
    path = folder / "wider_face_split" / "wider_face_train.mat"
    scipy.io.savemat(path, {"event_list": np.zeros((1, 1))})
    for content in (path.read_bytes(), b"no MATLAB file"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="no list of WIDER FACE"):
            wider.read_wider(folder / "WIDER_train" / "images", path)
