"""Pascal VOC's xml: one file per image, corners in whole pixels counted from 1, both inside the box.

In memory a box is continuous, so a file's xmin, ymin, xmax, ymax become xmin - 1, ymin - 1, xmax, ymax: the pixel
1..1 is the box from 0 to 1. IoUs of such boxes are those of the VOC devkit, with its "+ 1".
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from xml.parsers import expat

from cnnjax.config import ConfigError
from cnnjax.data.formats.annotations import Annotations, ImageBuilder, Problem, inside_folder, read_text

CORNERS = ("xmin", "ymin", "xmax", "ymax")
LINE = "line of the file"  # an attribute no file can have


def read_voc(folder: str | Path, split: str = "", classes: Sequence[str] = ()) -> Annotations:
    """Reads Annotations/*.xml of the images that ImageSets/Main/<split>.txt lists, or of all.

    `classes`: their names in order; without them, the sorted names of all xml files of the folder, so that
    every split has the same. A box with xmax = xmin, one pixel wide by VOC's rule, is taken for a mistake.

    Raises ConfigError for a missing folder or split and for xml with a DOCTYPE or entities, which could
    expand without end; other broken files are reported and their images left out.
    """
    root = Path(folder)
    files = sorted((root / "Annotations").rglob("*.xml"))
    if not files:
        raise ConfigError(f"{root / 'Annotations'}: no xml files there")
    names = [_relative_name(path, root) for path in files]
    if split:
        listed = root / "ImageSets" / "Main" / f"{split}.txt"
        names = [
            inside_folder(line.split()[0], str(listed))
            for line in read_text(listed).splitlines()
            if line.strip()
        ]
    if not classes:
        found = {obj.findtext("name", "").strip() for path in files for obj in _objects(path)}
        classes = sorted(found - {""})
    pictures = {
        _relative_name(path, root): path
        for path in sorted((root / "JPEGImages").rglob("*"))
        if path.is_file()
    }
    problems: list[Problem] = []
    images = []
    for name in names:
        path = root / "Annotations" / f"{name}.xml"
        if name not in pictures:
            problems.append(Problem(str(path), "", "JPEGImages has no such image: left out"))
            continue
        picture = pictures[name].relative_to(root / "JPEGImages").as_posix()
        builder = _read_image(path, picture, {c: i for i, c in enumerate(classes)}, problems)
        if builder is not None:
            images.append(builder.build())
    return Annotations(root / "JPEGImages", tuple(classes), tuple(images), tuple(problems))


def write_voc(annotations: Annotations, folder: str | Path, split: str = "all") -> None:
    """Writes Annotations/*.xml and ImageSets/Main/<split>.txt. VOC has no crowd regions: they become difficult."""
    root = Path(folder)
    names = [str(Path(image.path).with_suffix("").as_posix()) for image in annotations.images]
    if len(set(names)) < len(names):
        raise ConfigError("VOC names annotations by image, and two images differ in their suffix only")
    for name, image in zip(names, annotations.images, strict=True):
        tree = ElementTree.Element("annotation")
        ElementTree.SubElement(tree, "filename").text = Path(image.path).name
        size = ElementTree.SubElement(tree, "size")
        for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
            ElementTree.SubElement(size, tag).text = str(value)
        for box, index, ignored in zip(
            image.truth.boxes.tolist(), image.truth.classes, image.truth.ignored, strict=True
        ):
            obj = ElementTree.SubElement(tree, "object")
            ElementTree.SubElement(obj, "name").text = annotations.classes[index]
            ElementTree.SubElement(obj, "difficult").text = str(int(ignored))
            corners = ElementTree.SubElement(obj, "bndbox")
            for tag, value in zip(CORNERS, [box[0] + 1, box[1] + 1, box[2], box[3]], strict=True):
                ElementTree.SubElement(corners, tag).text = repr(int(value) if value == int(value) else value)
        path = root / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.indent(tree)
        path.write_text(ElementTree.tostring(tree, encoding="unicode") + "\n", encoding="utf-8")
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def parse_xml(path: Path) -> ElementTree.Element:
    """The xml tree of a file, its elements with the attribute LINE.

    Raises ConfigError for a DOCTYPE and expat.ExpatError for what is not xml.
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate("utf-8")  # as which it is read, whatever it declares

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, {**attributes, LINE: str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> None:
        raise ConfigError(f"{path}, line {parser.CurrentLineNumber}: DOCTYPE and entities are refused")

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.Parse(read_text(path).encode(), True)
    return builder.close()


def _read_image(
    path: Path, picture: str, classes: dict[str, int], problems: list[Problem]
) -> ImageBuilder | None:
    try:
        tree = parse_xml(path)
    except expat.ExpatError as error:
        text = f"not valid xml ({expat.ErrorString(error.code)}): image left out"
        problems.append(Problem(str(path), f"line {error.lineno}", text))
        return None
    width, height = (tree.findtext(f"size/{side}", "").strip() for side in ("width", "height"))
    if not all(re.fullmatch(r"0*[1-9]\d{0,8}", side) for side in (width, height)):
        shown = f"{width[:20]!r} x {height[:20]!r}"
        problems.append(Problem(str(path), "", f"image size {shown}: image left out"))
        return None
    builder = ImageBuilder(picture, int(width), int(height), str(path), problems)
    for obj in tree.findall("object"):
        place = f"line {obj.get(LINE)}"
        name = obj.findtext("name", "").strip()
        if name not in classes:
            builder.report(place, f"unknown class {name!r}: skipped" if name else "no class: skipped")
            continue
        texts = [obj.findtext(f"bndbox/{corner}", "") for corner in CORNERS]
        try:
            xmin, ymin, xmax, ymax = (float(text) for text in texts)
        except ValueError:
            builder.report(place, f"bndbox {texts} is not four numbers: skipped")
            continue
        if xmax == xmin or ymax == ymin:
            builder.report(place, f"box [{xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}] has no inside: skipped")
            continue
        difficult = obj.findtext("difficult", "0").strip() not in ("", "0")
        builder.add([xmin - 1, ymin - 1, xmax, ymax], classes[name], place, difficult=difficult)
    return builder


def _objects(path: Path) -> list[ElementTree.Element]:
    """Of a file that may be broken: whoever reads it for its boxes reports that."""
    try:
        return parse_xml(path).findall("object")
    except expat.ExpatError:
        return []


def _relative_name(path: Path, root: Path) -> str:
    """Annotations/a/b.xml and JPEGImages/a/b.jpg are both a/b."""
    return Path(*path.relative_to(root).parts[1:]).with_suffix("").as_posix()
