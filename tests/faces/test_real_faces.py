"""Trained on real faces and photographs; minutes each."""

import csv

import numpy as np
import pytest
from PIL import Image

from cnnjax.config import Cascade
from cnnjax.faces.boosting import Photographs, fit_cascade
from cnnjax.faces.cascade import MARGIN
from cnnjax.faces.crops import cut_squares, face_squares, jitter_squares
from cnnjax.faces.scan import stage_margins


def landmarks(shared, split):
    """Grey images [N, 128, 128] and points [N, 68, 2]."""
    folder = shared("data/landmarks68")
    with open(folder / f"{split}.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    images = [np.asarray(Image.open(folder / split / row[0]).convert("L")) for row in rows]
    return np.stack(images), np.array([row[1:] for row in rows], float).reshape(-1, 68, 2)


@pytest.mark.slow
def test_a_cascade_keeps_94_percent_of_faces_and_less_than_2_windows_of_1000(shared):
    images, points = landmarks(shared, "train")
    squares = face_squares(points)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    held, rest = order[:225], order[225:]

    def mirrored(windows):
        return np.concatenate([windows, windows[:, :, ::-1]])

    moved = [jitter_squares(squares[rest], rng, 0.04, 0.06) for _ in range(2)]
    faces = np.concatenate([cut_squares(images[rest], places, 24) for places in (squares[rest], *moved)])
    files = sorted(shared("data/imagenet_sample").glob("*.jpg"))
    photographs = [np.asarray(Image.open(file).convert("L")) for file in files]
    chosen = np.random.default_rng(1).permutation(len(files))
    fit = fit_cascade(
        mirrored(faces),
        mirrored(cut_squares(images[held], squares[held], 24)),
        [photographs[i] for i in chosen[:80]],
        Cascade(features=2000),
    )
    images, points = landmarks(shared, "test")
    windows = cut_squares(images, face_squares(points), 24)
    kept = np.all(stage_margins(fit.cascade, windows) >= -MARGIN, axis=1).mean()
    pool = Photographs([photographs[i] for i in chosen[80:]], (24, 24))
    for stage in range(len(fit.stages)):
        pool.reject(fit.cascade, stage)
    assert kept >= 0.94 and len(pool.windows) / pool.total <= 0.002
