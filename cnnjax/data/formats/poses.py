"""Joints of bodies: COCO's keypoints, and the MATLAB files of Leeds Sports Pose and MPII."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.data import listing
from cnnjax.data.formats.annotations import inside_folder, read_text
from cnnjax.data.formats.points import PointSet, check_mirror, mirror_of_names

COCO_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
LSP_NAMES = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
)  # fmt: skip
MPII_NAMES = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
    "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
    "left_wrist",
)  # fmt: skip
LSP_MIRROR = (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13)
LSP_TORSO = (9, 2)  # left shoulder and right hip, PCK's normalizer


def read_coco_keypoints(path: str | Path, *folders: str | Path) -> PointSet:
    """COCO's person_keypoints_*.json: every person with a labelled keypoint who is no crowd, with box and area.

    Images lie in the first of the folders that has one of them, else in the last. Raises ConfigError.
    """
    source = str(path)
    data = _json(Path(path))
    names = _coco_names(data, source)
    files = {_field(entry, "id", source): str(_field(entry, "file_name", source)) for entry in data["images"]}
    rows, boxes, areas, people = [], [], [], []
    for number, entry in enumerate(data["annotations"]):
        where = f"{source}: annotations[{number}]"
        flat = entry.get("keypoints") if isinstance(entry, dict) else None
        if not flat or entry.get("iscrowd"):
            continue
        if not _are_numbers(flat, 3 * len(names)) or not _are_numbers(entry.get("bbox"), 4):
            raise ConfigError(f"{where} has no {len(names)} keypoints x, y, v with a bbox of four numbers")
        if entry.get("image_id") not in files:
            raise ConfigError(f"{where}: no image has the id {entry.get('image_id')!r}")
        if not any(flat[2::3]):
            continue
        x, y, width, height = entry["bbox"]
        rows.append(np.array(flat, np.float64).reshape(-1, 3))
        boxes.append([x, y, x + width, y + height])
        areas.append(float(entry.get("area") or width * height))
        people.append(inside_folder(files[entry["image_id"]], source))
    roots = [Path(folder) for folder in folders]
    root = next((one for one in roots if any((one / name).exists() for name in people)), roots[-1])
    values = np.stack(rows) if rows else np.zeros((0, len(names), 3))
    mirror = mirror_of_names(names) or tuple(range(len(names)))
    return PointSet(
        source, root, tuple(people), values[..., :2], values[..., 2] > 0, names, mirror,
        boxes=np.array(boxes, np.float32).reshape(-1, 4), areas=np.array(areas, np.float32),
    )  # fmt: skip


def read_lsp(path: str | Path, folder: str | Path) -> PointSet:
    """Leeds Sports Pose: joints.mat with `joints`, and images im0001.jpg, ... in their order.

    LSP has [3, 14, N], where every joint has its place and the third number says whether it is hidden behind
    something; the extended set has [14, 3, N], where joints that were not labelled have 0 there. Pixels are counted
    from 1 in the file, from 0 here. Raises ConfigError.
    """
    source = str(path)
    joints = _matlab(path).get("joints")
    if joints is None or joints.ndim != 3 or joints.shape[:2] not in ((3, 14), (14, 3)):
        found = "none" if joints is None else f"of {list(joints.shape)}"
        raise ConfigError(f"{source}: joints are to be an array [3, 14, N] or [14, 3, N], not {found}")
    extended = joints.shape[0] == 14
    values = joints.transpose(2, 0, 1) if extended else joints.transpose(2, 1, 0)
    photographs = listing.list_files(Path(folder))
    if len(photographs) != len(values):
        raise ConfigError(f"{source}: joints of {len(values)} images, but {folder} has {len(photographs)}")
    files = tuple(file.relative_to(folder).as_posix() for file in photographs)
    visible = values[..., 2] > 0 if extended else np.ones(values.shape[:2], bool)
    check_mirror(LSP_MIRROR, 14, source)
    return PointSet(source, Path(folder), files, values[..., :2] - 1.0, visible, LSP_NAMES, LSP_MIRROR)


def read_mpii(path: str | Path, folder: str | Path) -> PointSet:
    """MPII Human Pose: the people of the training images of mpii_human_pose_v1_u12_1.mat, with the boxes of heads.

    Test images have no joints in the file. Pixels are counted from 1 in the file, from 0 here. Raises ConfigError.
    """
    source = str(path)
    release: Any = _matlab(path).get("RELEASE")
    if not hasattr(release, "annolist") or not hasattr(release, "img_train"):
        raise ConfigError(f"{source}: not MPII's file: it lacks RELEASE with annolist and img_train")
    files, points, visible, heads = [], [], [], []
    for image, is_train in zip(_list(release.annolist), _list(release.img_train), strict=True):
        for person in _list(getattr(image, "annorect", [])) if is_train else []:
            joints = _list(getattr(getattr(person, "annopoints", None), "point", []))
            if not joints:
                continue
            values, known = _mpii_joints(joints, source)
            files.append(inside_folder(str(image.image.name), source))
            points.append(values)
            visible.append(known)
            heads.append([float(getattr(person, side)) - 1.0 for side in ("x1", "y1", "x2", "y2")])
    mirror = mirror_of_names(MPII_NAMES) or ()
    return PointSet(
        source, Path(folder), tuple(files), np.array(points).reshape(-1, 16, 2),
        np.array(visible, bool).reshape(-1, 16), MPII_NAMES, mirror,
        heads=np.array(heads, np.float32).reshape(-1, 4),
    )  # fmt: skip


def _mpii_joints(joints: Sequence[Any], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Places [16, 2] counted from 0, and which of them are there."""
    values, known = np.zeros((16, 2)), np.zeros(16, bool)
    for joint in joints:
        number = int(joint.id)
        if not 0 <= number < 16:
            raise ConfigError(f"{source}: a joint has the number {number}, not 0 to 15")
        values[number] = float(joint.x) - 1.0, float(joint.y) - 1.0
        known[number] = True
    return values, known


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(name), list) for name in wanted):
        raise ConfigError(f"{path}: not COCO's format: it is to have lists of {', '.join(wanted)}")
    return data


def _coco_names(data: dict[str, Any], source: str) -> tuple[str, ...]:
    for category in data["categories"]:
        names = category.get("keypoints") if isinstance(category, dict) else None
        if isinstance(names, list) and names:
            return tuple(map(str, names))
    raise ConfigError(f"{source}: no category has keypoints: is it person_keypoints_*.json?")


def _field(entry: Any, name: str, source: str) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise ConfigError(f"{source}: an image has no {name}")
    return entry[name]


def _are_numbers(values: Any, count: int) -> bool:
    is_list = isinstance(values, list) and len(values) == count
    return is_list and all(type(v) in (int, float) and math.isfinite(v) for v in values)


def _matlab(path: str | Path) -> dict[str, Any]:
    """The variables of a .mat file; structs as objects. Reading one runs no code of it."""
    import scipy.io  # half a second

    try:
        return scipy.io.loadmat(str(path), squeeze_me=True, struct_as_record=False)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except Exception as error:  # damaged files make the reader raise almost anything
        raise ConfigError(f"{path}: cannot be read as a MATLAB file: {error}") from error


def _list(value: Any) -> list[Any]:
    """The elements of a struct array; of a single struct or number, it alone."""
    return (
        list(value.reshape(-1))
        if isinstance(value, np.ndarray)
        else [value]
        if not isinstance(value, list)
        else value
    )
