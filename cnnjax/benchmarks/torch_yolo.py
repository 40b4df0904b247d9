"""YOLOv3 and YOLOv3-tiny in torch, the peer of yolo.py; module names are those of our parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnjax.benchmarks.torch_detection import batched_nms
from cnnjax.benchmarks.torch_networks import fast_device, with_variables
from cnnjax.benchmarks.workload import LEARNING_RATE, MOMENTUM
from cnnjax.detection.anchors import MAX_LOG_SIZE
from cnnjax.detection.multiscale import Scales


class Layer(nn.Module):
    """Convolution, batch norm and leaky ReLU; or, of outputs, a convolution with a bias."""

    def __init__(self, given: int, features: int, kernel: int = 3, stride: int = 1, output: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(given, features, kernel, stride, kernel // 2, bias=output)
        self.norm = None if output else nn.BatchNorm2d(features, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.norm is None else F.leaky_relu(self.norm(x), 0.1, inplace=True)


class YoloV3(nn.Module):
    """On Darknet-53's trunk: maps at strides 32, 16 and 8."""

    def __init__(self, outputs: int, width: int = 32, blocks: Sequence[int] = (1, 2, 8, 8, 4)):
        super().__init__()
        self.blocks = tuple(blocks)
        self.conv1 = Layer(3, width)
        for i, count in enumerate(blocks, start=1):
            features = width * 2**i
            self.add_module(f"down{i}", Layer(features // 2, features, 3, 2))
            for j in range(1, count + 1):
                self.add_module(f"block{i}_{j}_a", Layer(features, features // 2, 1))
                self.add_module(f"block{i}_{j}_b", Layer(features // 2, features))
        given = width * 2 ** len(blocks)
        for i in (1, 2, 3):
            features = width * 2 ** (5 - i)
            if i > 1:
                self.add_module(f"lateral{i}", Layer(given, features, 1))
                given = features + features * 2
            for j in range(1, 7):
                kernel, after = (1, features) if j % 2 else (3, features * 2)
                self.add_module(f"neck{i}_{j}", Layer(given, after, kernel))
                given = after
            self.add_module(f"output{i}", Layer(given, outputs, 1, output=True))
            given = features

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        def apply(name: str, x: Tensor) -> Tensor:
            return self.get_submodule(name)(x)

        x, ends, maps = self.conv1(x), [], []
        for i, count in enumerate(self.blocks, start=1):
            x = apply(f"down{i}", x)
            for j in range(1, count + 1):
                x = x + apply(f"block{i}_{j}_b", apply(f"block{i}_{j}_a", x))
            ends.append(x)
        for i in (1, 2, 3):
            if i > 1:
                wide = F.interpolate(apply(f"lateral{i}", x), scale_factor=2)
                x = torch.cat([wide, ends[-i]], 1)
            for j in range(1, 6):
                x = apply(f"neck{i}_{j}", x)
            maps.append(apply(f"output{i}", apply(f"neck{i}_6", x)))
        return tuple(maps)


class YoloV3Tiny(nn.Module):
    """Maps at strides 32 and 16."""

    def __init__(self, outputs: int, width: int = 16):
        super().__init__()
        for i in range(1, 8):
            self.add_module(f"conv{i}", Layer(3 if i == 1 else width * 2 ** (i - 2), width * 2 ** (i - 1)))
        self.neck1_1, self.neck1_2 = Layer(width * 64, width * 16, 1), Layer(width * 16, width * 32)
        self.output1 = Layer(width * 32, outputs, 1, output=True)
        self.lateral2, self.neck2_1 = Layer(width * 16, width * 8, 1), Layer(width * 24, width * 16)
        self.output2 = Layer(width * 16, outputs, 1, output=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        fine = x
        for i in range(1, 8):
            x = self.get_submodule(f"conv{i}")(x)
            fine = x if i == 5 else fine
            if i < 6:
                x = F.max_pool2d(x, 2)
            elif i == 6:
                x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2, 1)
        narrow = self.neck1_1(x)
        coarse = self.output1(self.neck1_2(narrow))
        x = torch.cat([F.interpolate(self.lateral2(narrow), scale_factor=2), fine], 1)
        return coarse, self.output2(self.neck2_1(x))


NETWORKS: dict[str, type[nn.Module]] = {"yolov3": YoloV3, "yolov3_tiny": YoloV3Tiny}


class Detector:
    """A network with our weights and one batch, in channels_last; `train` and `infer` return when they are done.

    With `bfloat16`, autocast; with `compiler`, torch.compile in that mode.
    """

    def __init__(
        self, network: nn.Module, variables: Mapping[str, Any], scales: Scales, arrays: Mapping[str, np.ndarray],
        score: float, iou: float, most: int, bfloat16: bool = False, compiler: str = "",
    ):  # fmt: skip
        self.device = fast_device()
        self.network = with_variables(network, variables).to(self.device)
        self.apply: Any = torch.compile(self.network, mode=compiler) if compiler else self.network
        self.scales, self.score, self.iou, self.most, self.bfloat16 = scales, score, iou, most, bfloat16
        self.arrays = {name: torch.from_numpy(values).to(self.device) for name, values in arrays.items()}
        self.anchors = torch.tensor(scales.anchors, device=self.device)
        self.side = arrays["image"].shape[1]
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def maps(self) -> list[Tensor]:
        """Of each head [N, A, rows, columns, 5 + C]."""
        images = self.arrays["image"].permute(0, 3, 1, 2).float() / 255
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            found = self.apply(images)
        return [
            one.float().unflatten(1, (len(head.mask), -1)).permute(0, 1, 3, 4, 2)
            for head, one in zip(self.scales.heads, found, strict=True)
        ]

    def boxes(self, t: Tensor, mask: Sequence[int]) -> Tensor:
        """[N, A, rows, columns, 4] xyxy in pixels."""
        rows, columns = t.shape[2:4]
        y, x = torch.meshgrid(
            torch.arange(rows, device=t.device), torch.arange(columns, device=t.device), indexing="ij"
        )
        stride = self.side / columns
        centre = (t[..., :2].sigmoid() + torch.stack([x, y], -1)) * stride
        anchors = self.anchors[list(mask)][:, None, None]
        half = t[..., 2:4].clamp(max=MAX_LOG_SIZE).exp() * anchors / 2
        return torch.cat([centre - half, centre + half], -1)

    @torch.inference_mode()
    def infer(self) -> int:
        """The number of detections: boxes of each class whose score, objectness times probability, is above the limit."""
        self.network.eval()
        boxes, scores = [], []
        for head, t in zip(self.scales.heads, self.maps(), strict=True):
            boxes.append(self.boxes(t, head.mask).flatten(1, 3))
            scores.append((t[..., 4:5].sigmoid() * t[..., 5:].sigmoid()).flatten(1, 3))
        count = 0
        for b, s in zip(torch.cat(boxes, 1), torch.cat(scores, 1), strict=True):
            place, label = torch.nonzero(s > self.score, as_tuple=True)
            count += len(batched_nms(b[place], s[place, label], label, self.iou)[: self.most])
        return count

    def train(self) -> None:
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def loss(self) -> Tensor:
        """darknet's, as DarknetLoss has it: the mean over the images."""
        truth, labels = self.arrays["boxes"], self.arrays["classes"].long()
        size = truth[..., 2:] - truth[..., :2]
        both = torch.minimum(size[:, :, None], self.anchors).prod(-1)
        best = (both / (size.prod(-1)[..., None] + self.anchors.prod(-1) - both)).argmax(-1)
        total = truth.new_zeros(())
        for head, t in zip(self.scales.heads, self.maps(), strict=True):
            rows, columns = t.shape[2:4]
            stride = self.side / columns
            image, number = torch.nonzero(
                torch.isin(best, torch.tensor(head.mask, device=t.device)), as_tuple=True
            )
            box, label = truth[image, number], labels[image, number]
            anchor = best[image, number] - head.mask[0]
            centre = (box[:, :2] + box[:, 2:]) / 2 / stride
            column, row = centre.long().clamp(max=columns - 1).unbind(1)
            positive = torch.zeros(t.shape[:4], device=t.device)
            positive[image, anchor, row, column] = 1
            with torch.no_grad():
                ignored = self._overlap(self.boxes(t, head.mask), truth) > 0.7
            presence = F.binary_cross_entropy_with_logits(t[..., 4], positive, reduction="none")
            total = total + presence[~ignored | (positive > 0)].sum()
            own = t[image, anchor, row, column]
            shape = box[:, 2:] - box[:, :2]
            place = F.binary_cross_entropy_with_logits(own[:, :2], centre.frac(), reduction="none").sum(1)
            wanted = (shape / self.anchors[best[image, number]]).log()
            extent = ((own[:, 2:4] - wanted) ** 2).sum(1) / 2
            total = total + ((2 - shape.prod(1) / self.side**2) * (place + extent)).sum()
            kinds = F.one_hot(label, t.shape[-1] - 5).float()
            total = total + F.binary_cross_entropy_with_logits(own[:, 5:], kinds, reduction="sum")
        return total / len(truth)

    def _overlap(self, boxes: Tensor, truth: Tensor) -> Tensor:
        """The best IoU [N, A, rows, columns] of each box with any object."""
        flat, others = boxes.flatten(1, 3)[:, :, None], truth[:, None]
        low, high = (
            torch.maximum(flat[..., :2], others[..., :2]),
            torch.minimum(flat[..., 2:], others[..., 2:]),
        )
        both = (high - low).clamp(min=0).prod(-1)
        area, other = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (flat, others))
        return (both / (area + other - both)).amax(-1).reshape(boxes.shape[:-1])
