import json

import numpy as np
import pytest
import scipy.io
from numpy.testing import assert_allclose
from PIL import Image

from cnnjax.config import ConfigError
from cnnjax.data.formats import landmarks, points, poses


def photograph(path, width=40, height=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def csv_of(folder, text, *files):
    (folder / "points.csv").write_text(text)
    for name in files:
        photograph(folder / "images" / name)
    return landmarks.read_csv(folder / "points.csv", folder / "images")


NAMED = "file,nose_x,nose_y,left_eye_x,left_eye_y,right_eye_x,right_eye_y\n"


def test_a_table_of_named_points(tmp_path):
    found = csv_of(tmp_path, NAMED + "a.png,1,2,3.5,4,5,6\nb.png,1,2,,,5,6\n", "a.png", "b.png")
    assert found.files == ("a.png", "b.png") and found.names == ("nose", "left_eye", "right_eye")
    assert found.mirror == (0, 2, 1)
    assert_allclose(found.points[0], [[1, 2], [3.5, 4], [5, 6]])
    assert found.visible.tolist() == [[True] * 3, [True, False, True]]
    assert_allclose(found.points[1, 1], 0)
    assert found.sizes().tolist() == [[30, 40], [30, 40]]


def test_a_mirror_list_of_its_own(tmp_path):
    (tmp_path / "mirror.txt").write_text("1 0 2")
    assert csv_of(tmp_path, "file,x0,y0,x1,y1,x2,y2\na.png,1,2,3,4,5,6\n").mirror == (1, 0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "points.csv: the file is empty"),
        ("name,x0,y0\n", "points.csv: no column is called file"),
        ("file,x0,y0,x1\na,1,2,3\n", "points.csv: column x1 has no column y1 beside it"),
        ("file,x0,y0,age\na,1,2,3\n", "points.csv: columns are to be file, and x0, y0, .*, not age"),
        ("file,x0,y0,x0,y0\n", "points.csv: two columns have the same name"),
        (NAMED, "points.csv: no image with points"),
        (NAMED + "a,1,2,3,4,5\n", "points.csv, row 2: 6 cells, not 7"),
        (NAMED + "a,1,2,3,nan,5,6\n", "points.csv, row 2, left_eye: 'nan' is not a number"),
        (NAMED + "a,1,2,,4,5,6\n", "points.csv, row 2, left_eye: '' is not a number"),
        (NAMED + "../a,1,2,3,4,5,6\n", "points.csv: the image path '../a' leads out of the image folder"),
        ("file,x0,y0,x1,y1\na,1,2,3,4\n", "which of its 2 points a flip swaps is not known"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        csv_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0", "mirror.txt: the mirror list is no permutation of 3 points"),
        ("0 0 1", "mirror.txt: the mirror list is no permutation of 3 points"),
        ("1 2 0", "mirror.txt: the mirror list does not undo itself at point 0"),
        ("a b c", "mirror.txt: the mirror list is to be 3 numbers from 0"),
    ],
)
def test_mirror_lists_that_are_refused(tmp_path, text, message):
    (tmp_path / "mirror.txt").write_text(text)
    with pytest.raises(ConfigError, match=message):
        csv_of(tmp_path, NAMED + "a.png,1,2,3,4,5,6\n")


def test_points_outside_of_their_image(tmp_path):
    found = csv_of(tmp_path, NAMED + "a.png,-9,2,3,4,5,6\n", "a.png")
    assert found.sizes().tolist() == [[30, 40]]  # a little outside happens
    found = csv_of(tmp_path, NAMED + "a.png,1,2,3,4,51,6\n", "a.png")
    with pytest.raises(
        ConfigError, match=r"a.png: point right_eye \(51, 6\) lies far outside of its 40x30 pixels"
    ):
        found.sizes()


def test_the_mirror_of_68_points():
    mirror = points.MIRROR_68
    points.check_mirror(mirror, 68, "68")
    assert mirror[0] == 16 and mirror[8] == 8 and mirror[17] == 26 and mirror[31] == 35
    assert (
        mirror[36] == 45 and mirror[39] == 42 and mirror[37] == 44 and mirror[41] == 46 and mirror[40] == 47
    )
    assert (
        mirror[48] == 54 and mirror[60] == 64 and mirror[57] == 57 and mirror[67] == 65 and mirror[66] == 66
    )


def test_the_mean_face_is_its_own_mirror(shared):
    found = landmarks.read_csv(shared("data/landmarks68/train.csv"), shared("data/landmarks68/train"))
    assert found.points.shape == (900, 68, 2) and found.visible.all()
    assert (found.sizes() == 128).all()
    mean = found.points.mean(axis=0) - found.points.mean(axis=(0, 1))
    mirrored = mean[list(found.mirror)] * [-1, 1]
    distance = np.hypot(*(mean - mirrored).T)
    assert distance.mean() < 2 and distance.max() < 4  # a wrong pair would be tens of pixels apart


def test_pts_files(tmp_path):
    for name, shift in (("one", 0), ("two", 5)):
        photograph(tmp_path / "helen" / f"{name}.png")
        rows = "".join(f"{i + 1 + shift} {2 * i + 1}.5\n" for i in range(5))
        (tmp_path / "helen" / f"{name}.pts").write_text(f"version: 1\nn_points:  5\n{{\n{rows}}}\n")
    found = landmarks.read_pts(tmp_path)
    assert found.files == ("helen/one.png", "helen/two.png") and found.mirror == (1, 0, 2, 4, 3)
    assert_allclose(found.points[0], [[i, 2 * i + 0.5] for i in range(5)])
    assert_allclose(found.points[1, :, 0], np.arange(5) + 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3 4\n", "a.pts: not a .pts file"),
        ("n_points: 3\n{\n1 2\n}\n", "a.pts: n_points is 3, but 1 points follow"),
        ("version: 1\n{\n1 2\n}\n", "a.pts: n_points is missing, but 1 points follow"),
        ("n_points: 1\n{\n1 2 3\n}\n", "a.pts: point 0 is not two numbers"),
        ("n_points: 1\n{\n1 inf\n}\n", "a.pts, point 0: 'inf' is not a number"),
    ],
)
def test_pts_files_that_are_refused(tmp_path, text, message):
    photograph(tmp_path / "a.png")
    (tmp_path / "a.pts").write_text(text)
    with pytest.raises(ConfigError, match=message):
        landmarks.read_pts(tmp_path)


def test_a_pts_file_without_an_image(tmp_path):
    with pytest.raises(ConfigError, match="no .pts files"):
        landmarks.read_pts(tmp_path)
    (tmp_path / "a.pts").write_text("n_points: 1\n{\n1 2\n}\n")
    with pytest.raises(ConfigError, match="a.pts: no image of that name beside it"):
        landmarks.read_pts(tmp_path)


def coco(**changes):
    person = {"id": 0, "image_id": 7, "category_id": 1, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0,
              "keypoints": [1, 2, 2] + [3, 4, 1] + [0, 0, 0] * 15}  # fmt: skip
    hidden = person | {"id": 1, "keypoints": [0] * 51}
    crowd = person | {"id": 2, "iscrowd": 1}
    return {
        "images": [{"id": 7, "file_name": "seven.png"}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(poses.COCO_NAMES)}],
        "annotations": [person | changes, hidden, crowd],
    }


def test_coco_keypoints(tmp_path):
    photograph(tmp_path / "val" / "seven.png")
    (tmp_path / "k.json").write_text(json.dumps(coco()))
    found = poses.read_coco_keypoints(tmp_path / "k.json", tmp_path / "val", tmp_path)
    assert found.folder == tmp_path / "val" and found.files == ("seven.png",)
    assert found.visible.sum() == 2 and found.points[0, 1].tolist() == [3, 4]
    assert found.boxes.tolist() == [[1, 2, 11, 22]] and found.areas.tolist() == [150]
    assert found.mirror == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (coco(keypoints=[1, 2]), r"annotations\[0\] has no 17 keypoints x, y, v"),
        (coco(bbox=[1, 2, 3]), r"annotations\[0\] has no 17 keypoints"),
        (coco(image_id=8), r"annotations\[0\]: no image has the id 8"),
        (coco(iscrowd=1), "no image with points"),
        (coco() | {"categories": [{"id": 1}]}, "no category has keypoints"),
        (coco() | {"images": [{"id": 1}]}, "an image has no file_name"),
        ({"images": []}, "not COCO's format"),
    ],
)
def test_coco_files_that_are_refused(tmp_path, data, message):
    (tmp_path / "k.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=message):
        poses.read_coco_keypoints(tmp_path / "k.json", tmp_path)


def test_lsp(tmp_path):
    for i in range(1, 4):
        photograph(tmp_path / "images" / f"im000{i}.jpg")
    places = np.random.default_rng(0).uniform(1, 25, (3, 14, 3))
    places[..., 2] = [[1] + [0] * 13] * 3
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": places.transpose(2, 1, 0)})
    found = poses.read_lsp(tmp_path / "joints.mat", tmp_path / "images")
    assert_allclose(found.points, places[..., :2] - 1, rtol=1e-6)
    assert found.visible.all() and found.files[2] == "im0003.jpg"
    assert found.mirror == points.mirror_of_names(found.names)
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": places.transpose(1, 2, 0)})  # as the extended set
    found = poses.read_lsp(tmp_path / "joints.mat", tmp_path / "images")
    assert found.visible.sum(axis=1).tolist() == [1, 1, 1]
    assert_allclose(found.points[:, 0], places[:, 0, :2] - 1, rtol=1e-6)
    photograph(tmp_path / "images" / "im0004.jpg")
    with pytest.raises(ConfigError, match="joints of 3 images, but .* has 4"):
        poses.read_lsp(tmp_path / "joints.mat", tmp_path / "images")


def test_lsp_as_a_table_is_lsp(shared):
    found = landmarks.read_csv(shared("data/lsp/joints.csv"), shared("data/lsp/images"))
    assert found.names == poses.LSP_NAMES and found.mirror == poses.LSP_MIRROR
    assert found.points.shape == (800, 14, 2) and found.sizes().shape == (800, 2)


def struct(**fields):
    return fields


def test_mpii(tmp_path):
    joint = [struct(x=11.0, y=21.0, id=9, is_visible="1"), struct(x=5.0, y=6.0, id=0, is_visible=0)]
    person = struct(x1=1, y1=2, x2=31, y2=42, annopoints=struct(point=np.array(joint, object)), scale=2.5)
    alone = struct(x1=5, y1=5, x2=9, y2=9, annopoints=struct(point=joint[0]))
    without = struct(x1=1, y1=2, x2=3, y2=4, annopoints=[])
    annolist = [
        struct(image=struct(name="a.jpg"), annorect=np.array([person, without, alone], object)),
        struct(image=struct(name="b.jpg"), annorect=person),
        struct(image=struct(name="c.jpg"), annorect=[]),
    ]
    release = struct(annolist=np.array(annolist, object), img_train=[1, 0, 1])
    scipy.io.savemat(tmp_path / "m.mat", {"RELEASE": release})
    found = poses.read_mpii(tmp_path / "m.mat", tmp_path)
    assert found.files == ("a.jpg", "a.jpg")
    assert found.heads.tolist() == [[0, 1, 30, 41], [4, 4, 8, 8]]
    assert found.visible.sum(axis=1).tolist() == [2, 1]
    assert found.points[0, 9].tolist() == [10, 20] and found.points[0, 0].tolist() == [4, 5]
    assert found.mirror == (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)


def test_matlab_files_that_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="m.mat: no such file"):
        poses.read_lsp(tmp_path / "m.mat", tmp_path)
    (tmp_path / "m.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    with pytest.raises(ConfigError, match="m.mat: cannot be read as a MATLAB file"):
        poses.read_mpii(tmp_path / "m.mat", tmp_path)
    scipy.io.savemat(tmp_path / "m.mat", {"joints": np.zeros((2, 14, 3))})
    with pytest.raises(ConfigError, match=r"not of \[2, 14, 3\]"):
        poses.read_lsp(tmp_path / "m.mat", tmp_path)
    with pytest.raises(ConfigError, match="not MPII's file"):
        poses.read_mpii(tmp_path / "m.mat", tmp_path)
