"""From `data.name` to a Dataset in memory: embedded sets, folders of images, tensorflow-datasets."""

import dataclasses
from pathlib import Path
from typing import Any

from cnnjax.config import ConfigError, Data
from cnnjax.data import images
from cnnjax.data.dataset import Dataset, Split, first, hold_out
from cnnjax.data.formats import archives, folders, records
from cnnjax.data.synthetic import embedded
from cnnjax.data.tfds import builder as tfds_builder
from cnnjax.data.tfds import download as tfds_download
from cnnjax.data.tfds import read as prepared

OWN_NAMES = (
    "digits",
    "synthetic",
    "folder:PATH",
    "shapes",
    "digit_scenes",
    "voc:PATH",
    "coco:PATH",
    "yolo:PATH",
    "records:PATH",
)
SCENES = ("shapes", "digit_scenes")
LAYOUTS = ("voc", "coco", "yolo")
MNIST_LIKE = ("mnist", "fashion_mnist", "kmnist")
CIFAR = ("cifar10", "cifar100")


def is_path(name: str) -> bool:
    """Whether `data.name` names files of the user's own, whose classes may change from one run to the next."""
    return name.partition(":")[0] in (*LAYOUTS, "folder", "records")


def folder_of(name: str) -> Path | None:
    """The file or folder that a name such as folder:PATH or records:PATH means; None of names that mean none."""
    path = name.partition(":")[2]
    return Path(path).expanduser() if path and is_path(name) else None


def check_folder(name: str) -> None:
    """Raises ConfigError if `name` means a folder and it is not there; of records: their reader tells it first."""
    folder = folder_of(name)
    if folder is not None and not name.startswith("records:") and not folder.is_dir():
        raise ConfigError(f"data.name={name!r}: {folder} is not a folder")


def load(data: Data, data_dir: str | None = None) -> Dataset:
    """Reads the data that `data` names, resized, limited and split as it says.

    Names: digits, synthetic, folder:PATH, records:PATH (which may be streamed), those of detection sources, or a
    name of tensorflow-datasets (with /config or :version if
    need be). Of the latter, what is prepared as array_record in `data_dir` is read from there; the archives
    of MNIST, Fashion-MNIST, KMNIST, EMNIST, CIFAR-10 and CIFAR-100 are found or downloaded; all others must
    be prepared first. The order is: the first `data.limit` of each split, resizing, then `data.validation`
    held out of what training examples there are.

    Args:
      data_dir: None means $TFDS_DATA_DIR, or ~/tensorflow_datasets.
    Raises:
      ConfigError: unknown name, missing or damaged data, no network, images that do not fit together.
    """
    if data.resize.startswith("darknet") and data.name.partition(":")[0] not in LAYOUTS:
        raise ConfigError(f"data.resize={data.resize} is for {', '.join(LAYOUTS)}, not for {data.name!r}")
    if data.name.startswith("records:") and len(data.name) > len("records:"):
        dataset = records.read(Path(data.name.removeprefix("records:")).expanduser(), data)
    elif data.stream:
        raise ConfigError(
            f"data.stream reads what --mode=prepare wrote, data.name=records:PATH, not {data.name!r}"
        )
    elif data.name == "digits":
        dataset = _arrays(embedded.digits(), data)
    elif data.name == "synthetic":
        dataset = first(embedded.synthetic(data.image_size), data.limit)
    elif data.name in SCENES or (data.name.partition(":")[0] in LAYOUTS and data.name.partition(":")[2]):
        from cnnjax.data import detection_sources  # imports jax, which other sources do without

        read = detection_sources.read_scenes if data.name in SCENES else detection_sources.read_annotated
        dataset = read(data)
    elif data.name.startswith("folder:") and len(data.name) > len("folder:"):
        dataset = folders.read(Path(data.name.removeprefix("folder:")).expanduser(), data)
    else:
        dataset = _tfds(data, tfds_builder.data_folder(data_dir))
    return hold_out(dataset, data.validation) if data.validation else dataset


def load_evaluated(
    data: Data, data_dir: str | None, channels: int, everything: bool
) -> tuple[Split, tuple[str, ...]]:
    """The split that `load` gives for evaluation and the names of its classes; other splits are read only if need be.

    Args:
      channels: of the images of a folder, which are grey or colour as the network wants.
      everything: the network has seen none of this data, so nothing has to be held out of a folder that has no
        test split, nor for `data.validation`.
    """
    if everything:
        data = dataclasses.replace(data, validation=0.0)
    if not data.validation:
        if data.name.startswith("folder:") and len(data.name) > len("folder:"):
            folder = Path(data.name.removeprefix("folder:")).expanduser()
            return folders.read_evaluated(folder, data, channels, everything)
        if data.name not in OWN_NAMES and not is_path(data.name):
            folder = tfds_builder.data_folder(data_dir)
            builder = tfds_builder.builder(data.name, folder, OWN_NAMES)
            if builder.name != "emnist" and prepared.is_prepared(builder):
                found = prepared.read_evaluated(builder, data, folder)
                if found:
                    return found
    dataset = load(data, data_dir)
    return dataset.test, dataset.classes


def class_names(data: Data, data_dir: str | None, count: int) -> tuple[str, ...]:
    """The names of the classes that `data` would have, without reading it; numbers where they are not known."""
    if data.name not in ("digits", "synthetic", *SCENES) and ":" not in data.name:
        names = getattr(_features(data, data_dir).get("label"), "names", None) or ()
        if len(names) == count:
            return tuple(names)
    return tuple(map(str, range(count)))


def image_shape(data: Data, data_dir: str | None) -> tuple[int, int, int]:
    """Height, width and channels of the images that `data` would have, without reading it.

    Raises ConfigError where only the data could tell.
    """
    native: Any = {
        "digits": (8, 8, 1),
        "synthetic": (32, 32, 3),
        "shapes": (64, 64, 3),
        "digit_scenes": (64, 64, 3),
    }.get(data.name, (0, 0, 3))
    if native[0] == 0 and ":" not in data.name:
        native = getattr(_features(data, data_dir).get("image"), "shape", None) or native
    height = data.image_size or native[0]
    width = (data.image_width or data.image_size) or native[1]
    if not height or not width:
        raise ConfigError(f"the images of {data.name} have no size in common: give --data.image_size")
    return height, width, native[2] or 3


def _features(data: Data, data_dir: str | None) -> dict[str, Any]:
    """What tensorflow-datasets says of the entries of its dataset; {} where that is no dictionary."""
    builder = tfds_builder.builder(data.name, tfds_builder.data_folder(data_dir), OWN_NAMES)
    features = builder.info.features
    return dict(features.items()) if hasattr(features, "items") else {}


def _tfds(data: Data, data_dir: Path) -> Dataset:
    builder = tfds_builder.builder(data.name, data_dir, OWN_NAMES)
    if prepared.is_prepared(builder):
        dataset = prepared.read(builder, data, data_dir)
    elif builder.name in (*MNIST_LIKE, "emnist", *CIFAR):
        dataset = _arrays(_published(builder, data.name, data_dir), data)
    else:
        raise ConfigError(tfds_builder.not_prepared(data.name, data_dir, builder))
    return _upright(dataset) if builder.name == "emnist" else dataset


def _published(builder: Any, name: str, data_dir: Path) -> Dataset:
    """The dataset from the archives of its authors."""
    paths = tfds_download.fetch(builder, data_dir)
    classes = tuple(builder.info.features["label"].names)
    note = f"{builder.info.full_name}, its authors' archives"
    if builder.name in MNIST_LIKE:
        train, test = archives.read_mnist(paths)
        return Dataset(name, train, test, classes, note)
    (path,) = paths.values()
    if builder.name == "emnist":
        config = builder.builder_config
        train, test = archives.read_emnist(path, config.name, config.train_examples, config.test_examples)
    else:
        train, test, classes = archives.read_cifar(path)
    return Dataset(name, train, test, classes, note)


def _arrays(dataset: Dataset, data: Data) -> Dataset:
    """Limits, then resizes images that are in memory already."""
    dataset = first(dataset, data.limit)
    train, test = (
        split | {"image": images.resize_all(split["image"], data)} for split in (dataset.train, dataset.test)
    )
    return dataclasses.replace(dataset, train=train, test=test)


def _upright(dataset: Dataset) -> Dataset:
    """EMNIST's files, and tensorflow-datasets after them, hold every image mirrored along its diagonal."""
    train, test = (
        split | {"image": split["image"].swapaxes(1, 2).copy()} for split in (dataset.train, dataset.test)
    )
    return dataclasses.replace(dataset, train=train, test=test)
