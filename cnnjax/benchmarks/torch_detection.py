"""The grid detector in torch, with suppression as torchvision.ops.batched_nms does it, in plain torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnjax.benchmarks.torch_networks import NETWORKS, with_variables
from cnnjax.benchmarks.workload import Workload
from cnnjax.detection.anchors import MAX_LOG_SIZE
from cnnjax.detection.grid import Grid


class Detector:
    """A network with our weights on fixed images [N, H, W, C]; anchors as in detection/anchors.py."""

    def __init__(self, work: Workload, variables: Mapping[str, Any], grid: Grid, images: np.ndarray):
        self.network = with_variables(NETWORKS[work.model](work.num_outputs), variables).eval()
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels_last
        self.grid = grid
        rows, columns = torch.meshgrid(torch.arange(grid.rows), torch.arange(grid.columns), indexing="ij")
        self.corner = torch.stack([columns, rows], -1)[None, :, :, None].float()
        self.cell = torch.tensor(grid.cell)
        self.anchors = torch.tensor(grid.anchors)

    @torch.inference_mode()
    def detect(self, score: float, iou: float, most: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes [K, 4] xyxy in pixels, scores [K] and classes [K] of every image, best first."""
        outputs = self.network(self.images).permute(0, 2, 3, 1)
        split = outputs.reshape(*outputs.shape[:3], len(self.anchors), -1)
        centre = (split[..., 1:3].sigmoid() + self.corner) * self.cell
        size = split[..., 3:5].clamp(max=MAX_LOG_SIZE).exp() * self.anchors
        boxes = torch.cat([centre - size / 2, centre + size / 2], -1).flatten(1, 3)
        best, classes = split[..., 5:].sigmoid().max(-1)
        scores = (split[..., 0].sigmoid() * best).flatten(1)
        classes = classes.flatten(1)
        found = []
        for b, s, c in zip(boxes, scores, classes, strict=True):
            good = s > score
            b, s, c = b[good], s[good], c[good]
            keep = batched_nms(b, s, c, iou)[:most]
            found.append((self._clip(b[keep]), s[keep], c[keep]))
        return found

    def _clip(self, boxes: Tensor) -> Tensor:
        limits = torch.tensor([self.grid.width, self.grid.height] * 2)
        return boxes.clamp(min=torch.zeros(4), max=limits)


def batched_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that greedy suppression within each class leaves, best first.

    As torchvision does it: boxes of different classes are moved apart, then all go through one suppression.
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long)
    order = scores.argsort(descending=True, stable=True)
    apart = boxes + (classes.to(boxes) * (boxes.max() - boxes.min() + 1))[:, None]
    apart = apart[order]
    area = (apart[:, 2:] - apart[:, :2]).prod(1)
    low = torch.maximum(apart[:, None, :2], apart[None, :, :2])
    high = torch.minimum(apart[:, None, 2:], apart[None, :, 2:])
    both = (high - low).clamp(min=0).prod(2)
    over = (both / (area[:, None] + area[None] - both) > iou_threshold).cpu().numpy()
    # The greedy loop on a matrix of bits: numpy's rows are cheaper here than torch's.
    removed = np.zeros(len(boxes), bool)
    for i in range(len(boxes)):
        if not removed[i]:
            removed[i + 1 :] |= over[i, i + 1 :]
    return order[torch.from_numpy(~removed)]
