"""YOLO's txt: one file per image, a line "class cx cy width height" per object, in shares of the image.

A sixth value is the confidence of what made the file, and is passed over. An odd number of values from 7 on is a
polygon, "class x1 y1 x2 y2 ...", of which the box around it is taken.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from cnnjax.config import ConfigError
from cnnjax.data import images, listing
from cnnjax.data.formats.annotations import (
    Annotations,
    ImageBuilder,
    Problem,
    Readers,
    build_all,
    inside_folder,
    read_text,
)
from cnnjax.data.splits import role


def read_yolo(
    image_folder: str | Path, label_folder: str | Path, classes: Sequence[str] | str | Path
) -> Annotations:
    """Reads the label file of every image: the same path below `label_folder`, ending in .txt.

    An image without a label file, or with an empty one, is a negative example. `classes`: names in order, or
    a file with a name per line.

    Raises ConfigError for missing folders or files, and for classes that are counted from 1; lines are reported
    (annotations.py).
    """
    root, labels = Path(image_folder), Path(label_folder)
    if isinstance(classes, str | Path):
        classes = read_names(Path(classes))
    pictures = listing.list_files(root)
    if not pictures:
        raise ConfigError(f"{root}: no images there")
    if not labels.is_dir():
        raise ConfigError(f"{labels}: no such folder")

    def label_of(picture: Path) -> Path:
        return labels / picture.relative_to(root).with_suffix(".txt")

    found = read_pictures(root, pictures, label_of, classes)
    strays = find_strays(labels, {label_of(picture) for picture in pictures})
    return dataclasses.replace(found, problems=(*found.problems, *strays))


def find_strays(labels: Path, expected: set[Path]) -> list[Problem]:
    """Files of labels beside those of the images."""
    return [
        Problem(str(path), "", "belongs to no image: left out", "image", "labels without an image")
        for path in sorted(set(listing.list_files(labels, {".txt"})) - expected)
        if _holds_labels(path)
    ]


def read_pictures(
    root: Path, pictures: Sequence[Path], label_of: Callable[[Path], Path], classes: Sequence[str]
) -> Annotations:
    """Reads these images below `root`, each with the label file that `label_of` it is. Raises as `read_yolo` does."""
    problems: list[Problem] = []
    builders, indices = [], set[float]()
    for picture in pictures:
        path = label_of(picture)
        height, width = images.size(picture, str(picture))
        builder = ImageBuilder(picture.relative_to(root).as_posix(), width, height, str(path), problems)
        for number, line in enumerate(read_text(path).splitlines() if path.exists() else [], start=1):
            if line.strip():
                index = _read_line(line, f"line {number}", len(classes), (width, height), builder)
                if index is not None and index.is_integer():
                    indices.add(index)
        builders.append(builder)
    if indices and min(indices) > 0 and max(indices) == len(classes):
        raise ConfigError(
            f"{label_of(pictures[0]).parent}: the classes of the labels go up to {len(classes)}, with {len(classes)} names, and none is 0: "
            "they are counted from 1, YOLO's from 0"
        )
    return Annotations(root, tuple(classes), build_all(builders), tuple(problems))


def read_names(path: Path) -> list[str]:
    """Class names, one per line; raises ConfigError if there are none."""
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise ConfigError(f"{path}: holds no class names")
    return names


def write_yolo(annotations: Annotations, label_folder: str | Path) -> None:
    """Writes a label file per image, and classes.txt beside the folder.

    The format knows neither difficult objects, which become ordinary ones, nor crowd regions, which are left out.
    """
    root = Path(label_folder)
    for image in annotations.images:
        lines = []
        assert image.truth.crowd is not None
        for box, index, crowd in zip(
            image.truth.boxes.tolist(), image.truth.classes, image.truth.crowd, strict=True
        ):
            if not crowd:
                x1, y1, x2, y2 = box
                shares = [(x1 + x2) / 2 / image.width, (y1 + y2) / 2 / image.height]
                shares += [(x2 - x1) / image.width, (y2 - y1) / image.height]
                lines.append(" ".join([str(int(index)), *(repr(share) for share in shares)]))
        path = (root / image.path).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (root.parent / "classes.txt").write_text("".join(f"{c}\n" for c in annotations.classes), encoding="utf-8")


def in_data_yaml(folder: Path) -> Readers:
    """Ultralytics' and Roboflow's layout: data.yaml names folders of images, or lists of them, as train, val, test.

    Labels lie beside the images, or below labels/ where those lie below images/.
    """
    # Raises ConfigError for a file that is no such yaml, and for paths that lead out of the folder.
    path = _yaml_file(folder)
    about = _parse_yaml(path) if path else {}
    base = folder / inside_folder(about["path"], str(path)) if _is_inside(about.get("path")) else folder
    found: Readers = {}
    for split in ("train", "val", "valid", "test"):
        given = about.get(split) or []
        entries = [given] if isinstance(given, str) else given
        if not (isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)):
            raise ConfigError(f"{path}: {split} is not a path, nor a list of paths")
        places = [place for entry in entries if (place := _locate(entry, (base, folder), str(path)))]
        if places:
            found[split] = functools.partial(_read_places, folder, places)
    if found and "train" not in found:
        raise ConfigError(f"{path}: nothing is at its train, {about.get('train', '')!r}")
    return found


def in_obj_data(folder: Path) -> Readers:
    """Darknet's layout, CVAT's "YOLO 1.1": obj.names, images with labels beside them below obj_<split>_data/, and
    lists of images that obj.data names, whose paths begin with data/."""
    if not (folder / "obj.names").is_file():
        return {}
    settings = dict[str, str]()
    if (folder / "obj.data").is_file():
        lines = read_text(folder / "obj.data").splitlines()
        settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    found = {}
    for split in ("train", "valid", "test"):
        value = settings.get(split, "")
        if value and (place := _locate(value, (folder,), str(folder / "obj.data"))):
            found[split] = place
    folders = {path.name[4:-5]: path for path in sorted(folder.glob("obj_*_data")) if path.is_dir()}
    return {
        split: functools.partial(_read_places, folder, [place]) for split, place in (found or folders).items()
    }


def in_split_folders(folder: Path) -> Readers:
    """A folder for each split: images/<split>/ and labels/<split>/, or <split>/images/ and <split>/labels/, or
    <split>/ with the labels beside the images."""
    for pattern, name in (("images/*", lambda path: path.name), ("*/images", lambda path: path.parent.name),
                          ("*", lambda path: path.name)):  # fmt: skip
        places = {name(path): path for path in sorted(folder.glob(pattern)) if path.is_dir()}
        if pattern == "*":
            places = {split: path for split, path in places.items() if role(split)}
        if any(map(role, places)):
            return {split: functools.partial(_read_places, folder, [path]) for split, path in places.items()}
    return {}


def in_one_folder(folder: Path) -> Readers:
    """No splits, as labelImg writes it: labels and classes.txt beside the images; or images/ and labels/."""
    place = folder / "images" if (folder / "images").is_dir() else folder
    return {"": functools.partial(_read_places, folder, [place])} if _pictures(place) else {}


LAYOUTS = (in_data_yaml, in_obj_data, in_split_folders, in_one_folder)


def _read_places(folder: Path, places: Sequence[Path]) -> Annotations:
    """The images of folders, or of lists, below `folder`, with the labels that belong to them."""
    pictures: list[Path] = []
    problems: list[Problem] = []
    for place in places:
        pictures += _pictures(place) if place.is_dir() else _listed(place, folder, problems)
    if not pictures:
        raise ConfigError(f"{places[0]}: no images there")

    def label_of(picture: Path) -> Path:
        """By the rule of these tools: images/ becomes labels/."""
        parts = list(picture.relative_to(folder).with_suffix(".txt").parts)
        if "images" in parts[:-1]:
            parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
        return folder.joinpath(*parts)

    expected = {label_of(picture) for picture in pictures}
    labels = [label_of(place / "x").parent for place in places if place.is_dir()]
    if not any(path.exists() for path in expected):
        beside = min(expected).parent
        raise ConfigError(f"{beside}: " + ("no labels there" if beside.is_dir() else "no such folder"))
    classes = _class_names(folder, labels)
    found = read_pictures(folder, pictures, label_of, classes)
    strays = [stray for one in labels for stray in find_strays(one, expected)]
    return dataclasses.replace(found, problems=(*problems, *found.problems, *strays))


def _pictures(place: Path) -> list[Path]:
    return listing.list_files(place)


def _listed(file: Path, folder: Path, problems: list[Problem]) -> list[Path]:
    """The images that the lines of a file name; those that are missing are reported."""
    found = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if line.strip():
            path = _locate(line.strip(), (folder, file.parent), str(file))
            if path is None or not path.is_file():
                text = f"no image {line.strip()}: left out"
                problems.append(Problem(str(file), f"line {number}", text, "image", "missing image"))
            else:
                found.append(path)
    return found


def _locate(text: str, bases: Sequence[Path], file: str) -> Path | None:
    """What a path in a file means, if it is there. Roboflow's begin with ../ and CVAT's with data/, beside which the
    folder is thought to lie. Raises ConfigError if it leads out of the folder otherwise."""
    text = text.replace("\\", "/")
    while text.startswith("../"):
        text = text.removeprefix("../")
    name = inside_folder(text, file)
    places = [base / one for base in bases for one in (name, name.removeprefix("data/"))]
    return next((place for place in places if place.exists()), None)


def _class_names(folder: Path, labels: Sequence[Path]) -> list[str]:
    """From data.yaml, obj.names or classes.txt."""
    path = _yaml_file(folder)
    if path and (names := _parse_yaml(path).get("names")):
        return _yaml_names(names, _parse_yaml(path), str(path))
    candidates = [folder / "obj.names", folder / "classes.txt", folder / "labels" / "classes.txt"]
    candidates += [one / "classes.txt" for one in labels]
    for candidate in candidates:
        if candidate.is_file():
            return read_names(candidate)
    raise ConfigError(
        f"{folder / 'classes.txt'}: no such file, nor data.yaml or obj.names with names of classes"
    )


def _yaml_file(folder: Path) -> Path | None:
    """data.yaml, or the only other yaml file that holds names."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".yaml", ".yml"))
    named = [path for path in files if path.stem == "data"]
    others = [path for path in files if re.search(r"^names\s*:", read_text(path), re.MULTILINE)]
    return next(iter(named or (others if len(others) == 1 else [])), None)


def _parse_yaml(path: Path) -> dict[str, Any]:
    """A mapping of texts, lists and mappings. Nothing else can come of it: no numbers, and no class "no" that is
    false."""
    try:
        about = yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not valid YAML: {str(error)[:200]}") from error
    if about is None:
        return {}
    if not isinstance(about, dict):
        raise ConfigError(f"{path}: not a description of a data set: no names with values")
    if about.get("kpt_shape"):
        raise ConfigError(f"{path}: labels of key points are not read")
    return about


def _yaml_names(names: Any, about: dict[str, Any], file: str) -> list[str]:
    """A list, or a mapping from every number from 0 on."""
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]
        if set(names) != set(numbers):
            raise ConfigError(f"{file}: names are not numbered from 0 to {len(names) - 1}")
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{file}: names are not a list of texts, nor one with numbers")
    if about.get("nc") not in (None, str(len(names))):
        raise ConfigError(f"{file}: nc is {about['nc']!r}, but there are {len(names)} names")
    return names


def _is_inside(path: Any) -> bool:
    """Whether a path may be one below the folder. A data set that was moved names where it was: this is passed over."""
    return isinstance(path, str) and path != "" and not path.startswith(("/", "~", "..")) and ":" not in path


def _read_line(
    line: str, place: str, num_classes: int, size: tuple[int, int], builder: ImageBuilder
) -> float | None:
    """Adds the object of a line; returns its class, or None if there is none."""
    words = line.split()
    count = len(words)
    if count not in (5, 6) and (count < 7 or count % 2 == 0):
        text = f"{count} values instead of class, cx, cy, width, height, or of class and a polygon"
        builder.skip(place, text, "not a box")
        return None
    try:
        index, *values = map(float, words)
    except ValueError:
        shown = line.strip()
        shown = shown if len(shown) < 80 else f"{shown[:80]}..."
        builder.skip(place, f"{shown!r} is not {'five' if count == 5 else count} numbers", "not a box")
        return None
    if not (index.is_integer() and 0 <= index < num_classes):
        builder.skip(place, f"unknown class {words[0]}", "unknown class")
        return index
    builder.add(_box(values, *size), int(index), place)
    return index


def _box(values: list[float], width: int, height: int) -> list[float]:
    """xyxy in pixels, of cx, cy, width, height and perhaps a confidence, or of the corners of a polygon."""
    if len(values) < 6:
        cx, cy, w, h = values[:4]
        return [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
    xs, ys = values[::2], values[1::2]
    if not all(map(math.isfinite, values)):
        return [math.nan] * 4
    return [min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height]


def _holds_labels(path: Path) -> bool:
    """Whether a text file may be one of labels; names of classes and notes often lie beside these."""
    try:
        words = read_text(path).split()[:5]
        return len([float(word) for word in words]) == 5
    except (ConfigError, ValueError):
        return False
