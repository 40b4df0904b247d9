"""Codes of different lengths, such as those of masks, without the room that the longest would need everywhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Ragged:
    """Stands for uint8 [N, M, L], each code filled up with zeros, as which numpy sees it.

    An integer gives [M, l], of the longest code there; anything else that numpy takes along the first axis another
    Ragged, of the same bytes.

    Args:
      flat: the bytes of all codes, one after the other.
      lengths, starts: [N, M], of each code in `flat`. Without `starts` they lie there in their order.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, flat: np.ndarray, lengths: np.ndarray, starts: np.ndarray | None = None):
        self._flat, self._lengths = flat, lengths
        ends = np.cumsum(lengths, dtype=np.int64).reshape(lengths.shape)
        self._starts = ends - lengths if starts is None else starts

    @classmethod
    def of(cls, codes: Sequence[Sequence[bytes]], room: int) -> "Ragged":
        """The codes of N examples, at most `room` of each."""
        lengths = np.zeros((len(codes), room), np.int32)
        for i, row in enumerate(codes):
            lengths[i, : len(row)] = [len(code) for code in row]
        return cls(np.frombuffer(b"".join(code for row in codes for code in row), np.uint8), lengths)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self._lengths.shape, int(self._lengths.max(initial=1)))

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int | np.integer):
            return Ragged(self._flat, self._lengths[key], self._starts[key])
        return np.asarray(Ragged(self._flat, self._lengths[key][None], self._starts[key][None]))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.zeros(self.shape, np.uint8)
        for place in np.argwhere(self._lengths):
            start, length = self._starts[*place], self._lengths[*place]
            whole[(*place, slice(length))] = self._flat[start : start + length]
        return whole if dtype is None else whole.astype(dtype)

    def pick(self, order: np.ndarray) -> "Ragged":
        """Of each example the codes of these numbers, [N, k]."""
        picked = (np.take_along_axis(of, order, axis=1) for of in (self._lengths, self._starts))
        return Ragged(self._flat, *picked)

    def packed(self) -> tuple[np.ndarray, np.ndarray]:
        """`flat` and `lengths` of these examples alone, in their order."""
        spans = zip(self._starts.ravel().tolist(), self._lengths.ravel().tolist(), strict=True)
        parts = [self._flat[start : start + length] for start, length in spans if length]
        return np.concatenate([np.zeros(0, np.uint8), *parts]), self._lengths

    @classmethod
    def joined(cls, parts: Sequence[Any]) -> "Ragged":
        """The examples of all parts, one part after the other; arrays become such, too."""
        packed = [(part if isinstance(part, Ragged) else cls.of_array(part)).packed() for part in parts]
        room = max(lengths.shape[1] for _, lengths in packed)
        wider = [np.pad(lengths, ((0, 0), (0, room - lengths.shape[1]))) for _, lengths in packed]
        return cls(np.concatenate([flat for flat, _ in packed]), np.concatenate(wider))

    @classmethod
    def of_array(cls, codes: np.ndarray) -> "Ragged":
        """Of uint8 [N, M, L], whose codes end with their first zero."""
        lengths = (codes > 0).sum(axis=-1, dtype=np.int32)
        return cls(codes[codes > 0], lengths)
