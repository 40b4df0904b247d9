"""Pascal VOC's xml: one file per image, corners in whole pixels counted from 1, both inside the box.

In memory a box is continuous, so a file's xmin, ymin, xmax, ymax become xmin - 1, ymin - 1, xmax, ymax: the pixel
1..1 is the box from 0 to 1. IoUs of such boxes are those of the VOC devkit, with its "+ 1".
"""

import functools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from xml.parsers import expat

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
    files = _xml_files(root / "Annotations")
    names = list(files)
    if split:
        listed = root / "ImageSets" / "Main" / f"{split}.txt"
        lines = [line.strip() for line in read_text(listed).splitlines()]
        names = [_listed_name(line, files, str(listed)) for line in lines if line]
    return _read(root / "Annotations", root / "JPEGImages", names, classes or _class_names(files.values()))


def _read(annotations: Path, pictures: Path, names: Iterable[str], classes: Sequence[str]) -> Annotations:
    """The images of these names below `pictures`, each with the xml of its name below `annotations`."""
    found = {_name(path, pictures): path for path in listing.list_files(pictures)}
    problems: list[Problem] = []
    builders = []
    for name in names:
        path = annotations / f"{name}.xml"
        if name not in found:
            text = f"{pictures.name} has no such image: left out"
            problems.append(Problem(str(path), "", text, "image", "missing image"))
            continue
        if not path.exists():
            problems.append(Problem(str(path), "", "no such file: image left out", "image", "missing xml"))
            continue
        builder = _read_image(path, found[name], pictures, {c: i for i, c in enumerate(classes)}, problems)
        if builder is not None:
            builders.append(builder)
    return Annotations(pictures, tuple(classes), build_all(builders), tuple(problems))


def with_lists(folder: Path) -> Readers:
    """The devkit's layout, which CVAT writes too: Annotations/, JPEGImages/ and ImageSets/Main/<split>.txt."""
    names = sorted(path.stem for path in (folder / "ImageSets" / "Main").glob("*.txt"))
    # Lists such as cat_train.txt, of the images with a class, are none of a split.
    whole = [name for name in names if not any(name.endswith(f"_{other}") for other in names)]
    return {name: functools.partial(read_voc, folder, name) for name in whole}


def in_split_folders(folder: Path) -> Readers:
    """A folder for each split: Roboflow's xml beside the images, or what `in_one_folder` reads in each."""
    parts = {path.name: _pair(path) for path in sorted(folder.iterdir()) if path.is_dir() and role(path.name)}
    return _readers({name: pair for name, pair in parts.items() if pair})


def in_one_folder(folder: Path) -> Readers:
    """No splits, as labelImg writes it: xml beside the images, or in a folder of their own."""
    pair = _pair(folder)
    return _readers({"": pair} if pair else {})


LAYOUTS = (with_lists, in_split_folders, in_one_folder)


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """The folders of xml files and of images below a folder, or itself for both."""
    pairs = (("Annotations", "JPEGImages"), ("Annotations", "images"), ("annotations", "images"), (".", "."))
    for one, other in pairs:
        xml = folder / one
        if (folder / other).is_dir() and xml.is_dir() and listing.list_files(xml, {".xml"}):
            return xml, folder / other
    return None


def _readers(pairs: dict[str, tuple[Path, Path]]) -> Readers:
    """Of splits that have their xml and images in these folders, and the same classes."""
    files = {split: _xml_files(xml) for split, (xml, _) in pairs.items()}

    @functools.cache
    def classes() -> list[str]:
        return _class_names(path for split in files.values() for path in split.values())

    def reader(split: str) -> Callable[[], Annotations]:
        return lambda: _read(*pairs[split], files[split], classes())

    return {split: reader(split) for split in pairs}


def _xml_files(annotations: Path) -> dict[str, Path]:
    """By their names below the folder."""
    files = {_name(path, annotations): path for path in listing.list_files(annotations, {".xml"})}
    if not files:
        raise ConfigError(f"{annotations}: no xml files there")
    return files


def _class_names(files: Iterable[Path]) -> list[str]:
    found = {obj.findtext("name", "").strip() for path in files for obj in _objects(path)}
    return sorted(found - {""})


def _listed_name(line: str, files: Mapping[str, Path], file: str) -> str:
    """The image that a line of a list names: all of it, or what stands before the flag of a class's list."""
    flagged = re.fullmatch(r"(.*\S)\s+(-1|0|1)", line)
    if flagged and line not in files:
        line = flagged[1]
    return inside_folder(line, file)


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
    path: Path, picture: Path, root: Path, classes: dict[str, int], problems: list[Problem]
) -> ImageBuilder | None:
    try:
        tree = parse_xml(path)
    except expat.ExpatError as error:
        text = f"not valid xml ({expat.ErrorString(error.code)}): image left out"
        problems.append(Problem(str(path), f"line {error.lineno}", text, "image", "not valid xml"))
        return None
    width, height = (tree.findtext(f"size/{side}", "").strip() for side in ("width", "height"))
    if width == height == "0":  # labelImg's where it did not know
        width, height = map(str, reversed(images.size(picture, str(picture))))
    if not all(re.fullmatch(r"0*[1-9]\d{0,8}", side) for side in (width, height)):
        shown = f"{width[:20]!r} x {height[:20]!r}"
        text = f"image size {shown}: image left out"
        problems.append(Problem(str(path), "", text, "image", "no image size"))
        return None
    name = picture.relative_to(root).as_posix()
    builder = ImageBuilder(name, int(width), int(height), str(path), problems)
    for obj in tree.findall("object"):
        place = f"line {obj.get(LINE)}"
        name = obj.findtext("name", "").strip()
        if name not in classes:
            why = "unknown class" if name else "no class"
            builder.skip(place, f"{why} {name!r}" if name else why, why)
            continue
        texts = [obj.findtext(f"bndbox/{corner}", "") for corner in CORNERS]
        try:
            xmin, ymin, xmax, ymax = (float(text) for text in texts)
        except ValueError:
            builder.skip(place, f"bndbox {texts} is not four numbers", "not a box")
            continue
        if xmax == xmin or ymax == ymin:
            shown = f"[{xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}]"
            builder.skip(place, f"box {shown} has no inside", "no inside")
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


def _name(path: Path, root: Path) -> str:
    """Annotations/a/b.xml and JPEGImages/a/b.jpg are both a/b."""
    return path.relative_to(root).with_suffix("").as_posix()
