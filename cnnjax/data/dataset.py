"""What every source of images gives back."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import examples, images
from cnnjax.data.examples import ENTRIES, Columns
from cnnjax.data.splits import TEST_SHARE, order, stratified_split

Split = dict[str, np.ndarray]  # what a reader makes the columns of
_FEW = 2  # images of which no number says anything


class About(NamedTuple):
    """What is known of data before they are read."""

    shape: tuple[int, int, int] = (0, 0, 3)  # of an image [H, W, C]; 0 where only the images tell
    classes: tuple[str, ...] = ()  # () where only the data tell


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Examples in two splits; a mapping of arrays given for one of them becomes its examples.

    Raises ValueError if the entries of a split are not what examples.ENTRIES says.
    """

    name: str
    train: Columns
    test: Columns  # the split that is evaluated
    classes: tuple[str, ...]  # names; a label is an index into them, or they are those of the points
    note: str = ""  # what a reader of results must know, for example where the data came from
    # Where there is one: the split on which thresholds are chosen. It is `test` itself if that is for validation.
    validation: Columns | None = None

    @classmethod
    def of_arrays(
        cls,
        x: np.ndarray,
        y: np.ndarray | Mapping[str, np.ndarray] | None = None,
        x_test: np.ndarray | None = None,
        y_test: np.ndarray | Mapping[str, np.ndarray] | None = None,
        classes: Sequence[str] = (),
        **targets: np.ndarray,
    ) -> "Dataset":
        """A dataset of arrays in memory.

            Dataset.of_arrays(x, y, x_test, y_test, classes=("cat", "dog"))
            Dataset.of_arrays(x, {"boxes": boxes, "classes": numbers, "valid": valid})
            Dataset.of_arrays(x, points=points, visible=visible)

        Args:
          x: images, uint8 [N, H, W, C] with channels in the order R, G, B, or [N, H, W] of grey ones.
          y: labels, whole numbers [N] from 0; or targets by name, of which examples.ENTRIES says what they are.
          x_test, y_test: of the split that is evaluated. Without them it is a fixed stratified fifth of all examples.
          classes: their names; without them, numbers.
          targets: more targets by name; of the test split with "_test" after the name.
        Raises:
          ConfigError: in one line, what does not fit.
        """
        if x_test is None and (y_test is not None or any(name.endswith("_test") for name in targets)):
            raise ConfigError("targets of a test split are given, and no x_test")
        of_test = {name.removesuffix("_test"): v for name, v in targets.items() if name.endswith("_test")}
        train = _of_arrays(x, y, {name: v for name, v in targets.items() if not name.endswith("_test")})
        test = train if x_test is None else _of_arrays(x_test, y_test, of_test)
        try:
            if set(train) != set(test):
                has = [", ".join(sorted(set(split) - {"image"})) or "no targets" for split in (train, test)]
                raise ValueError(f"the training split has {has[0]}, the test split {has[1]}")
            sizes = ["x".join(map(str, split["image"].shape[1:])) for split in (train, test)]
            if sizes[0] != sizes[1]:
                raise ValueError(f"the training split has images of {sizes[0]}, the test split of {sizes[1]}")
            whole = cls("arrays", train, test, tuple(classes) or _numbered(train, test))
            if x_test is not None:
                return whole
            train, test = _parted(whole.train, TEST_SHARE)
            note = f"{len(test):,} examples held out for the test"
            return dataclasses.replace(whole, train=train, test=test, note=note)
        except ValueError as error:
            raise ConfigError(f"these arrays are no dataset: {error}") from error

    @property
    def streamed(self) -> bool:
        """Whether the images are read from disk batch by batch."""
        return not self.train.in_memory

    def __post_init__(self) -> None:
        validates = self.validation is self.test
        for name in ("train", "test", "validation"):
            split: Mapping[str, Any] | None = (
                self.test if name == "validation" and validates else getattr(self, name)
            )
            if split is None:
                continue
            if not (isinstance(split, Columns) and split.classes == self.classes):
                split = Columns(split, self.classes)
            split.check(f"{self.name} {name}")
            object.__setattr__(self, name, split)


def first(dataset: Dataset, limit: int) -> Dataset:
    """The dataset with the first `limit` examples of each split; all of them for 0."""
    told = of_the_first(limit, [len(dataset.train), len(dataset.test)])
    if not told:
        return dataset

    def cut(split: Columns) -> Columns:
        return split.take(np.arange(min(limit, len(split))))

    test = cut(dataset.test)
    validation = (
        test if dataset.validation is dataset.test else dataset.validation and cut(dataset.validation)
    )
    note = join(dataset.note, told)
    return dataclasses.replace(dataset, train=cut(dataset.train), test=test, validation=validation, note=note)


def of_the_first(limit: int, counts: Iterable[int]) -> str:
    """A note that of splits with so many examples only the first `limit` are used; empty if all are, as for 0."""
    return f"first {limit:,} examples of each split" if max(counts) > limit > 0 else ""


def of_each_class(dataset: Dataset, count: int) -> Dataset:
    """The dataset with the first `count` training examples of each class, in their order, or all of a class that has
    fewer. Raises ConfigError if images have no class of their own."""
    if "label" not in dataset.train:
        raise ConfigError(f"data.per_class: images of data.name={dataset.name!r} have no label each")
    labels = dataset.train["label"]
    rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)])
    note = join(dataset.note, f"trained on {len(rows):,} examples, at most {count:,} of each class")
    return dataclasses.replace(dataset, train=dataset.train.take(np.sort(rows)), note=note)


def resized(dataset: Dataset, data: Data) -> Dataset:
    """The dataset with its images, which are in memory, resized as `data` says."""
    train, test = (
        split.replace(image=images.resize_all(split["image"], data))
        for split in (dataset.train, dataset.test)
    )
    return dataclasses.replace(dataset, train=train, test=test)


def hold_out(dataset: Dataset, share: float) -> Dataset:
    """The dataset with a stratified share of its training split in place of its test split.

    Which examples are held out depends on nothing but the training labels, so all seeds of an experiment
    share them. Raises ConfigError if a class would have none left.
    """
    try:
        train, test = _parted(dataset.train, share)
    except ValueError as error:
        raise ConfigError(f"data.name={dataset.name!r}: {error}") from error
    note = join(dataset.note, f"evaluated on {len(test):,} examples held out of the training split")
    return dataclasses.replace(dataset, train=train, test=test, validation=test, note=note)


def _parted(whole: Columns, share: float) -> tuple[Columns, Columns]:
    """All but a fixed stratified share of the examples, and that share; ValueError if a class would have none left."""
    # Images with objects have no class of their own to keep in proportion.
    labels = whole.get("label", np.zeros(len(whole), np.int32))
    kept, held = stratified_split(labels, max(1, round(share * len(labels))))
    return whole.take(kept), whole.take(held)


def _of_arrays(x: Any, y: Any, targets: Mapping[str, Any]) -> Columns:
    """Columns with the dtypes of ENTRIES, where numbers are of the right kind: whole, or with a fraction."""
    if y is not None:
        targets = {**(y if isinstance(y, Mapping) else {"label": y}), **targets}
    image = np.asarray(x)
    columns = {"image": image[..., None] if image.ndim == 3 else image}
    for name, given in targets.items():
        values = np.asarray(given)
        wanted = np.dtype(ENTRIES[name].dtype) if name in ENTRIES else values.dtype
        if wanted.kind in "if" and values.dtype.kind in ("iu" if wanted.kind == "i" else "iuf"):
            cast = values.astype(wanted)
            values = cast if wanted.kind == "f" or np.array_equal(cast, values) else values
        columns[name] = values
    return Columns(columns)


def _numbered(*splits: Columns) -> tuple[str, ...]:
    """Names of as many classes as the numbers in the splits need."""
    found = [numbers for split in splits if (numbers := split.numbers()) is not None and len(numbers)]
    return tuple(map(str, range(1 + max((int(numbers.max()) for numbers in found), default=-1))))


def concat(name: str, parts: Sequence[Dataset]) -> Dataset:
    """The datasets as one, called `name`: each of its splits is `mixed`.

    It has a validation split if all parts are evaluated on theirs, or else if some have one of their own and none is
    evaluated on it: what is a test for one part may not choose for another. Raises ConfigError as `mixed` does.
    """
    train, test = mixed(name, [part.train for part in parts]), mixed(name, [part.test for part in parts])
    validates = [part.validation is part.test for part in parts]
    own = [part.validation.under(train.classes) for part in parts if part.validation is not None]
    validation = test if all(validates) else mixed(name, own) if own and not any(validates) else None
    note = join(*(f"{part.name}: {part.note}" if part.note else part.name for part in parts))
    return Dataset(name, train, test, train.classes, note, validation)


def mixed(name: str, parts: Sequence[Columns]) -> Columns:
    """The examples of all parts in one fixed shuffled order, so that the first ones are of every part.

    Raises ConfigError, with data.name in it, as examples.concat does.
    """
    try:
        whole = examples.concat(parts)
    except ConfigError as error:
        raise ConfigError(f"data.name={name!r}: {error}") from error
    return whole.take(order(len(whole)))


def shortcomings(dataset: Dataset) -> tuple[str, ...]:
    """What a reader of results must know of the sizes of the splits: a line for each thing that makes them weak."""
    parts = {"training": dataset.train}
    if dataset.validation is not None and dataset.validation is not dataset.test:
        parts["validation"] = dataset.validation
    small = [text for name, split in parts.items() for text in _too_small(name, split)]
    return (*small, *shortcomings_of_evaluated(dataset.test, dataset.classes))


def shortcomings_of_evaluated(split: Mapping[str, Any], classes: Sequence[str]) -> tuple[str, ...]:
    """The same of the split that is evaluated alone, which should have an image of every class."""
    numbers = Columns.of(split).numbers(but="ignored")  # ignored objects are neither found nor missed
    absent = np.setdiff1d(np.arange(len(classes)), numbers) if numbers is not None else ()
    without = f"the evaluated split has no image of {some([repr(classes[i]) for i in absent])}"
    return (*_too_small("evaluated", split), *([without] if len(absent) else []))


def _too_small(name: str, split: Mapping[str, Any]) -> list[str]:
    count = len(split["image"])
    return [f"the {name} split has {count} image{'s' * (count > 1)} only"] if count <= _FEW else []


def some(names: Sequence[str]) -> str:
    """A list of names for a line of text; of more than five the first three."""
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def join(*notes: str) -> str:
    """Notes as one line, without those that are empty."""
    return "; ".join(note for note in notes if note)
