"""The datasets `shapes` and `digit_scenes`: scenes that are drawn when they are asked for."""

from pathlib import Path

import jax
import numpy as np

from cnnjax.config import Data
from cnnjax.data.dataset import Dataset
from cnnjax.data.examples import Columns
from cnnjax.data.synthetic import scenes

NUM_SCENES = {"train": 4000, "test": 1000}
NUM_SINGLE = {"train": 16_000, "test": 1000}  # a scene with one object says less
SEEDS = {"train": 0, "test": 1}


def read(kind: str, data: Data, _: Path) -> Dataset:
    """Scenes of a kind with up to data.objects objects, 64 pixels wide unless data.image_size says otherwise."""

    def split(name: str) -> Columns:
        available = (NUM_SINGLE if data.objects == 1 else NUM_SCENES)[name]
        count = min(available, data.limit or available)
        # One object may be large, several need room beside each other.
        scale = (0.25, 0.7) if data.objects == 1 else (0.2, 0.45)
        drawn = scenes.grid_scenes(
            jax.random.key(SEEDS[name]),
            count,
            data.image_size or 64,
            data.objects,
            kind,
            name,
            scale,
            data.masks,
        )
        return Columns({key: np.asarray(value) for key, value in drawn.items()})

    return Dataset(data.name, split("train"), split("test"), scenes.KINDS[kind], "synthetic scenes")
