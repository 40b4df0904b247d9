"""A cascade trained from faces and photographs without faces (Viola & Jones 2001, sections 3 and 4)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cnnjax.config import Cascade as Settings
from cnnjax.config import ConfigError
from cnnjax.faces.cascade import MARGIN, Cascade, of_stumps
from cnnjax.faces.haar import Features, all_features, feature_values
from cnnjax.faces.scan import LEAST_DEVIATION, Level, Scan, Windows, all_windows, cut_out, make_pyramid

ROWS = 64  # features to a block of the search: what it makes of them stays in a core's cache
_FACTOR = 1.25  # between scales of the photographs


class Stage(NamedTuple):
    """What one stage came to.

    detection: share of held-out faces that it and all before it keep; of training faces beside it.
    false_positives: share of the photographs' windows that it lets pass of those that came to it, and of all windows.
    """

    stumps: int
    detection: float
    training_detection: float
    false_positives: float
    overall_false_positives: float
    windows_left: int


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained cascade, and what each of its stages came to."""

    cascade: Cascade
    stages: tuple[Stage, ...]


class Stump(NamedTuple):
    """A feature with a threshold: faces are what lies above it, or below, and it says so with this weight."""

    feature: int
    threshold: float
    above: bool
    weight: float


class Boosted:
    """Discrete AdaBoost over stumps (table 1 of the paper): each call of `add` finds one more.

    values: [F, N] of features in N windows; faces: [N], which of them are faces.
    """

    def __init__(self, values: np.ndarray, faces: np.ndarray) -> None:
        self.values, self.faces = values, faces
        self.stumps: list[Stump] = []
        self.sums = np.zeros(values.shape[1])
        self._weights = np.where(faces, 0.5 / max(1, faces.sum()), 0.5 / max(1, (~faces).sum()))
        self._order = np.empty(values.shape, np.int32)
        self._ties = np.empty((values.shape[0], values.shape[1] - 1), bool)
        for start in range(0, len(values), ROWS):
            part = slice(start, start + ROWS)
            self._order[part] = np.argsort(values[part], axis=1)
            ordered = np.take_along_axis(values[part], self._order[part], axis=1)
            self._ties[part] = ordered[:, 1:] == ordered[:, :-1]

    def add(self) -> Stump:
        """Adds the stump of the least weighted error, and weighs up what it gets wrong."""
        self._weights /= self._weights.sum()
        index, cut, above, error = self._best()
        row = self.values[index]
        first, second = self._order[index, cut], self._order[index, cut + 1]
        # Of neighbours in float32 the mean may be the lower one, which must stay below.
        threshold = float(
            max(
                np.float32((float(row[first]) + float(row[second])) / 2),
                np.nextafter(row[first], np.float32(np.inf)),
            )
        )
        beta = max(error, 1e-10) / (1 - max(error, 1e-10))
        stump = Stump(index, threshold, above, float(-np.log(beta)))
        found = says(stump, row)
        self._weights *= np.where(found == self.faces, beta, 1.0)
        self.stumps.append(stump)
        self.sums += stump.weight * found
        return stump

    def _best(self) -> tuple[int, int, bool, float]:
        """Feature, place in its sorted values after which to cut, side of the faces, and the weighted error."""
        signed = np.where(self.faces, self._weights, -self._weights)
        positive = float(self._weights[self.faces].sum())
        negative = float(self._weights.sum()) - positive
        best = (0, 0, True, np.inf)
        for start in range(0, len(self.values), ROWS):
            below = np.cumsum(signed[self._order[start : start + ROWS]], axis=1)[:, :-1]
            below[self._ties[start : start + ROWS]] = 0  # no cut between equal values
            for above, errors in ((True, negative + below), (False, positive - below)):
                place = int(errors.argmin())
                if errors.flat[place] < best[3]:
                    row, cut = divmod(place, errors.shape[1])
                    best = (start + row, cut, above, float(errors.flat[place]))
        return best


class Photographs:
    """The windows of photographs that a growing cascade has not rejected yet."""

    def __init__(self, images: Sequence[np.ndarray], size: tuple[int, int]) -> None:
        self._size = size
        self._levels: list[Level] = [
            level for image in images for level in make_pyramid(image, size, _FACTOR)
        ]
        self._scan = Scan([level.image for level in self._levels], size)
        parts, first = [], 0
        for image in images:
            levels = make_pyramid(image, size, _FACTOR)
            windows = all_windows(levels, size)
            parts.append(Windows(windows.level + first, windows.x, windows.y))
            first += len(levels)
        columns = ([getattr(part, name) for part in parts] for name in ("level", "x", "y"))
        self.windows = Windows(*(np.concatenate(column) for column in columns))
        self.total = len(self.windows)
        # Windows of too little contrast are never looked at.
        self._deviations = self._scan.deviations(self.windows)
        self._keep(self._deviations > LEAST_DEVIATION * (size[0] - 2) * (size[1] - 2))

    def _keep(self, flags: np.ndarray) -> None:
        self.windows, self._deviations = self.windows[flags], self._deviations[flags]

    def reject(self, cascade: Cascade, stage: int) -> None:
        """Drops what a stage of the cascade rejects."""
        sums = self._scan.stage_sums(cascade, self.windows, stage, self._deviations)
        self._keep(sums >= cascade.stage_threshold[stage] - np.float32(MARGIN))

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """At most `count` of the windows that are left, uint8 [n, height, width]."""
        chosen = rng.permutation(len(self.windows))[:count]
        return cut_out(self._levels, self.windows[np.sort(chosen)], self._size)


def fit_cascade(
    faces: np.ndarray,
    held_out: np.ndarray,
    photographs: Sequence[np.ndarray],
    settings: Settings,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Fit:
    """Trains a cascade.

    Args:
      faces: windows with faces, uint8 [N, height, width], at most 24x24 pixels. Mirror them before.
      held_out: other faces, uint8 [M, height, width], of which each stage's threshold keeps `settings.detection`.
      photographs: grey images without faces, each uint8 [H, W] of its own size.
      say: is given a line about each stage.

    Raises ConfigError where there is no face, no window, or no stage can be trained.
    """
    if not len(faces) or not len(held_out):
        raise ConfigError("a cascade needs faces to train with, and others to set its thresholds by")
    size = (faces.shape[2], faces.shape[1])
    rng = np.random.default_rng(seed)
    every = all_features(size)
    features = every[np.sort(rng.permutation(len(every))[: settings.features])]
    pool = Photographs(photographs, size)
    if not pool.total:
        raise ConfigError(f"no photograph is as large as a window of {size[0]}x{size[1]} pixels")
    trained = _Trained(features, [], [], [])
    kept, kept_held = np.ones(len(faces), bool), np.ones(len(held_out), bool)
    reports: list[Stage] = []
    for number in range(settings.stages):
        negatives = pool.draw(settings.negatives, rng)
        if len(negatives) < 10:
            break
        before = len(pool.windows)
        most = settings.stumps[min(number, len(settings.stumps) - 1)]
        least_kept = int(np.ceil(settings.detection ** (number + 1) * len(held_out)))
        stumps, threshold = _fit_stage(
            features,
            (faces[kept], negatives, held_out[kept_held]),
            least_kept,
            most,
            settings.false_positives,
        )
        trained.add(stumps, threshold)
        cascade = trained.cascade()
        for flags, windows in ((kept, faces), (kept_held, held_out)):
            flags[flags] = trained.stage_passes(number, windows[flags])
        pool.reject(cascade, number)
        left = len(pool.windows)
        reports.append(
            Stage(len(stumps), kept_held.mean(), kept.mean(), left / before, left / pool.total, left)
        )
        if say:
            say(describe(number, reports[-1]))
        if reports[-1].overall_false_positives <= settings.enough:
            break
    if not reports:
        raise ConfigError("the photographs have no window with contrast to train with")
    return Fit(trained.cascade(), tuple(reports))


def describe(number: int, stage: Stage) -> str:
    """A line about a stage."""
    return (
        f"stage {number + 1}: {stage.stumps} stumps, {100 * stage.detection:.1f} % of held-out faces kept, "
        f"{100 * stage.false_positives:.1f} % of its windows, {100 * stage.overall_false_positives:.3f} % of all"
    )


class _Trained(NamedTuple):
    """The stages so far."""

    features: Features
    stumps: list[Stump]
    counts: list[int]
    thresholds: list[float]

    def add(self, stumps: list[Stump], threshold: float) -> None:
        self.stumps.extend(stumps)
        self.counts.append(len(stumps))
        self.thresholds.append(threshold)

    def cascade(self) -> Cascade:
        chosen = self.features[np.array([stump.feature for stump in self.stumps], np.int64)]
        leaf = [(0, stump.weight) if stump.above else (stump.weight, 0) for stump in self.stumps]
        threshold = np.array([stump.threshold for stump in self.stumps])
        return of_stumps(chosen, threshold, np.array(leaf), np.array(self.counts), np.array(self.thresholds))

    def stage_passes(self, stage: int, windows: np.ndarray) -> np.ndarray:
        start = sum(self.counts[:stage])
        stumps = self.stumps[start : start + self.counts[stage]]
        return stump_sums(self.features, stumps, windows) >= self.thresholds[stage]


def _fit_stage(
    features: Features,
    windows: tuple[np.ndarray, np.ndarray, np.ndarray],
    least_kept: int,
    most: int,
    goal: float,
) -> tuple[list[Stump], float]:
    """Stumps and the threshold that keeps `least_kept` of the held-out faces, the last of `windows`."""
    faces, negatives, held_out = windows
    values = feature_values(features, np.concatenate(windows))
    known = len(faces) + len(negatives)
    boosted = Boosted(values[:, :known], np.arange(known) < len(faces))
    held_sums = np.zeros(len(held_out))
    threshold = 0.0
    for _ in range(most):
        stump = boosted.add()
        held_sums += stump.weight * says(stump, values[stump.feature, known:])
        # Just below, so that rounding in another order of the sum rejects none.
        threshold = float(np.sort(held_sums)[::-1][min(least_kept, len(held_sums)) - 1]) - 1e-4
        if (boosted.sums[len(faces) :] >= threshold).mean() <= goal:
            break
    return boosted.stumps, threshold


def says(stump: Stump, values: np.ndarray) -> np.ndarray:
    """Whether windows with these values [N] of the stump's feature are faces, [N]."""
    return (values >= np.float32(stump.threshold)) == stump.above


def stump_sums(features: Features, stumps: Sequence[Stump], windows: np.ndarray) -> np.ndarray:
    """What stumps say together of windows, uint8 [N, height, width]: [N]."""
    chosen = features[np.array([stump.feature for stump in stumps], np.int64)]
    values = feature_values(chosen, windows, chunk=64)
    return sum(
        (stump.weight * says(stump, row) for stump, row in zip(stumps, values, strict=True)),
        np.zeros(len(windows)),
    )
