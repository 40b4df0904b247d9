"""What every source of images gives back."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.data.splits import stratified_split

Split = dict[str, np.ndarray]
_FEW = 2  # images of which no number says anything


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images in two splits, in memory or, with data.stream, on disk (stream.StreamedImages).

    Raises ValueError if the arrays are not what is promised here.
    """

    name: str
    # "image": uint8 [N, H, W, C], channels in the order R, G, B; and either "label": int32 [N], or "boxes": float32
    # [N, M, 4] xyxy pixels, "classes": int32 [N, M], "valid": bool [N, M] and, of letterboxed images, what
    # detection.framed says: "ignored", "area" and "size".
    train: Split
    test: Split  # the split that is evaluated
    classes: tuple[str, ...]  # names; a label is an index into them
    note: str = ""  # what a reader of results must know, for example where the data came from
    # Where there is one: the split on which thresholds are chosen. It is `test` itself if that is for validation.
    validation: Split | None = None

    @property
    def streamed(self) -> bool:
        """Whether the images are read from disk batch by batch."""
        return not isinstance(self.train["image"], np.ndarray)

    def __post_init__(self) -> None:
        splits = {"train": self.train, "test": self.test}
        if self.validation is not None and self.validation is not self.test:
            splits["validation"] = self.validation
        for split_name, split in splits.items():
            where = f"{self.name} {split_name}"
            image = split["image"]
            # Of darknet's ways to resize, whose detections rounding moves, float32 of 0 to 255.
            if image.dtype not in (np.uint8, np.float32) or image.ndim != 4:
                raise ValueError(
                    f"{where}: images are {image.dtype}{list(image.shape)}, not uint8 [N, H, W, C]"
                )
            if len(image) == 0:
                raise ValueError(f"{where} is empty")
            if "boxes" in split:
                kinds = {"boxes": np.float32, "classes": np.int32, "valid": np.bool_}
                for name, dtype in kinds.items():
                    if split[name].dtype != dtype or split[name].shape[:2] != (
                        len(image),
                        split["boxes"].shape[1],
                    ):
                        raise ValueError(f"{where}: {name} are {split[name].dtype}{list(split[name].shape)}")
                label = split["classes"][split["valid"]]
            else:
                label = split["label"]
                if label.dtype != np.int32 or label.shape != image.shape[:1]:
                    raise ValueError(
                        f"{where}: {label.dtype}{list(label.shape)} labels for {len(image)} images"
                    )
            if len(label) and (label.min() < 0 or label.max() >= len(self.classes)):
                raise ValueError(
                    f"{where}: labels {label.min()} to {label.max()} for {len(self.classes)} classes"
                )


def first(dataset: Dataset, limit: int) -> Dataset:
    """The dataset with the first `limit` examples of each split; all of them for 0."""
    if not limit or limit >= max(len(dataset.train["image"]), len(dataset.test["image"])):
        return dataset

    def cut(split: Split) -> Split:
        return {key: values[:limit].copy() for key, values in split.items()}

    test = cut(dataset.test)
    validation = (
        test if dataset.validation is dataset.test else dataset.validation and cut(dataset.validation)
    )
    note = join(dataset.note, f"first {limit:,} examples of each split")
    return dataclasses.replace(dataset, train=cut(dataset.train), test=test, validation=validation, note=note)


def hold_out(dataset: Dataset, share: float) -> Dataset:
    """The dataset with a stratified share of its training split in place of its test split.

    Which examples are held out depends on nothing but the training labels, so all seeds of an experiment
    share them. Raises ConfigError if a class would have none left.
    """
    # Images with boxes have no class of their own to keep in proportion.
    labels = dataset.train.get("label", np.zeros(len(dataset.train["image"]), np.int32))
    try:
        kept, held = stratified_split(labels, max(1, round(share * len(labels))))
    except ValueError as error:
        raise ConfigError(f"data.name={dataset.name!r}: {error}") from error
    train, test = ({key: values[index] for key, values in dataset.train.items()} for index in (kept, held))
    note = join(dataset.note, f"evaluated on {len(held):,} examples held out of the training split")
    return dataclasses.replace(dataset, train=train, test=test, validation=test, note=note)


def shortcomings(dataset: Dataset) -> tuple[str, ...]:
    """What a reader of results must know of the sizes of the splits: a line for each thing that makes them weak."""
    parts = {"training": dataset.train}
    if dataset.validation is not None and dataset.validation is not dataset.test:
        parts["validation"] = dataset.validation
    small = [text for name, split in parts.items() for text in _too_small(name, split)]
    return (*small, *shortcomings_of_evaluated(dataset.test, dataset.classes))


def shortcomings_of_evaluated(split: Split, classes: Sequence[str]) -> tuple[str, ...]:
    """The same of the split that is evaluated alone, which should have an image of every class."""
    if "boxes" in split:  # ignored objects are neither found nor missed
        labels = split["classes"][split["valid"] & ~split.get("ignored", np.zeros_like(split["valid"]))]
    else:
        labels = split["label"]
    absent = np.setdiff1d(np.arange(len(classes)), labels)
    without = f"the evaluated split has no image of {some([repr(classes[i]) for i in absent])}"
    return (*_too_small("evaluated", split), *([without] if len(absent) else []))


def _too_small(name: str, split: Split) -> list[str]:
    count = len(split["image"])
    return [f"the {name} split has {count} image{'s' * (count > 1)} only"] if count <= _FEW else []


def some(names: Sequence[str]) -> str:
    """A list of names for a line of text; of more than five the first three."""
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
