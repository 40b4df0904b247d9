"""How sure counts of right answers are."""

import numpy as np


def exact_interval(right: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Of a share, by Clopper & Pearson (1934): covers the true one at least so often."""
    from scipy.stats import binomtest

    low, high = binomtest(right, count).proportion_ci(confidence, method="exact")
    return float(low), float(high)


def mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    """The two-sided p-value that two classifiers are equally good, bool [N]: which examples each had right.

    McNemar (1947), exact: of the examples that only one had right, each is as likely to be the one's as the other's.
    """
    from scipy.stats import binomtest

    only_one = int(np.sum(one & ~other))
    differing = only_one + int(np.sum(~one & other))
    return float(binomtest(only_one, differing).pvalue) if differing else 1.0
