"""Masks [H, W] of whole images as COCO has them in its files: run-length codes, and polygons."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

RLE = dict[str, Any]  # {"size": [height, width], "counts": text}


def mask_to_rle(mask: np.ndarray) -> RLE:
    """bool [H, W] as COCO's run-length code, which JSON can hold."""
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def rle_to_mask(rle: RLE) -> np.ndarray:
    """Undoes `mask_to_rle`; counts may also be the list of numbers of COCO's crowd regions."""
    return _decoded(_compressed(rle))


def rle_area(rle: RLE) -> int:
    """Pixels of the mask."""
    return int(coco_mask.area(_compressed(rle)))


def rle_box(rle: RLE) -> list[float]:
    """xyxy around the mask, in whole pixels; all 0 of an empty one."""
    x, y, w, h = coco_mask.toBbox(_compressed(rle)).tolist()
    return [x, y, x + w, y + h]


def polygons_to_rle(polygons: Sequence[Sequence[float]], height: int, width: int) -> RLE:
    """The pixels of polygons [x1, y1, x2, y2, ...], of three corners at least, of one object, as COCO counts them.

    The time and memory of an edge grow with its length, also outside of the image.
    """
    code = coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in polygons], height, width))
    return {"size": [height, width], "counts": code["counts"].decode()}


def polygons_to_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """The same as bool [height, width]."""
    return rle_to_mask(polygons_to_rle(polygons, height, width))


def checked_rle(code: Any, height: int, width: int) -> RLE:
    """A run-length code as a file has it, its counts a list or a text, as a text; of an image of height x width.

    Raises ValueError if it is none, or is of another size: pycocotools does not look.
    """
    if not isinstance(code, dict) or "counts" not in code:
        raise ValueError("a mask that is neither polygons nor a run-length code")
    size, counts = code.get("size"), code["counts"]
    if size != [height, width]:
        raise ValueError(f"a mask of the size {size!r} (height, width) for an image of {width}x{height}")
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("a run-length code whose counts are no numbers from 0")
    if sum(runs) != height * width:
        raise ValueError(f"a run-length code of {sum(runs):,} pixels for an image of {width}x{height}")
    whole = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return {"size": [height, width], "counts": whole["counts"].decode()}


def _runs(text: str) -> list[int]:
    """The numbers in COCO's text: six bits a letter, the least first, each from the third on less the one before the last."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("a run-length code whose counts are no text of COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("a run-length code whose counts end too early")
    return runs


def _decoded(rle: RLE) -> np.ndarray:
    with warnings.catch_warnings():  # pycocotools 2.0.11 hands NumPy 2 its arrays in an old way
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco_mask.decode(rle).astype(bool)


def _compressed(rle: RLE) -> RLE:
    return coco_mask.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle
