"""A cascade of boosted Haar features (Viola & Jones 2001), and OpenCV's XML files of such cascades."""

import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.parsers import expat

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.data.formats.voc import parse_xml
from cnnjax.faces.haar import Features
from cnnjax.runs.workdir import write_atomically

MARGIN = 1e-5  # so much below its threshold a stage still passes, as OpenCV has it


@dataclasses.dataclass(frozen=True)
class Cascade:
    """Stages of small decision trees over Haar features; a window must pass every stage.

    features: those that the nodes look at, in windows of `features.size`.
    feature: [T, M] int32, which feature each node of each tree looks at; stumps have M = 1, and a tree of fewer nodes
      ends in nodes that are never reached.
    threshold: [T, M] float32; a value below it goes to `left`, any other to `right`.
    left, right: [T, M] int32, a later node of the tree, or minus the number of a leaf.
    leaf: [T, M + 1] float32, what a tree adds to the sum of its stage.
    trees: [S] int32, how many trees each stage has.
    stage_threshold: [S] float32; a stage passes if its sum is at least this, less `MARGIN`.
    """

    features: Features
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    leaf: np.ndarray
    trees: np.ndarray
    stage_threshold: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the window."""
        return self.features.size

    def first(self, stages: int) -> "Cascade":
        """The first stages alone."""
        count = int(self.trees[:stages].sum())
        return Cascade(
            self.features,
            self.feature[:count],
            self.threshold[:count],
            self.left[:count],
            self.right[:count],
            self.leaf[:count],
            self.trees[:stages],
            self.stage_threshold[:stages],
        )


def of_stumps(
    features: Features,
    threshold: np.ndarray,
    leaf: np.ndarray,
    trees: np.ndarray,
    stage_threshold: np.ndarray,
) -> Cascade:
    """A cascade whose trees have one node each: the T features in the order of the stages, threshold [T], leaf [T, 2]."""
    count = len(features)
    return Cascade(
        features,
        np.arange(count, dtype=np.int32)[:, None],
        np.asarray(threshold, np.float32).reshape(count, 1),
        np.zeros((count, 1), np.int32),
        np.full((count, 1), -1, np.int32),
        np.asarray(leaf, np.float32).reshape(count, 2),
        np.asarray(trees, np.int32),
        np.asarray(stage_threshold, np.float32),
    )


def read_cascade(path: str | Path) -> Cascade:
    """A cascade from a file in the form of OpenCV's `haarcascade_*.xml` (type opencv-cascade-classifier).

    Raises ConfigError for what is not such a file, is cut, or needs more than this package has: LBP and HOG
    features, tilted rectangles, the old form of files.
    """
    path = Path(path)
    try:
        root = parse_xml(path)
    except expat.ExpatError as error:
        raise ConfigError(
            f"{path}, line {error.lineno}: not valid xml, or cut ({expat.ErrorString(error.code)})"
        ) from error
    cascade = root.find("cascade")
    if root.tag != "opencv_storage" or cascade is None:
        old = any("haar" in child.get("type_id", "") for child in root)
        what = "a cascade in the old form, which OpenCV converts" if old else "no cascade of OpenCV"
        raise ConfigError(f"{path}: {what}; what is read are files with <cascade>, such as haarcascade_*.xml")
    try:
        return _cascade(cascade)
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _cascade(root: ElementTree.Element) -> Cascade:
    for tag, wanted in (("stageType", "BOOST"), ("featureType", "HAAR")):
        if _text(root, tag) != wanted:
            raise ValueError(f"{tag} is {_text(root, tag)}, only {wanted} is read")
    size = (int(_text(root, "width")), int(_text(root, "height")))
    if not all(3 <= side <= 64 for side in size):
        raise ValueError(f"a window of {size[0]}x{size[1]} pixels, of at least 3 and at most 64 a side")
    stages = root.findall("stages/_")
    if not stages or len(stages) != int(_text(root, "stageNum")):
        raise ValueError(f"{len(stages)} stages where stageNum is {_text(root, 'stageNum')}")
    weak = [stage.findall("weakClassifiers/_") for stage in stages]
    if any(stage.find("parent") is not None for stage in stages) or not all(weak):
        raise ValueError("stages that form a tree, or are empty, are not read")
    trees = [_tree(one) for stage in weak for one in stage]
    found = root.findall("features/_")
    nodes = max(len(tree["feature"]) for tree in trees)
    used = {int(i) for tree in trees for i in tree["feature"]}
    if min(used) < 0 or max(used) >= len(found):
        raise ValueError(f"node of feature {max(used)}, of {len(found)} features")
    rows = {name: _padded([tree[name] for tree in trees], nodes + (name == "leaf")) for name in trees[0]}
    return Cascade(
        _features(found, used, size),
        **{name: rows[name].astype(np.int32) for name in ("feature", "left", "right")},
        threshold=rows["threshold"].astype(np.float32),
        leaf=rows["leaf"].astype(np.float32),
        trees=np.array([len(stage) for stage in weak], np.int32),
        stage_threshold=np.array([float(_text(stage, "stageThreshold")) for stage in stages], np.float32),
    )


def _tree(element: ElementTree.Element) -> dict[str, np.ndarray]:
    nodes = _numbers(element, "internalNodes")
    leaves = _numbers(element, "leafValues")
    if nodes.size % 4 or nodes.size // 4 + 1 != leaves.size:
        raise ValueError(f"a tree of {nodes.size} numbers of nodes and {leaves.size} leaves")
    left, right, feature, threshold = nodes.reshape(-1, 4).T
    for number, child in ((n, c) for side in (left, right) for n, c in enumerate(side)):
        if not (-leaves.size < child <= 0 or number < child < len(left)):
            raise ValueError(f"node {number} of a tree leads to {child:g}")
    return {"left": left, "right": right, "feature": feature, "threshold": threshold, "leaf": leaves}


def _padded(rows: list[np.ndarray], length: int) -> np.ndarray:
    return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


def _features(elements: list[ElementTree.Element], used: set[int], size: tuple[int, int]) -> Features:
    rectangles = np.zeros((len(elements), 3, 4), np.int32)
    weights = np.zeros((len(elements), 3), np.int32)
    for index, element in enumerate(elements):
        if index in used and element.findtext("tilted", "0").strip() == "1":
            raise ValueError(f"feature {index} is tilted; only upright rectangles are read")
        rows = [_floats(rectangle.text) for rectangle in element.findall("rects/_")]
        if not 1 <= len(rows) <= 3:
            raise ValueError(f"feature {index} has {len(rows)} rectangles")
        for place, row in enumerate(rows):
            if row.size != 5 or np.any(row != np.round(row)):
                raise ValueError(f"feature {index} has a rectangle that is not five whole numbers")
            x, y, width, height, weight = row.astype(np.int32)
            if min(x, y) < 0 or min(width, height) < 1 or x + width > size[0] or y + height > size[1]:
                raise ValueError(f"feature {index} has a rectangle beyond the window")
            if abs(weight) > 16:
                raise ValueError(f"feature {index} has a rectangle of weight {weight}")
            rectangles[index, place], weights[index, place] = row[:4], weight
    return Features(size, rectangles, weights)


def _text(element: ElementTree.Element, tag: str) -> str:
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"no <{tag}>: not a cascade of OpenCV's newer form, or cut")
    return text.strip()


def _numbers(element: ElementTree.Element, tag: str) -> np.ndarray:
    return _floats(_text(element, tag))


def _floats(text: str | None) -> np.ndarray:
    values = np.array([float(word) for word in (text or "").split()], np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError("a number that is not finite")
    return values


def write_cascade(cascade: Cascade, path: str | Path) -> None:
    """Writes the file that `read_cascade` and OpenCV read."""
    storage = ElementTree.Element("opencv_storage")
    root = ElementTree.SubElement(storage, "cascade", type_id="opencv-cascade-classifier")
    width, height = cascade.size
    heads: dict[str, object] = {"stageType": "BOOST", "featureType": "HAAR", "height": height, "width": width}
    for tag, value in heads.items():
        _add(root, tag, value)
    _add(ElementTree.SubElement(root, "stageParams"), "maxWeakCount", int(cascade.trees.max()))
    _add(ElementTree.SubElement(root, "featureParams"), "maxCatCount", 0)
    _add(root, "stageNum", len(cascade.trees))
    stages = ElementTree.SubElement(root, "stages")
    tree = 0
    for count, threshold in zip(cascade.trees.tolist(), cascade.stage_threshold, strict=True):
        stage = ElementTree.SubElement(stages, "_")
        _add(stage, "maxWeakCount", count)
        _add(stage, "stageThreshold", threshold)
        weak = ElementTree.SubElement(stage, "weakClassifiers")
        for index in range(tree, tree + count):
            one = ElementTree.SubElement(weak, "_")
            columns = (cascade.left, cascade.right, cascade.feature, cascade.threshold)
            _add(
                one,
                "internalNodes",
                *[side[index, m] for m in range(cascade.left.shape[1]) for side in columns],
            )
            _add(one, "leafValues", *cascade.leaf[index])
        tree += count
    features = ElementTree.SubElement(root, "features")
    for rectangles, weights in zip(cascade.features.rectangles, cascade.features.weights, strict=True):
        one = ElementTree.SubElement(features, "_")
        rects = ElementTree.SubElement(one, "rects")
        for rectangle, weight in zip(rectangles, weights, strict=True):
            if weight:
                _add(rects, "_", *rectangle, f"{weight}.")
        _add(one, "tilted", 0)
    ElementTree.indent(storage)
    text = '<?xml version="1.0"?>\n' + ElementTree.tostring(storage, encoding="unicode") + "\n"
    write_atomically(Path(path), text)


def _add(parent: ElementTree.Element, tag: str, *values: object) -> None:
    plain = [repr(float(value)) if isinstance(value, np.floating) else str(value) for value in values]
    ElementTree.SubElement(parent, tag).text = " ".join(plain)
