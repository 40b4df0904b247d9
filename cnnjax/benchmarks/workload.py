"""What a speed benchmark gives both sides: a network, images, targets and one batch of them."""

import dataclasses

import numpy as np

LEARNING_RATE, MOMENTUM = 1e-3, 0.9  # of the SGD that both sides train with
RESIDENT = 1024  # images that live on the device, of which a step takes a batch


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network of the model table with random images; its targets are labels, or as large as its outputs."""

    model: str
    shape: tuple[int, int, int]  # of an image
    batch_size: int
    num_outputs: int = 10
    grid: tuple[int, int] = (0, 0)  # rows and columns of the output; 0: one vector per image

    @property
    def dense_targets(self) -> bool:
        return self.grid != (0, 0)

    @property
    def images(self) -> np.ndarray:
        """uint8 [N, H, W, C], the same on every call."""
        count = max(self.batch_size, min(RESIDENT, 2**26 // int(np.prod(self.shape))))
        return np.random.default_rng(0).integers(0, 256, (count, *self.shape), np.uint8)

    @property
    def targets(self) -> np.ndarray:
        """int32 [N], or float32 [N, rows, columns, num_outputs]."""
        count = len(self.images)
        if self.dense_targets:
            shape = (count, *self.grid, self.num_outputs)
            return np.random.default_rng(1).normal(size=shape).astype(np.float32)
        return np.random.default_rng(1).integers(0, self.num_outputs, count).astype(np.int32)

    @property
    def index(self) -> np.ndarray:
        """int32 [batch_size]: the images of the batch."""
        return np.random.default_rng(2).permutation(len(self.images))[: self.batch_size].astype(np.int32)


CPU_WORKLOADS = {
    "mnist_cnn": Workload("mnist_cnn", (28, 28, 1), 128),
    "resnet20": Workload("resnet20", (32, 32, 3), 128),
    "wrn16_4": Workload("wrn16_4", (32, 32, 3), 128),
    "vgg11": Workload("vgg11_cifar", (32, 32, 3), 128),
    "grid16": Workload("grid16", (128, 128, 3), 128, 9, (8, 8)),
}
GPU_WORKLOADS = {
    "resnet50_bfloat16": Workload("resnet50", (224, 224, 3), 256, 1000),
    "resnet18_bfloat16": Workload("resnet18_cifar", (32, 32, 3), 1024),
    "wrn28_10_bfloat16": Workload("wrn28_10", (32, 32, 3), 512),
}
TINY_WORKLOADS = {
    "tiny_resnet": Workload("tiny_resnet", (32, 32, 3), 4),
    "tiny_grid": Workload("grid8", (16, 16, 3), 4, 6, (2, 2)),
}
