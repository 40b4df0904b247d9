"""The peer of decoding.py, for a Python of its own that has torch and torchvision; it needs nothing of cnnjax."""

import json
import sys
import time

import torch
import torchvision
from torchvision.transforms import Compose, PILToTensor, RandomResizedCrop


def main(folder: str, workers: str, batch: str, side: str, smallest: str, first: str, batches: str) -> None:
    """Prints a JSON line with the images per second of as many batches after the first ones."""
    change = Compose([RandomResizedCrop(int(side), (float(smallest), 1.0)), PILToTensor()])
    dataset = torchvision.datasets.ImageFolder(folder, change)
    total = (int(first) + int(batches)) * int(batch)
    loader = torch.utils.data.DataLoader(
        dataset,
        int(batch),
        sampler=torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=total),
        num_workers=int(workers),
    )
    began = ended = 0.0
    for number, (images, _) in enumerate(loader, start=1):
        assert images.shape == (int(batch), 3, int(side), int(side))
        if number == int(first):
            began = time.perf_counter()
        ended = time.perf_counter()
    rate = int(batches) * int(batch) / (ended - began)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    print(json.dumps({"images_per_second": rate, "versions": versions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
