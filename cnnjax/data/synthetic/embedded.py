"""Data that needs neither a file nor a network: scikit-learn's digits, and a synthetic set."""

import numpy as np

from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.splits import stratified_split

SYNTHETIC_TRAIN, SYNTHETIC_TEST = 1_000, 200


def digits() -> Dataset:
    """1,797 handwritten digits, uint8 [N, 8, 8, 1], in a fixed stratified split of 1,437 and 360.

    Source: the test part of Alpaydin & Kaynak's "Optical Recognition of Handwritten Digits" (UCI), which
    scikit-learn ships. Values 0..16 become 0..255.
    """
    from sklearn.datasets import load_digits  # here because the import takes a second

    source = load_digits()
    image = np.round(source.images * (255 / 16)).astype(np.uint8)[..., None]
    label = source.target.astype(np.int32)
    train, test = ({"image": image[i], "label": label[i]} for i in stratified_split(label, num_held=360))
    return Dataset("digits", train, test, tuple(map(str, range(10))), "scikit-learn's digits, fixed split")


def synthetic(image_size: int = 0, num_classes: int = 10) -> Dataset:
    """Noisy colour patterns, one per class, that a small network learns: for tests of shapes and speed.

    Images are uint8 [N, image_size, image_size, 3] (0 means 32); classes are balanced; always the same.
    """
    size = image_size or 32
    generator = np.random.Generator(np.random.Philox(0))
    coarse = generator.integers(0, 128, (num_classes, 4, 4, 3), dtype=np.uint8)
    cell = np.arange(size) * 4 // size
    pattern = coarse[:, cell[:, None], cell[None, :]]  # [num_classes, size, size, 3]

    def split(count: int) -> Split:
        label = generator.permutation(np.arange(count, dtype=np.int32) % num_classes)
        noise = generator.integers(0, 128, (count, size, size, 3), dtype=np.uint8)
        return {"image": pattern[label] + noise, "label": label}

    classes = tuple(f"pattern {index}" for index in range(num_classes))
    return Dataset("synthetic", split(SYNTHETIC_TRAIN), split(SYNTHETIC_TEST), classes, "synthetic images")
