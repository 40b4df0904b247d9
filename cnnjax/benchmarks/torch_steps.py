"""What torch does in the speed benchmarks, as fast as it is known to: channels_last, and on a GPU compiled."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cnnjax.benchmarks.torch_networks import NETWORKS, fast_device, with_variables
from cnnjax.benchmarks.workload import LEARNING_RATE, MOMENTUM, Workload


class Steps:
    """A network with our weights, and calls that train it and apply it.

    Images stay uint8 [N, H, W, C] on the device; a step takes a batch of them by index and normalizes it, as
    ours does. With `bfloat16`, autocast; with `compiler`, torch.compile in that mode.
    """

    def __init__(
        self, work: Workload, variables: Mapping[str, Any], bfloat16: bool = False, compiler: str = ""
    ):
        self.device = fast_device()
        network = with_variables(NETWORKS[work.model](work.num_outputs), variables)
        self.network = network.to(self.device)
        self.images = torch.from_numpy(work.images).to(self.device)
        self.targets = torch.from_numpy(np.asarray(work.targets)).to(self.device)
        if not work.dense_targets:
            self.targets = self.targets.long()
        self.index = torch.from_numpy(work.index).long().to(self.device)
        self.bfloat16 = bfloat16
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

        def loss(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            outputs = self.network(self.normalize(images))
            if work.dense_targets:
                return (outputs.permute(0, 2, 3, 1) - targets).square().sum((1, 2, 3)).mean()
            return F.cross_entropy(outputs.float(), targets)

        def apply(images: torch.Tensor) -> torch.Tensor:
            return self.network(self.normalize(images))

        self._loss: Callable[..., torch.Tensor] = torch.compile(loss, mode=compiler) if compiler else loss
        self._apply: Callable[..., torch.Tensor] = torch.compile(apply, mode=compiler) if compiler else apply

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [N, H, W, C] -> float32 [N, C, H, W] in channels_last, mean 0.5 and standard deviation 0.25."""
        return (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25

    def train(self) -> None:
        """One update; returns when it is finished."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self._loss(self.images[self.index], self.targets[self.index])
        loss.backward()
        self.optimizer.step()
        self._finish()

    def infer(self) -> torch.Tensor:
        """The outputs for one batch; returns when they are there."""
        self.network.eval()
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            outputs = self._apply(self.images[self.index])
        self._finish()
        return outputs

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
