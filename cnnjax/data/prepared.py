"""Any image classification dataset that tensorflow-datasets has prepared as array_record, read without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cnnjax.config import ConfigError, Data
from cnnjax.data import cache, images
from cnnjax.data.dataset import Dataset, Split, hold_out, join
from cnnjax.data.tfds_builder import quiet

_EVALUATED = ("test", "validation")  # the first of these that is there and has labels
_TEST_SHARE = 0.2  # of the training split, where there is neither
_SMALL_FILE = 16 * 1024  # bytes


def is_prepared(builder: Any) -> bool:
    """Whether the builder's data lies in its folder in a format that needs no TensorFlow."""
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    return "train" in builder.info.splits and "array_record" in formats


def read(builder: Any, data: Data, data_dir: Path) -> Dataset:
    """The first `data.limit` (0: all) examples of the training and the test or validation split, resized.

    If there is neither test nor validation split with labels, a stratified fifth of the training split is
    evaluated. Decoded arrays are cached for the same configuration of the same files.

    Raises:
      ConfigError: not a dataset of images with one label each, damaged files, or images of several sizes
        and no data.image_size.
    """
    info = builder.info
    channels = check_features(info)
    try:
        sources, evaluated = open_sources(builder)
        arrays = _decode_or_load(sources, data, channels, info, cache.cache_folder(data_dir))
    except RuntimeError as error:  # what the reader of array_record raises, with checksums of its own
        raise ConfigError(f"{info.data_dir}: damaged: {error}") from error
    train, test = (
        {key: arrays[f"{name}_{key}"] for key in ("image", "label")}
        for name in ("train", evaluated or "train")
    )
    note = f"{info.full_name} as prepared in {info.data_dir}"
    if evaluated == "validation":
        note = join(note, "evaluated on its validation split")
    if data.limit:
        note = join(note, f"first {data.limit:,} examples of each split")
    dataset = Dataset(data.name, train, test, tuple(info.features["label"].names), note)
    return dataset if evaluated else hold_out(dataset, _TEST_SHARE)


def read_evaluated(builder: Any, data: Data, data_dir: Path) -> tuple[Split, tuple[str, ...]] | None:
    """The test split of `read` and its classes, without decoding the training split; None if it is a part of that.

    Raises ConfigError as `read` does.
    """
    info = builder.info
    channels = check_features(info)
    try:
        sources, name = open_sources(builder)
        if not name:
            return None
        one = {name: sources[name]}
        arrays = _decode_or_load(one, data, channels, info, cache.cache_folder(data_dir))
    except RuntimeError as error:
        raise ConfigError(f"{info.data_dir}: damaged: {error}") from error
    split = {key: arrays[f"{name}_{key}"] for key in ("image", "label")}
    return split, tuple(info.features["label"].names)


def how_to_prepare(builder: Any, data_dir: Path) -> str:
    """What to type, once, in an environment of its own that has TensorFlow."""
    name = f"{builder.name}/{builder.builder_config.name}" if builder.builder_config else builder.name
    build = f"tfds build {name} --file_format=array_record --data_dir={data_dir}"
    return f"pip install tensorflow tensorflow-datasets && {build}"


def open_sources(builder: Any) -> tuple[dict[str, Any], str]:
    """Random access to the encoded records of each split to read, and the name of the one to evaluate."""
    with quiet():
        import tensorflow_datasets as tfds

        decoders = {"image": tfds.decode.SkipDecoding()}
        sources = {}
        for name in ("train", *_EVALUATED):
            if name not in builder.info.splits:
                continue
            source = builder.as_data_source(name, decoders=decoders)
            if name == "train":
                sources[name] = source
            elif len(source) and source[0]["label"] >= 0:  # labels that are kept secret are -1
                return sources | {name: source}, name
    return sources, ""


def _decode_or_load(
    sources: dict[str, Any], data: Data, channels: int, info: Any, cache_folder: Path
) -> cache.Arrays:
    """Arrays "train_image", "train_label" and so on."""
    counts = {name: min(data.limit or len(source), len(source)) for name, source in sources.items()}

    def build() -> cache.Arrays:
        logging.info("decoding %s: once, then it is cached", info.full_name)
        splits = {name: _decode(sources[name], count, data, channels, name) for name, count in counts.items()}
        return {f"{name}_{key}": values for name, split in splits.items() for key, values in split.items()}

    files = [(path.name, path.stat()) for path in Path(info.data_dir).iterdir()]
    key = {
        "counts": counts,
        "resize": [data.image_size, data.resize, data.resize_short] if data.image_size else None,
        "files": sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in files),
    }
    return cache.load_or_build(cache_folder, info.full_name, key, build)


def _decode(source: Any, count: int, data: Data, channels: int, name: str) -> Split:
    labels = np.empty(count, np.int32)

    def read_one(index: int) -> np.ndarray:
        record = source[index]
        labels[index] = record["label"]
        return images.decode(record["image"], f"image {index} of {name}", data, channels)

    workers = 1 if len(source[0]["image"]) < _SMALL_FILE else None
    return {"image": images.stack(read_one, count, f"decoding {name}", workers), "label": labels}


def check_features(info: Any) -> int:
    """The number of channels to decode to."""
    import tensorflow_datasets as tfds

    features = dict(info.features.items()) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise ConfigError(
            f"data.name={info.full_name!r} is not a dataset of images with one label each: it has {', '.join(sorted(features))}"
        )
    if image.np_dtype != np.uint8:
        raise ConfigError(f"data.name={info.full_name!r} has {image.np_dtype} images, not uint8")
    return 1 if image.shape[-1] == 1 else 3
