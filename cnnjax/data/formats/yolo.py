"""YOLO's txt: one file per image, a line "class cx cy width height" per object, in shares of the image."""

from collections.abc import Sequence
from pathlib import Path

from cnnjax.config import ConfigError
from cnnjax.data import images
from cnnjax.data.formats.annotations import Annotations, ImageBuilder, Problem, read_text

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def read_yolo(
    image_folder: str | Path, label_folder: str | Path, classes: Sequence[str] | str | Path
) -> Annotations:
    """Reads the label file of every image: the same path below `label_folder`, ending in .txt.

    An image without a label file, or with an empty one, is a negative example. `classes`: names in order, or
    a file with a name per line.

    Raises ConfigError for missing folders or files; lines are reported (annotations.py).
    """
    root, labels = Path(image_folder), Path(label_folder)
    if isinstance(classes, str | Path):
        lines = read_text(Path(classes)).splitlines()
        names, classes = classes, [line.strip() for line in lines if line.strip()]
        if not classes:
            raise ConfigError(f"{names}: holds no class names")
    pictures = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise ConfigError(f"{root}: no images there")
    if not labels.is_dir():
        raise ConfigError(f"{labels}: no such folder")
    problems: list[Problem] = []
    annotated = []
    expected = set()
    for picture in pictures:
        name = picture.relative_to(root)
        path = labels / name.with_suffix(".txt")
        expected.add(path)
        height, width = images.size(picture, str(picture))
        builder = ImageBuilder(name.as_posix(), width, height, str(path), problems)
        for number, line in enumerate(read_text(path).splitlines() if path.exists() else [], start=1):
            if line.strip():
                _read_line(line, f"line {number}", len(classes), (width, height), builder)
        annotated.append(builder.build())
    for path in sorted(set(labels.rglob("*.txt")) - expected):
        problems.append(Problem(str(path), "", "belongs to no image: left out"))
    return Annotations(root, tuple(classes), tuple(annotated), tuple(problems))


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


def _read_line(line: str, place: str, num_classes: int, size: tuple[int, int], builder: ImageBuilder) -> None:
    words = line.split()
    if len(words) != 5:
        return builder.report(place, f"{len(words)} values instead of class, cx, cy, width, height: skipped")
    try:
        index = float(words[0])
        cx, cy, w, h = (float(word) for word in words[1:])
    except ValueError:
        return builder.report(place, f"{line.strip()!r} is not five numbers: skipped")
    if not (index.is_integer() and 0 <= index < num_classes):
        return builder.report(place, f"unknown class {words[0]}: skipped")
    width, height = size
    box = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
    builder.add(box, int(index), place)
