"""Mean and standard deviation of the channels of images."""

import numpy as np


def channel_stats(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (of the population, not the sample) of each channel, in units of [0, 1].

    They come from counts of the 256 values, so they are exact to float64 however many images there are.
    A channel that is constant has a standard deviation of 0.

    Args:
      images: uint8 [N, H, W, C].
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    chunk = max(1, 2**24 // images[0].size)  # bincount turns bytes into int64: bound what that takes
    for start in range(0, len(images), chunk):
        for channel in range(channels):
            counts[channel] += np.bincount(images[start : start + chunk, ..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255.0
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    variance = np.sum(share * (values[None] - mean[:, None]) ** 2, axis=1)
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())
