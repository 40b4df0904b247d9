"""What every model is that is fitted in one go, and not trained step by step."""

import abc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cnnjax.config import Experiment
from cnnjax.data.dataset import Dataset
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Split

if TYPE_CHECKING:
    from cnnjax.drawing.figures import Picture

Say = Callable[[str], None]


class Fitted(abc.ABC):
    """A model, its file in a folder, how good it is and what it says of an image: what a row of FITTED can do."""

    options: ClassVar[tuple[str, ...]]  # sections of an experiment that it reads
    targets: ClassVar[tuple[str, ...]] = ("points", "visible")
    file: ClassVar[str]

    @classmethod
    @abc.abstractmethod
    def fit(cls, experiment: Experiment, dataset: Dataset, folder: Path, say: Say) -> "Fitted":
        """A model of the training split; `say` tells how it goes. What takes long may leave in `folder` what is done, and go
        on from it."""

    @classmethod
    @abc.abstractmethod
    def load(cls, experiment: Experiment, folder: Path) -> "Fitted":
        """What `save` wrote."""

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Writes `file`, and what else it needs, into a folder."""

    @abc.abstractmethod
    def judge(self, split: Split) -> "tuple[dict[str, float], list[Picture]]":
        """Numbers, and pictures for the report, of a split."""

    @abc.abstractmethod
    def result(self, image: np.ndarray) -> Result:
        """What it says of an image, uint8 [H, W, C]."""
