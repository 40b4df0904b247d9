"""The peer of two_stage.py, for a Python of its own that has torch and torchvision; it needs nothing of cnnjax.

It answers each line of its input, "train" or "infer", when that is done, with the number of detections.
"""

import json
import sys

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign


class Layer(nn.Sequential):
    """Convolution, batch norm and leaky ReLU."""

    def __init__(self, given: int, features: int, kernel: int, stride: int = 1):
        convolution = nn.Conv2d(given, features, kernel, stride, kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(features), nn.LeakyReLU(0.1))


class Residual(nn.Module):
    """Darknet's: half as many features by 1x1, all again by 3x3."""

    def __init__(self, features: int):
        super().__init__()
        self.layers = nn.Sequential(Layer(features, features // 2, 1), Layer(features // 2, features, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class SmallBackbone(nn.Module):
    """maskrcnn_small's trunk and pyramid."""

    out_channels = 64

    def __init__(self) -> None:
        super().__init__()
        self.stem = Layer(3, 16, 3, 2)
        self.second = nn.Sequential(Layer(16, 32, 3, 2), Residual(32))
        self.third = nn.Sequential(Layer(32, 64, 3, 2), Residual(64))
        self.fourth = nn.Sequential(Layer(64, 96, 3, 2), Residual(96), Layer(96, 96, 3))
        self.fpn = FeaturePyramidNetwork([32, 64, 96], 64)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        second = self.second(self.stem(x))
        third = self.third(second)
        return self.fpn({"0": second, "1": third, "2": self.fourth(third)})


def small(side: int) -> MaskRCNN:
    """maskrcnn_small, of 5 outputs."""
    names = ["0", "1", "2"]
    return MaskRCNN(
        SmallBackbone(), min_size=side, max_size=side, box_score_thresh=0.0, box_detections_per_img=20,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3),
        rpn_pre_nms_top_n_train=200, rpn_pre_nms_top_n_test=200, rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100, rpn_batch_size_per_image=64, box_batch_size_per_image=32,
        box_roi_pool=MultiScaleRoIAlign(names, 7, 2, canonical_scale=56),
        box_head=TwoMLPHead(64 * 49, 128), box_predictor=FastRCNNPredictor(128, 5),
        mask_roi_pool=MultiScaleRoIAlign(names, 14, 2, canonical_scale=56),
        mask_head=MaskRCNNHeads(64, (64, 64), 1), mask_predictor=MaskRCNNPredictor(64, 64, 5),
    )  # fmt: skip


def resnet50(side: int) -> MaskRCNN:
    """maskrcnn_resnet50_fpn, whose norms do not learn and of whose trunk three stages do."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    for module in backbone.modules():  # as in two_stage.py
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.fill_(0.3)
    return MaskRCNN(backbone, 91, min_size=side, max_size=side, box_score_thresh=0.0)


class Peer:
    """A network with the images and objects of `two_stage.workload`, in a folder of .npy files."""

    def __init__(self, name: str, arrays: dict[str, Tensor]):
        side = arrays["image"].shape[1]
        self.network = {"maskrcnn_small": small, "maskrcnn_resnet50_fpn": resnet50}[name](side)
        learned = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(learned, lr=1e-4, momentum=0.9)
        self.images = list(arrays["image"].permute(0, 3, 1, 2).float() / 255)
        self.targets = [
            {"boxes": boxes, "labels": classes.long() + 1, "masks": masks.to(torch.uint8)}
            for boxes, classes, masks in zip(arrays["boxes"], arrays["classes"], arrays["masks"], strict=True)
        ]

    def train(self) -> int:
        self.network.train()
        self.optimizer.zero_grad()
        sum(self.network(self.images, self.targets).values()).backward()
        self.optimizer.step()
        return 0

    @torch.inference_mode()
    def infer(self) -> int:
        self.network.eval()
        return sum(len(found["boxes"]) for found in self.network(self.images))


def main(name: str, file: str) -> None:
    import numpy as np

    torch.manual_seed(0)
    with np.load(file) as arrays:
        peer = Peer(name, {key: torch.from_numpy(arrays[key]) for key in arrays.files})
    count = sum(p.numel() for p in peer.network.parameters())
    print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__}), count, flush=True)
    for line in sys.stdin:
        print({"train": peer.train, "infer": peer.infer}[line.strip()](), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
