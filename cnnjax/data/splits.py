"""Which examples are for training and which for evaluation: names of splits, and splitting in two with a mix of classes alike."""

import numpy as np

TEST_SHARE = 0.2  # of all examples, where there is no test split
_ORDER_SEED = 0

# What tools and people call the splits, in lower case and without a year.
NAMES = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "eval", "evaluation", "dev"),
    "test": ("test", "testing"),
}
EVALUATED = (*NAMES["test"], *NAMES["val"])  # in this order: a test split comes first


def role(name: str) -> str:
    """Which split "train", "val" or "test" a name such as "Training", "valid" or "val2017" means; "" if none."""
    word = name.lower().rstrip("0123456789").rstrip("-_ ")
    return next((found for found, names in NAMES.items() if word in names), "")


def order(count: int) -> np.ndarray:
    """The fixed shuffled order in which examples are taken that lie class by class, or source by source."""
    return np.random.Generator(np.random.Philox(_ORDER_SEED)).permutation(count)


def stratified_split(labels: np.ndarray, num_held: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Holds out exactly `num_held` examples, of each class as many as its share, at random.

    What is left over after rounding down goes to the classes with the largest remainders. The last example
    of a class is never held out.

    Args:
      labels: integers [N], at least 0.
    Returns:
      Indices of the kept and of the held-out examples, each in ascending order.
    Raises:
      ValueError: there are not that many examples beside the last ones of their classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if not 0 <= num_held <= len(labels) - len(classes):
        raise ValueError(
            f"cannot hold out {num_held} of {len(labels)} examples when each of {len(classes)} classes keeps one"
        )
    quota = counts * (num_held / len(labels))
    take = np.minimum(np.floor(quota).astype(np.int64), counts - 1)
    while (left := num_held - take.sum()) > 0:
        by_remainder = np.argsort(take - quota, kind="stable")
        take[by_remainder[take[by_remainder] < counts[by_remainder] - 1][:left]] += 1

    # Shuffle, sort by class without changing the order within one, and hold out the first of each class.
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    rank_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = rank_in_class < np.repeat(take, counts)
    return np.sort(order[~held]), np.sort(order[held])
