"""Data that needs neither a file nor a network: scikit-learn's digits, and a synthetic set."""

from pathlib import Path

import numpy as np

from cnnjax.config import Data
from cnnjax.data.dataset import About, Dataset, first, resized
from cnnjax.data.examples import Columns
from cnnjax.data.splits import stratified_split

SYNTHETIC_TRAIN, SYNTHETIC_TEST = 1_000, 200
DIGITS = About((8, 8, 1), tuple(map(str, range(10))))
SYNTHETIC = About((32, 32, 3), tuple(f"pattern {index}" for index in range(10)))


def read_digits(data: Data, _: Path) -> Dataset:
    """`digits`, limited and resized as `data` says."""
    return resized(first(digits(), data.limit), data)


def read_synthetic(data: Data, _: Path) -> Dataset:
    """`synthetic` of the size that `data` says, limited."""
    return first(synthetic(data.image_size), data.limit)


def digits() -> Dataset:
    """1,797 handwritten digits, uint8 [N, 8, 8, 1], in a fixed stratified split of 1,437 and 360.

    Source: the test part of Alpaydin & Kaynak's "Optical Recognition of Handwritten Digits" (UCI), which
    scikit-learn ships. Values 0..16 become 0..255.
    """
    from sklearn.datasets import load_digits  # here because the import takes a second

    source = load_digits()
    image = np.round(source.images * (255 / 16)).astype(np.uint8)[..., None]
    label = source.target.astype(np.int32)
    whole = Columns({"image": image, "label": label})
    train, test = (whole.take(rows) for rows in stratified_split(label, num_held=360))
    return Dataset("digits", train, test, DIGITS.classes, "scikit-learn's digits, fixed split")


def synthetic(image_size: int = 0) -> Dataset:
    """Noisy colour patterns, one per class, that a small network learns: for tests of shapes and speed.

    Images are uint8 [N, image_size, image_size, 3] (0 means 32); classes are balanced; always the same.
    """
    size, num_classes = image_size or SYNTHETIC.shape[0], len(SYNTHETIC.classes)
    generator = np.random.Generator(np.random.Philox(0))
    coarse = generator.integers(0, 128, (num_classes, 4, 4, 3), dtype=np.uint8)
    cell = np.arange(size) * 4 // size
    pattern = coarse[:, cell[:, None], cell[None, :]]  # [num_classes, size, size, 3]

    def split(count: int) -> Columns:
        label = generator.permutation(np.arange(count, dtype=np.int32) % num_classes)
        noise = generator.integers(0, 128, (count, size, size, 3), dtype=np.uint8)
        return Columns({"image": pattern[label] + noise, "label": label})

    return Dataset(
        "synthetic", split(SYNTHETIC_TRAIN), split(SYNTHETIC_TEST), SYNTHETIC.classes, "synthetic images"
    )
