"""The examples of one split, wherever they are: in memory, on disk, or from several sources."""

import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.data import stream
from cnnjax.data.ragged import Ragged
from cnnjax.data.windows import Window

if TYPE_CHECKING:  # jax, which not all that reads data needs
    import jax

    from cnnjax.detection.results import Truth


class Examples(Protocol):
    """What training and evaluation need of a split."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names; entries that number classes are indices into them."""
        ...

    @property
    def spec(self) -> Mapping[str, "jax.ShapeDtypeStruct"]:
        """Of one example: "image" and its targets."""
        ...

    @property
    def truths(self) -> "Sequence[Truth] | None":
        """The objects of each image, in pixels of its file; None where images have no objects."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> dict[str, np.ndarray]:
        """The decoded batch of these examples."""
        ...


class Entry(NamedTuple):
    """What an entry of an example is. Axes of the same letter are equally long; "*" stands for any, in front."""

    dtype: Any
    axes: str
    title: str = ""  # in messages, where it is not the name


# An entry with another name is as its task wants it, and passes through.
ENTRIES = {
    # channels in the order R, G, B; float32 where FRACTIONS has them
    "image": Entry(np.uint8, "H W C", "images"),
    "label": Entry(np.int32, "", "labels"),
    # Objects: M is room for the most that an image has, and valid tells which are there.
    "boxes": Entry(np.float32, "M 4"),  # xyxy, pixels of the image
    "classes": Entry(np.int32, "M"),
    "valid": Entry(np.bool_, "M"),
    "masks": Entry(np.bool_, "M H W"),
    # Of their files, beside the masks: run-length codes in the sizes of the images (annotations.padded).
    "runs": Entry(np.uint8, "M L", "run-length codes"),  # Ragged, or an array
    # Of letterboxed images (letterbox.framed): crowds and difficult objects, area in the file, its height and width.
    "ignored": Entry(np.bool_, "M"),
    "area": Entry(np.float32, "M"),
    "size": Entry(np.int32, "2"),
    # Landmarks of an image, or of each of its objects: x and y in pixels of the image, and which of them can be seen.
    "points": Entry(np.float32, "* K 2"),
    "visible": Entry(np.bool_, "* K"),
    "flip_points": Entry(np.int32, "K"),  # the row that each point has in a mirror image
}
ON_HOST = ("runs",)  # entries that only the host looks at: no part of a batch
FRACTIONS = {"image": np.float32}  # of 0 to 255, beside boxes: darknet's ways to resize do not round
TOGETHER = {
    "boxes": ("classes", "valid"),
    "points": ("visible",),
}  # the first makes no sense without the others
# Entries that number classes, and those that tell which of the numbers count.
NUMBERS = {"label": "", "classes": "valid"}


class Columns(Mapping[str, Any]):
    """Examples as a column for each entry: an array in memory, or one that is decoded when it is asked for.

    `examples[rows]` is a batch, `examples["label"]` a column. Beside that it is a mapping from the names of the
    entries to their columns; only its length is the number of examples.

    Args:
      entries: arrays [N, ...]; of images on disk stream.StreamedImages.
      files: where each example comes from, if that is a file; those of `entries`, if these are columns that know.
    """

    def __init__(
        self,
        entries: Mapping[str, Any],
        classes: Sequence[str] = (),
        files: Iterable[object] | None = None,
    ):
        self.entries, self.classes = dict(entries), tuple(classes)
        self._files: np.ndarray | None = getattr(entries, "_files", None)
        if files is not None:
            self._files = np.array(list(map(str, files)), object)

    @classmethod
    def of(cls, split: Mapping[str, Any]) -> "Columns":
        """The split itself if it is one already."""
        return split if isinstance(split, cls) else cls(split)

    @overload
    def __getitem__(self, key: str, /) -> Any: ...
    @overload
    def __getitem__(self, key: np.ndarray | slice | int, /) -> dict[str, np.ndarray]: ...
    def __getitem__(self, key: Any, /) -> Any:
        if isinstance(key, str):
            return self.entries[key]
        return {name: np.asarray(values[key]) for name, values in self.learned.items()}

    @property
    def learned(self) -> dict[str, Any]:
        """The columns that batches are made of."""
        return {name: values for name, values in self.entries.items() if name not in ON_HOST}

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return min(map(len, self.entries.values()), default=0)

    @property
    def spec(self) -> Mapping[str, "jax.ShapeDtypeStruct"]:
        import jax

        return {name: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for name, v in self.entries.items()}

    @property
    def truths(self) -> "Sequence[Truth] | None":
        if "boxes" not in self.entries:
            return None
        from cnnjax.data.letterbox import truths_in_originals

        return truths_in_originals(self.entries, self["image"].shape[1:3])

    @property
    def files(self) -> list[str]:
        """The file of each example; of one that is in none, its number, such as "#17"."""
        if self._files is None:
            return [f"#{number}" for number in range(len(self))]
        return self._files.tolist()

    @property
    def in_memory(self) -> bool:
        return not self.on_disk.entries

    @property
    def on_disk(self) -> "Columns":
        """The entries that are decoded when they are asked for."""
        lazy = {name: v for name, v in self.learned.items() if not isinstance(v, np.ndarray)}
        return Columns(lazy, self.classes)

    def through(self, rows: np.ndarray, windows: Sequence[Window]) -> dict[str, np.ndarray]:
        """The batch of these examples, whose images are windows of files."""
        batch = {name: np.asarray(values[rows]) for name, values in self.learned.items() if name != "image"}
        return {"image": self["image"][rows].decoded(windows), **batch}

    def take(self, rows: np.ndarray) -> "Columns":
        """These examples, of which nothing is decoded."""
        files = None if self._files is None else self._files[rows]
        return Columns({name: values[rows] for name, values in self.entries.items()}, self.classes, files)

    def replace(self, **entries: Any) -> "Columns":
        return Columns(self.entries | entries, self.classes, self._files)

    def numbers(self, but: str = "") -> np.ndarray | None:
        """The classes [n] of images or of the objects in them; None if there are none to know.

        but: an entry that tells which objects do not count.
        """
        for name, valid in NUMBERS.items():
            if name in self.entries:
                values = self.entries[name]
                count = self.entries.get(valid, np.ones(values.shape, bool))
                return values[count & ~self.entries.get(but, np.zeros(values.shape, bool))]
        return None

    def under(self, classes: Sequence[str]) -> "Columns":
        """With numbers that are indices into `classes`, which have all of its own by name."""
        numbers = np.array([classes.index(name) for name in self.classes], np.int32)
        return self.renumbered(classes, numbers)

    def renumbered(self, classes: Sequence[str], numbers: np.ndarray) -> "Columns":
        """With other classes: what was i before is numbers[i] now."""
        changed = {name: numbers[self.entries[name]] for name in NUMBERS if name in self.entries}
        return Columns(self.entries | changed, classes, self._files)

    def check(self, where: str) -> None:
        """Raises ValueError if an entry is not what ENTRIES says, or not of as many examples as the others."""
        if "image" not in self.entries:
            raise ValueError(f"{where}: there are no images, but {', '.join(self.entries)}")
        count, sides = len(self["image"]), dict[str, int]()
        for name, values in self.entries.items():
            entry = ENTRIES.get(name, Entry(values.dtype, "*"))
            title, found = entry.title or name, f"{values.dtype}{list(values.shape)}"
            rounded = name not in FRACTIONS or "boxes" not in self.entries
            dtypes = (entry.dtype, entry.dtype if rounded else FRACTIONS[name])
            if values.dtype not in dtypes or not _fits(values.shape[1:], entry.axes.split(), sides):
                wanted = f"{np.dtype(entry.dtype)} [{', '.join(['N', *entry.axes.split()])}]"
                lengths = ", ".join(f"{axis} = {sides[axis]}" for axis in entry.axes.split() if axis in sides)
                given = f"images are {found}" if name == "image" else f"{found} {title} for {count} images"
                raise ValueError(f"{where}: {given}, not {wanted}{lengths and f' with {lengths}'}")
            if len(values) != count:
                raise ValueError(f"{where}: {found} {title} for {count} images")
            if missing := [other for other in TOGETHER.get(name, ()) if other not in self.entries]:
                raise ValueError(f"{where}: {name} need {' and '.join(missing)}")
        if count == 0:
            raise ValueError(f"{where} is empty")
        numbers = self.numbers()
        if (
            numbers is not None
            and len(numbers)
            and not 0 <= numbers.min() <= numbers.max() < len(self.classes)
        ):
            raise ValueError(
                f"{where}: labels {numbers.min()} to {numbers.max()} for {len(self.classes)} classes"
            )


def _fits(shape: tuple[int, ...], axes: list[str], sides: dict[str, int]) -> bool:
    """Whether a shape has these axes; fills `sides`, the lengths of the axes with a letter."""
    if axes[:1] == ["*"]:
        axes = axes[1:]
        shape = shape[len(shape) - len(axes) :] if len(shape) >= len(axes) else ()
    if len(shape) != len(axes):
        return False
    return all(
        length == (int(axis) if axis.isdecimal() else sides.setdefault(axis, length))
        for length, axis in zip(shape, axes, strict=True)
    )


def concat(parts: Sequence[Columns]) -> Columns:
    """The examples of all parts, one part after the other, whose classes are joined by name.

    Classes come in the order in which they first appear. Entries have room for as many objects as the part with most.
    Images that are grey in some parts only become coloured there.

    Raises ConfigError if the parts have other targets than each other, or images of other sizes.
    """
    first = parts[0]
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    channels = max(part["image"].shape[-1] for part in parts)
    joined = []
    for part in parts:
        if set(part) != set(first):
            has = [", ".join(sorted(set(one) - {"image"})) for one in (first, part)]
            raise ConfigError(f"they have other targets: {has[0]}, and {has[1]}")
        if part["image"].shape[1:3] != first["image"].shape[1:3]:
            sizes = ["x".join(map(str, one["image"].shape[1:3])) for one in (first, part)]
            raise ConfigError(f"they have images of {sizes[0]} and of {sizes[1]}: set data.image_size")
        joined.append(part.under(classes).replace(image=stream.coloured(part["image"], channels)))
    known = any(part._files is not None for part in parts)
    files = [file for part in parts for file in part.files] if known else None
    return Columns({name: _joined(name, [part[name] for part in joined]) for name in first}, classes, files)


def _joined(name: str, columns: Sequence[Any]) -> Any:
    if name in ON_HOST:
        return Ragged.joined(columns)
    axes = ENTRIES.get(name, Entry(None, "")).axes.split()
    if axes[:1] == ["M"]:
        padded = [i for i, axis in enumerate(axes, start=1) if axis in "ML"]  # others must be equally long
        room = {i: max(column.shape[i] for column in columns) for i in padded}
        columns = [
            np.pad(column, [(0, room.get(i, size) - size) for i, size in enumerate(column.shape)])
            for column in columns
        ]
    if len(shapes := {column.shape[1:] for column in columns}) > 1:
        raise ConfigError(f"they have {name} of the shapes {' and '.join(map(str, sorted(shapes)))}")
    if all(isinstance(column, np.ndarray) for column in columns):
        return np.concatenate(columns)
    return stream.Joined(columns)


def read_ahead(
    examples: Examples, rows: stream.Rows, workers: int
) -> Generator[dict[str, np.ndarray], None, None]:
    """The batches examples[rows[0]], examples[rows[1]], ..., which `workers` read ahead (stream.read_ahead).

    What is in memory stays in this process, and is looked up here.
    """
    here: Mapping[str, np.ndarray] = {}
    if isinstance(examples, Columns):
        here = {name: v for name, v in examples.learned.items() if isinstance(v, np.ndarray)}
        examples = examples.on_disk
    with contextlib.closing(stream.read_ahead(examples, rows, workers)) as batches:
        for number, read in enumerate(batches):
            yield {**{name: values[rows[number]] for name, values in here.items()}, **read}
