"""Labels of one dataset in terms of the classes of a network that was trained on another, by their names."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import sources
from cnnjax.data.dataset import Dataset, some
from cnnjax.data.examples import Columns

_SYNSET = re.compile(r"n\d{8}")  # of WordNet, as the folders of ImageNet begin: n01440764_tench


def as_trained(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """The dataset with the classes, in their order, that a run was trained on. Raises ConfigError as `of_run` does."""
    if dataset.classes == tuple(classes):
        return dataset
    train, test = (
        of_run(split, dataset.name, dataset.classes, classes) for split in (dataset.train, dataset.test)
    )
    validation = test if dataset.validation is dataset.test else dataset.validation
    if validation is not None and validation is not test:
        validation = of_run(validation, dataset.name, dataset.classes, classes)
    return dataclasses.replace(dataset, train=train, test=test, validation=validation, classes=tuple(classes))


def of_run(split: Columns, data_name: str, names: Sequence[str], classes: Sequence[str]) -> Columns:
    """The split with labels that are indices into the `classes` of the run that was trained on this data.

    Raises ConfigError, with the classes that appeared or are gone, if they are others by now; and if they come in
    another order and the split has boxes, whose files may number classes by their place in a list.
    """
    new = [repr(name) for name in names if name not in classes]
    gone = [repr(name) for name in classes if name not in names]
    if new or gone or len(names) != len(classes):
        found = [f"{what}: {some(which)}" for what, which in (("new", new), ("gone", gone)) if which]
        raise ConfigError(
            f"data.name={data_name!r} has other classes than the run was trained on: "
            f"{'; '.join(found) or f'{len(names)}, not {len(classes)}'}. Name them as they were, or train in another "
            "--workdir"
        )
    return renumber(split, data_name, names, classes, None)


def renumber(
    split: Columns, data_name: str, names: Sequence[str], classes: Sequence[str], data_dir: str | None
) -> Columns:
    """The split with labels that are indices into `classes` instead of `names`.

    Raises ConfigError for boxes of other classes, and as `find` does.
    """
    if tuple(names) == tuple(classes):
        return split
    if "label" not in split:
        other = (
            "the same classes in another order than" if set(names) == set(classes) else "other classes than"
        )
        raise ConfigError(f"data.name={data_name!r} has {other} the network, which has {some(classes)}")

    def synsets() -> Sequence[str]:
        return sources.class_names(Data(name="imagenet2012"), data_dir, len(classes))

    return Columns.of(split).renumbered(classes, find(names, classes, synsets))


def find(names: Sequence[str], classes: Sequence[str], synsets: Callable[[], Sequence[str]]) -> np.ndarray:
    """int32: which of `classes` each of `names` means.

    A name may be that of a class, but for upper case, spaces, "_" and "-"; begin with the synset of one, such as
    n01440764, which `synsets()` lists for the 1000 classes of ImageNet if `classes` do not; or be its index.

    Raises ConfigError with the first name that means none of them, or several.
    """
    plain = [_plain(name) for name in classes]
    of_synset = {match[0]: i for i, name in enumerate(classes) if (match := _SYNSET.match(name))}
    if not of_synset and len(classes) == 1000 and any(map(_SYNSET.match, names)):
        of_synset = {name: i for i, name in enumerate(synsets())}
    found = []
    for name in names:
        synset = _SYNSET.match(name)
        equal = [i for i, other in enumerate(classes) if other == name]
        equal = equal or [i for i, other in enumerate(plain) if other == _plain(name)]
        if len(equal) > 1:
            raise ConfigError(f"{len(equal)} classes of the network are called {name}: name it by its index")
        if equal:
            found += equal
        elif synset and synset[0] in of_synset:
            found.append(of_synset[synset[0]])
        elif name.isdecimal() and int(name) < len(classes):
            found.append(int(name))
        else:
            raise ConfigError(
                f"the network has no class {name!r}, but {some(classes)}: a folder is named like a class, by its "
                "synset (n01440764) or by its index"
            )
    return np.array(found, np.int32)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()
