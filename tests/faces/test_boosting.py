import dataclasses

import numpy as np
import pytest

from cnnjax.config import Cascade, ConfigError
from cnnjax.faces.boosting import Boosted, Photographs, fit_cascade
from cnnjax.faces.cascade import read_cascade, write_cascade
from cnnjax.faces.crops import cut_squares, face_squares, jitter_squares
from cnnjax.faces.scan import detect, stage_margins

SMALL = Cascade(features=400, negatives=300, stages=3, stumps=(3, 6), enough=0.0)


def test_rounds_by_hand():
    """One feature, values 1 2 3 4, faces at 1 and 4: a cut after 1 errs on 4 alone, which then counts three times as much."""
    boosted = Boosted(np.array([[1, 2, 3, 4]], np.float32), np.array([True, False, False, True]))
    first = boosted.add()
    assert (first.feature, first.threshold) in {(0, 1.5), (0, 3.5)}
    assert first.weight == pytest.approx(np.log(3))  # beta = .25 / .75
    second = boosted.add()
    # beta = 1/5
    assert second.threshold == 5.0 - first.threshold and second.weight == pytest.approx(np.log(5))
    assert boosted.sums.tolist() == pytest.approx(
        [np.log(3), 0, 0, np.log(5)] if first.threshold == 1.5 else [np.log(5), 0, 0, np.log(3)]
    )


def test_rounds_are_scikit_learn_s():
    from sklearn.ensemble import AdaBoostClassifier
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(0)
    faces = np.arange(200) < 100
    values = rng.normal(size=(30, 200)).astype(np.float32) + 0.4 * faces * rng.normal(size=(30, 1)).astype(
        np.float32
    )
    boosted = Boosted(values, faces)
    stumps = [boosted.add() for _ in range(12)]
    # Its trees split by Gini's impurity, so the errors of its stumps may only be larger.
    known = AdaBoostClassifier(DecisionTreeClassifier(max_depth=1), n_estimators=1).fit(values.T, faces)
    error = known.estimator_errors_[0]
    assert 1 / (1 + np.exp(stumps[0].weight)) <= error + 1e-9
    says = np.array([(values[s.feature] >= s.threshold) == s.above for s in stumps])
    weights = np.full(200, 1 / 200)
    for stump, said in zip(stumps, says, strict=True):
        error = weights[said != faces].sum() / weights.sum()
        # No other cut of any feature errs less.
        cuts = np.sort(values, axis=1)[:, :, None] <= values[:, None, :]
        errors = (np.where(cuts == faces, 0, weights)).sum(-1)
        assert error == pytest.approx(np.minimum(errors, weights.sum() - errors).min())
        assert stump.weight == pytest.approx(np.log((1 - error) / error))
        weights = weights * np.where(said == faces, error / (1 - error), 1)
        weights /= weights.sum()
    np.testing.assert_allclose(boosted.sums, [s.weight for s in stumps] @ says)


def test_equal_values_are_not_cut():
    boosted = Boosted(np.array([[1, 1, 1, 2]], np.float32), np.array([True, False, False, False]))
    stump = boosted.add()
    assert stump.threshold == 1.5 and not stump.above


def test_neighbours_in_single_precision_are_cut():
    low = np.float32(0.1)
    values = np.array([[low, low, np.nextafter(low, np.float32(1))]], np.float32)
    boosted = Boosted(values, np.array([False, False, True]))
    boosted.add()
    assert (boosted.sums > 0).tolist() == [False, False, True]


@pytest.fixture(scope="module")
def trained():
    """Faces that are bright below and dark above, with noise; photographs of blurred noise."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    pattern = np.full((12, 12), 70.0)
    pattern[6:, 2:10] = 180
    faces = np.clip(pattern + rng.normal(0, 25, (160, 12, 12)), 0, 255).astype(np.uint8)
    photographs = [
        np.clip(gaussian_filter(rng.normal(128, 300, (60, 80)), 2) * 1.5, 0, 255).astype(np.uint8)
        for _ in range(6)
    ]
    lines = []
    fit = fit_cascade(faces[:100], faces[100:], photographs, SMALL, 1, lines.append)
    return faces, photographs, fit, lines


def test_a_cascade_s_stages_are_what_they_say(trained):
    faces, photographs, fit, lines = trained
    assert len(lines) == len(fit.stages) == len(fit.cascade.trees)
    assert [stage.stumps for stage in fit.stages] == fit.cascade.trees.tolist()
    for flags, name in ((slice(100), "training_detection"), (slice(100, None), "detection")):
        kept = np.cumprod(stage_margins(fit.cascade, faces[flags]) >= 0, axis=1).mean(0)
        np.testing.assert_allclose([getattr(stage, name) for stage in fit.stages], kept)
    assert all(stage.detection >= 0.995 ** (i + 1) - 1e-9 for i, stage in enumerate(fit.stages))
    pool = Photographs(photographs, (12, 12))
    for number, stage in enumerate(fit.stages):
        pool.reject(fit.cascade, number)
        assert len(pool.windows) == stage.windows_left
    margins = stage_margins(fit.cascade, pool.draw(50, np.random.default_rng(0)))
    assert np.all(margins >= -1e-4)
    assert fit.stages[-1].overall_false_positives < 0.05


def test_a_trained_cascade_finds_a_face_in_a_picture(trained, tmp_path):
    faces, photographs, fit, _ = trained
    image = photographs[0] // 4 + 100
    image[20:44, 30:54] = np.kron(faces[120], np.ones((2, 2), np.uint8))
    write_cascade(fit.cascade, tmp_path / "faces.xml")
    for cascade in (fit.cascade, read_cascade(tmp_path / "faces.xml")):
        boxes, _ = detect(cascade, image, neighbors=2)
        np.testing.assert_allclose(boxes[0], [30, 20, 54, 44], atol=5)


def test_training_again_gives_the_same(trained):
    faces, photographs, fit, _ = trained
    again = fit_cascade(faces[:100], faces[100:], photographs, dataclasses.replace(SMALL, stages=1), 1)
    np.testing.assert_array_equal(again.cascade.threshold, fit.cascade.first(1).threshold)
    assert again.stages[0] == fit.stages[0]


def test_training_ends_when_few_windows_pass(trained):
    faces, photographs, _, _ = trained
    fit = fit_cascade(faces[:100], faces[100:], photographs, dataclasses.replace(SMALL, enough=1.0), 1)
    assert len(fit.stages) == 1


def test_bad_input_is_one_line():
    faces = np.zeros((3, 12, 12), np.uint8)
    with pytest.raises(ConfigError, match="needs faces"):
        fit_cascade(faces[:0], faces, [np.zeros((20, 20), np.uint8)], SMALL)
    with pytest.raises(ConfigError, match="no photograph is as large as a window of 12x12"):
        fit_cascade(faces, faces, [np.zeros((11, 20), np.uint8)], SMALL)
    with pytest.raises(ConfigError, match="no window with contrast"):
        fit_cascade(faces, faces, [np.zeros((20, 20), np.uint8)], SMALL)


def test_squares_around_faces():
    points = np.zeros((1, 68, 2))
    points[0, 36:48], points[0, 48:] = [50, 40], [50, 60]
    assert face_squares(points).tolist() == [[50, 50, 46]]
    moved = jitter_squares(np.array([[50, 50, 46.0]] * 500), np.random.default_rng(0), 0.1, 0.2)
    assert np.abs(moved[:, :2] - 50).max() == pytest.approx(4.6, rel=0.02)
    assert (moved[:, 2].min(), moved[:, 2].max()) == pytest.approx((36.8, 55.2), rel=0.02)


def test_windows_cut_out_of_an_image():
    image = np.arange(100, dtype=np.uint8).reshape(1, 10, 10)
    same = cut_squares(image, np.array([[4, 5, 4.0]]), 4)
    np.testing.assert_array_equal(same[0], image[0, 3:7, 2:6])
    corner = cut_squares(image, np.array([[0, 0, 4.0]]), 4)
    assert corner[0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [10, 10, 10, 11]]
