import pickle

import numpy as np
from numpy.testing import assert_array_equal

from cnnjax.data.examples import Columns, concat
from cnnjax.data.ragged import Ragged

CODES = ([b"a", b"bcd"], [], [b"ef", b"", b"g"])
WHOLE = np.array(
    [
        [[97, 0, 0], [98, 99, 100], [0, 0, 0]],
        [[0, 0, 0]] * 3,
        [[101, 102, 0], [0, 0, 0], [103, 0, 0]],
    ],
    np.uint8,
)


def test_codes_are_those_of_the_padded_array_however_they_are_taken():
    ragged = pickle.loads(pickle.dumps(Ragged.of(CODES, 3)))
    assert ragged.shape == WHOLE.shape and len(ragged) == 3
    assert_array_equal(ragged, WHOLE)
    assert_array_equal(ragged[0], WHOLE[0])
    assert_array_equal(ragged[2], WHOLE[2, :, :2])  # no longer than the longest there
    assert_array_equal(ragged[np.array([2, 2, 0])], WHOLE[[2, 2, 0]])
    assert ragged[np.array([1])].shape == (1, 3, 0) or not np.asarray(ragged[np.array([1])]).any()
    flat, lengths = ragged[np.array([2, 0])].packed()
    assert flat.tobytes() == b"efgabcd"
    assert_array_equal(Ragged(flat, lengths), WHOLE[[2, 0]])
    assert_array_equal(Ragged.joined([ragged, WHOLE[:, :2]]), np.concatenate([WHOLE, WHOLE * np.array([[[1], [1], [0]]], np.uint8)]))  # fmt: skip


def test_they_are_joined_with_their_examples_and_are_no_part_of_a_batch():
    image = np.zeros((3, 4, 4, 3), np.uint8)
    columns = Columns({"image": image, "runs": Ragged.of(CODES, 3)})
    assert columns.in_memory and set(columns[np.array([1])]) == {"image"}
    columns.check("test")
    both = concat([columns, columns])
    assert_array_equal(both["runs"], np.concatenate([WHOLE, WHOLE]))
    assert_array_equal(both.take(np.array([5, 0]))["runs"], WHOLE[[2, 0]])
