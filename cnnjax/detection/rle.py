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


def polygons_to_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """The pixels of polygons [x1, y1, x2, y2, ...], of one object, as COCO counts them: bool [height, width]."""
    codes = coco_mask.frPyObjects([list(polygon) for polygon in polygons], height, width)
    return _decoded(coco_mask.merge(codes))


def _decoded(rle: RLE) -> np.ndarray:
    with warnings.catch_warnings():  # pycocotools 2.0.11 hands NumPy 2 its arrays in an old way
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco_mask.decode(rle).astype(bool)


def _compressed(rle: RLE) -> RLE:
    return coco_mask.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle
