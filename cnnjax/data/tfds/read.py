"""Images with one label each, or with boxes, that tensorflow-datasets has prepared as array_record; without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cnnjax.config import ConfigError, Data
from cnnjax.data import cache, images
from cnnjax.data.dataset import Dataset, Split, hold_out, join
from cnnjax.data.examples import Columns
from cnnjax.data.formats.annotations import Problem, tell_problems
from cnnjax.data.splits import TEST_SHARE
from cnnjax.data.tfds import boxes as prepared_boxes
from cnnjax.data.tfds import streamed
from cnnjax.data.tfds.boxes import Boxes, boxes_of
from cnnjax.data.tfds.builder import quiet

_EVALUATED = ("test", "validation")  # the first of these that is there and has labels
_LOOKED_AT = 100  # images, of which one at least has boxes if a split is annotated
_SMALL_FILE = 16 * 1024  # bytes


def is_prepared(builder: Any) -> bool:
    """Whether the builder's data lies in its folder in a format that needs no TensorFlow."""
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    return "train" in builder.info.splits and "array_record" in formats


def read(builder: Any, data: Data, data_dir: Path) -> Dataset:
    """The first `data.limit` (0: all) examples of the training and the test or validation split, resized.

    If there is neither test nor validation split with labels, a stratified fifth of the training split is
    evaluated. Images with boxes are letterboxed, and data.split may name another split to evaluate. Decoded arrays
    are cached for the same configuration of the same files.

    Raises:
      ConfigError: not a dataset of images with one label each or with boxes, damaged files, or images of several
        sizes and no data.image_size.
    """
    info, boxes = builder.info, boxes_of(builder.info)
    if data.stream and boxes:
        raise ConfigError(
            f"data.stream of data.name={data.name!r}, which has boxes: --mode=prepare first, then data.name=records:PATH"
        )
    read_splits, evaluated = _read_splits(builder, data, data_dir, boxes)
    note = f"{info.full_name} as prepared in {info.data_dir}"
    if evaluated and evaluated != "test":
        note = join(note, f"evaluated on its {evaluated} split")
    if data.limit:
        note = join(note, f"first {data.limit:,} examples of each split")
    note = join(note, _tell_problems(read_splits))
    splits = {name: Columns(split) for name, split in read_splits.items()}
    train, test = splits["train"], splits[evaluated or "train"]
    classes = boxes.classes if boxes else tuple(info.features["label"].names)
    validation = test if evaluated == "validation" else splits.get("validation")
    dataset = Dataset(data.name, train, test, classes, note, validation)
    return dataset if evaluated else hold_out(dataset, TEST_SHARE)


def read_evaluated(builder: Any, data: Data, data_dir: Path) -> tuple[Split, tuple[str, ...]] | None:
    """The test split of `read` and its classes, without decoding the training split; None if it is a part of that.

    Raises ConfigError as `read` does.
    """
    boxes = boxes_of(builder.info)
    splits, name = _read_splits(builder, data, data_dir, boxes, evaluated_only=True)
    if not name:
        return None
    _tell_problems({name: splits[name]})
    return splits[name], boxes.classes if boxes else tuple(builder.info.features["label"].names)


def _tell_problems(splits: dict[str, Split]) -> str:
    """Takes the problems out of the splits, of which there are none without boxes; what a note says of them."""
    problems = []
    for split in splits.values():
        for file, place, text, lost, why, count in np.asarray(split.pop("problems", ())).tolist():
            problems.append(Problem(file, place, text, lost, why, int(count)))
    if not problems:
        return ""
    boxes = list(splits.values())
    objects = sum(int((split["valid"] | split["ignored"]).sum()) for split in boxes)
    return tell_problems(problems, objects, sum(len(split["image"]) for split in boxes))


def _read_splits(
    builder: Any, data: Data, data_dir: Path, boxes: Boxes | None, evaluated_only: bool = False
) -> tuple[dict[str, Split], str]:
    """The arrays of each split by its name, and the name of the one to evaluate."""
    info = builder.info
    channels = 3 if boxes else check_features(info)
    try:
        sources, evaluated = open_sources(builder, boxes, data.split)
        if evaluated_only:
            sources = {evaluated: sources[evaluated]} if evaluated else {}
        if data.stream:
            folder = cache.cache_folder(data_dir)
            return streamed.splits(sources, info, data, channels, folder), evaluated
        arrays = _decode_or_load(sources, data, channels, info, cache.cache_folder(data_dir), boxes)
    except RuntimeError as error:  # what the reader of array_record raises, with checksums of its own
        raise ConfigError(f"{info.data_dir}: damaged: {error}") from error

    def of(name: str) -> Split:
        start = f"{name}_"
        return {key.removeprefix(start): values for key, values in arrays.items() if key.startswith(start)}

    return {name: of(name) for name in sources}, evaluated


def open_sources(builder: Any, boxes: Boxes | None = None, wanted: str = "") -> tuple[dict[str, Any], str]:
    """Random access to the encoded records of each split to read, and the name of the one to evaluate.

    With boxes, `wanted` may name it, and the test split comes with the validation split. Raises ConfigError if there
    is no such split.
    """
    if boxes and wanted and wanted not in builder.info.splits:
        raise ConfigError(f"data.split={wanted!r}: {boxes.name} has {', '.join(builder.info.splits)}")
    candidates = (wanted,) if boxes and wanted else _EVALUATED
    with quiet():
        import tensorflow_datasets as tfds

        decoders = {"image": tfds.decode.SkipDecoding()}
        sources = {"train": builder.as_data_source("train", decoders=decoders)}
        evaluated = ""
        for name in candidates:
            if name in builder.info.splits:
                source = builder.as_data_source(name, decoders=decoders)
                if name == wanted or (len(source) and _is_annotated(source, boxes)):
                    sources[name] = source
                    evaluated = evaluated or name
                    if not boxes:
                        break
    return sources, evaluated


def _is_annotated(source: Any, boxes: Boxes | None) -> bool:
    """Whether what is to be found is in the records: contests keep that of their test split secret."""
    if boxes is None:
        return source[0]["label"] >= 0
    return any(len(source[i][boxes.objects]["bbox"]) for i in range(min(_LOOKED_AT, len(source))))


def _decode_or_load(
    sources: dict[str, Any],
    data: Data,
    channels: int,
    info: Any,
    cache_folder: Path,
    boxes: Boxes | None,
) -> cache.Arrays:
    """Arrays "train_image", "train_label" and so on."""
    if not sources:
        return {}
    counts = {name: min(data.limit or len(source), len(source)) for name, source in sources.items()}

    def build() -> cache.Arrays:
        logging.info("decoding %s: once, then it is cached", info.full_name)
        splits = {
            name: prepared_boxes.decode(sources[name], count, data, boxes, name)
            if boxes
            else _decode(sources[name], count, data, channels, name)
            for name, count in counts.items()
        }
        return {f"{name}_{key}": values for name, split in splits.items() for key, values in split.items()}

    files = [(path.name, path.stat()) for path in Path(info.data_dir).iterdir()]
    resize: list[Any] = [
        data.image_size,
        "padded" if data.resize == "letterbox" else data.resize,
        data.resize_short,
        *([] if data.interpolation == "bilinear" else [data.interpolation]),
    ]
    key: dict[str, Any] = {
        "counts": counts,
        "resize": [data.image_size, data.image_width] if boxes else resize if data.image_size else None,
        "files": sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in files),
    }
    if boxes:
        key["problems"] = "counted rows"  # what the arrays hold beside those of the data
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
            f"data.name={info.full_name!r} is not a dataset of images with one label each, nor one with boxes: "
            f"it has {', '.join(sorted(features))}"
        )
    if image.np_dtype != np.uint8:
        raise ConfigError(f"data.name={info.full_name!r} has {image.np_dtype} images, not uint8")
    return 1 if image.shape[-1] == 1 else 3
