"""From `data.name` to what it names: SOURCES, a row for each kind of data, and tensorflow-datasets for all other names."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.config import DARKNET, LAID_OUT, SHORT_SIDE, ConfigError, Data
from cnnjax.data import buckets
from cnnjax.data.dataset import About, Dataset, concat, first, hold_out, mixed, of_each_class
from cnnjax.data.examples import Columns
from cnnjax.data.formats import coco, folders, gtsrb, layouts, packed, pixels, records, voc, wider, yolo
from cnnjax.data.formats.records import RawDataset
from cnnjax.data.synthetic import embedded
from cnnjax.data.tfds import builder as tfds_builder
from cnnjax.data.tfds import source as tfds_source


@dataclasses.dataclass(frozen=True)
class Source:
    """A kind of data. Its functions take the options of the data and their place: the PATH of a name KIND:PATH, else
    the folder of tensorflow-datasets."""

    read: Callable[[Data, Path], Dataset]  # limited and resized as the options say
    about: Callable[[Data, Path], About] = lambda data, place: About()  # without reading
    # The encoded images, for mode=prepare; None for what is in no files.
    files: Callable[[Data, Path], AbstractContextManager[RawDataset]] | None = None
    # The evaluated split and its classes alone, of so many channels and, if nothing of the data was trained on,
    # everything; gives None, or is None, where that saves nothing.
    evaluated: Callable[[Data, Path, int, bool], tuple[Mapping[str, Any], tuple[str, ...]] | None] | None = (
        None
    )
    # what follows the colon of its names: nothing, "folder", or "path", of which `read` tells itself
    takes: str = ""
    holds_out: bool = False  # whether `read` holds data.validation out itself
    streams: bool = False  # whether data.stream may leave the images on disk


def annotated(kind: Sequence[layouts.Layout]) -> Source:
    """A format of images with boxes, by how tools lay it out."""
    return Source(
        functools.partial(layouts.read, kind), files=functools.partial(layouts.files, kind), takes="folder"
    )


def _scenes(kind: str) -> Source:
    def read(data: Data, place: Path) -> Dataset:
        from cnnjax.data.synthetic import drawn  # imports jax, which other sources do without

        return drawn.read(kind, data, place)

    return Source(read, lambda data, place: About((64, 64, 3)))


def _with_points(name: str) -> Callable[[Data, Path], Dataset]:
    def read(data: Data, place: Path) -> Dataset:
        from cnnjax.data import point_sources  # imports jax, too

        return getattr(point_sources, name)(data, place)

    return read


def _with_builder(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a builder of tensorflow-datasets, as one of data.name."""

    def call(data: Data, place: Path, *more: Any) -> Any:
        return function(tfds_builder.builder(data.name, place, own_names()), data, place, *more)

    return call


SOURCES: dict[str, Source] = {
    "digits": Source(embedded.read_digits, lambda data, place: embedded.DIGITS),
    "synthetic": Source(embedded.read_synthetic, lambda data, place: embedded.SYNTHETIC),
    "folder": Source(folders.read, files=packed.files, evaluated=folders.read_evaluated, takes="folder"),
    "csv": Source(pixels.read, takes="folder"),
    "ahcd": Source(pixels.read_ahcd, takes="folder"),
    "gtsrb": Source(gtsrb.read, takes="folder", holds_out=True),
    "shapes": _scenes("shapes"),
    "digit_scenes": _scenes("digits"),
    "voc": annotated(voc.LAYOUTS),
    "coco": annotated(coco.LAYOUTS),
    "yolo": annotated(yolo.LAYOUTS),
    "wider": annotated(wider.LAYOUTS),
    "figures": Source(_with_points("read_figures"), lambda data, place: About((64, 64, 3))),
    "points": Source(_with_points("read_points"), takes="folder"),
    "records": Source(records.read, takes="path", streams=True),
}
TFDS = Source(
    _with_builder(tfds_source.read),
    _with_builder(tfds_source.about),
    _with_builder(tfds_source.files),
    _with_builder(tfds_source.read_evaluated),
    streams=True,
)


class Named(NamedTuple):
    """What a data.name, or a part of it, means."""

    name: str
    kind: str  # key of SOURCES; "" for a name of tensorflow-datasets
    source: Source
    path: Path | None  # of a name KIND:PATH

    def place(self, data_dir: str | None) -> Path:
        """What the functions of the source take as place."""
        return self.path or tfds_builder.data_folder(data_dir, "" if self.kind else self.name)


def parse(name: str) -> list[Named]:
    """What data.name means: names that "+" joins, each a row of SOURCES, with :PATH if it takes one, or a name of
    tensorflow-datasets.

    In a PATH there may be a "+", too: it begins another name only if a row of SOURCES follows.
    """
    found: list[Named] = []
    for piece in name.split("+"):
        one = _parse_one(piece)
        if found and found[-1].path and not one.kind:
            one = _parse_one(f"{found.pop().name}+{piece}")
        found.append(one)
    return found


def _parse_one(name: str) -> Named:
    kind, _, path = name.partition(":")
    source = SOURCES.get(kind)
    if source is None or bool(source.takes) != bool(path) or (not source.takes and name != kind):
        return Named(name, "", TFDS, None)
    return Named(name, kind, source, Path(path).expanduser() if path else None)


def own_names() -> tuple[str, ...]:
    """The names, or their patterns, that are not of tensorflow-datasets."""
    return tuple(f"{kind}:PATH" if source.takes else kind for kind, source in SOURCES.items())


# Training images of sets that are known before they are here; of others their files tell.
NUM_TRAINING = {
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), 60_000),
    **dict.fromkeys(("cifar10", "cifar100"), 50_000),
    "imagenet2012": 1_281_167,
}


def is_path(name: str) -> bool:
    """Whether `data.name` names files of the user's own, whose classes may change from one run to the next."""
    return any(named.path for named in parse(name))


def check_folder(name: str) -> None:
    """Raises ConfigError if `name` means a folder and it is not there."""
    for named in parse(name):
        if named.source.takes == "folder" and named.path and not named.path.is_dir():
            raise ConfigError(f"data.name={name!r}: {named.path} is not a folder")


def load(data: Data, data_dir: str | None = None) -> Dataset:
    """Reads the data that `data` names, resized, limited and split as it says.

    Names are those of SOURCES, or of tensorflow-datasets (with /config or :version if need be), or several joined by
    "+", which are trained and evaluated on together, their classes joined by name (dataset.concat). Of the second, what is
    prepared as array_record in `data_dir` is read from there; the archives of MNIST, Fashion-MNIST, KMNIST, EMNIST,
    CIFAR-10 and CIFAR-100 are found or downloaded; all others must be prepared first. The order is: the first
    `data.limit` of each split, resizing, of the training split the first `data.per_class` of each class, then
    `data.validation` held out of what training examples there are.

    Args:
      data_dir: None means $TFDS_DATA_DIR, or ~/tensorflow_datasets.
    Raises:
      ConfigError: unknown name, missing or damaged data, no network, images that do not fit together.
    """
    _check_resize(data)
    parts = parse(data.name)
    for named in parts:
        if data.stream and not named.source.streams:
            raise ConfigError(
                f"data.stream reads what --mode=prepare wrote, data.name=records:PATH, or tensorflow-datasets, not {named.name!r}"
            )
        if data.validation and named.source.holds_out and len(parts) > 1:
            raise ConfigError(f"data.validation of {named.name!r} is by whole tracks, not beside other data")
    read = [one.source.read(dataclasses.replace(data, name=one.name), one.place(data_dir)) for one in parts]
    dataset = read[0] if len(read) == 1 else first(concat(data.name, read), data.limit)
    dataset = of_each_class(dataset, data.per_class) if data.per_class else dataset
    held = all(one.source.holds_out for one in parts)
    return hold_out(dataset, data.validation) if data.validation and not held else dataset


def _check_resize(data: Data) -> None:
    """Raises ConfigError if images would have to be resized in a way that their source has not."""
    for named in parse(data.name):
        ways = {**dict.fromkeys(DARKNET, LAID_OUT), SHORT_SIDE: (*LAID_OUT, "records")}
        if named.kind not in (kinds := ways.get(data.resize, (named.kind,))):
            raise ConfigError(f"data.resize={data.resize} is for {', '.join(kinds)}, not for {named.name!r}")


def load_evaluated(
    data: Data, data_dir: str | None, channels: int, everything: bool
) -> tuple[Columns, tuple[str, ...]]:
    """The split that `load` gives for evaluation and the names of its classes; other splits are read only if need be.

    Args:
      channels: of the images of a folder, which are grey or colour as the network wants.
      everything: the network has seen none of this data, so nothing has to be held out of a folder that has no
        test split, nor for `data.validation`.
    """
    _check_resize(data)
    if everything:
        data = dataclasses.replace(data, validation=0.0)
    parts = parse(data.name)
    if len(parts) > 1 and not data.validation:
        named_alone = [dataclasses.replace(data, name=one.name) for one in parts]
        found = [load_evaluated(one, data_dir, channels, everything)[0] for one in named_alone]
        split = mixed(data.name, found)
        return split.take(np.arange(min(len(split), data.limit or len(split)))), split.classes
    named = parts[0]
    if named.source.evaluated and not data.validation:
        alone = named.source.evaluated(data, named.place(data_dir), channels, everything)
        if alone:
            return Columns(*alone), alone[1]
    dataset = load(data, data_dir)
    return dataset.test, dataset.classes


def class_names(data: Data, data_dir: str | None, count: int) -> tuple[str, ...]:
    """The names of the classes that `data` would have, without reading it; numbers where they are not known."""
    names = _about(data, data_dir).classes
    return names if len(names) == count else tuple(map(str, range(count)))


def labelled_training(data: Data, data_dir: str | None) -> tuple[int, tuple[str, ...]]:
    """The number of training images, and the classes, that `data` of tensorflow-datasets would have, without reading it.

    Raises ConfigError where only the data could tell, and for data without one label per image.
    """
    folder = tfds_builder.data_folder(data_dir, data.name)
    builder = tfds_builder.builder(data.name, folder, own_names())
    features = builder.info.features
    label: Any = dict(features.items()).get("label") if hasattr(features, "items") else None
    if not hasattr(label, "num_classes"):
        raise ConfigError(f"data.name={data.name!r} has no label for each image")
    split = builder.info.splits.get("train")
    count = NUM_TRAINING.get(builder.name) or getattr(split, "num_examples", 0)
    if not count:
        raise ConfigError(tfds_builder.not_prepared(data.name, folder, builder))
    count = min(count, data.limit or count)
    held = max(1, round(data.validation * count)) if data.validation else 0
    return count - held, tuple(label.names)


def image_shape(data: Data, data_dir: str | None) -> tuple[int, int, int]:
    """Height, width and channels of the images that `data` would have, without reading it.

    Raises ConfigError where only the data could tell.
    """
    native = _about(data, data_dir).shape
    height = data.image_size or native[0]
    width = (data.image_width or data.image_size) or native[1]
    if not height or not width:
        raise ConfigError(f"the images of {data.name} have no size in common: give --data.image_size")
    if data.resize == SHORT_SIDE:
        height, width = buckets.canvas((height, width))
    return height, width, native[2]


def _about(data: Data, data_dir: str | None) -> About:
    found = [
        one.source.about(dataclasses.replace(data, name=one.name), one.place(data_dir))
        for one in parse(data.name)
    ]
    known = all(one.classes for one in found)
    return About(found[0].shape, tuple(dict.fromkeys(name for one in found if known for name in one.classes)))
