"""Faces found and false ones, as the benchmark counts them."""

import numpy as np

from cnnjax import benchmarks
from cnnjax.benchmarks import faces


def test_boxes_are_for_a_face_if_each_has_the_centre_of_the_other():
    known = np.array([[10.0, 10, 50, 50], [100, 10, 140, 50]])
    found = np.array([[5.0, 5, 60, 60], [12, 12, 45, 45], [0, 0, 200, 200], [38, 38, 80, 80]])
    assert faces.matched(found, known) == (1, 2)  # one twice; one that is around all, one beside
    assert faces.matched(found[:0], known) == (0, 0)
    assert faces.matched(found, known[:0]) == (0, 4)


def test_without_its_files_it_is_skipped():
    (row,) = benchmarks.chosen(["faces"])["faces"](benchmarks.Options())
    assert "benchmark.faces=FOLDER" in row.skipped


def test_the_error_is_that_of_the_box_for_the_face():
    known = np.random.default_rng(0).uniform(20, 60, (68, 2))
    known[36], known[45] = [30, 30], [60, 30]
    box = np.array([[200.0, 200, 240, 240], [18, 18, 62, 62]])
    said = faces.Said(box, np.stack([known + 100, known + [3, 4]]))
    np.testing.assert_allclose(faces._error(said, known), 5 / 30)
    assert faces._error(faces.Said(box[:1], known[None]), known) is None
