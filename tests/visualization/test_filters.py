"""Learned filters as pictures, feature maps, and the filter that finds vertical edges."""

import dataclasses

import numpy as np
import pytest
from scipy import signal

from cnnjax.config import ConfigError
from cnnjax.visualization.filters import VERTICAL_EDGES, apply_filter, feature_maps, first_filters


def test_vertical_edges():
    image = np.zeros((5, 8, 3), np.uint8)
    image[:, :4] = 255  # bright left half
    result = apply_filter(image)
    assert result.shape == (3, 6)
    np.testing.assert_allclose(result, [[0, 0, 3, 3, 0, 0]] * 3, rtol=1e-6, atol=3e-6)
    np.testing.assert_allclose(apply_filter(image.transpose(1, 0, 2)), 0, atol=1e-6)


def test_a_filter_is_a_correlation():
    image = np.random.default_rng(0).random((9, 7, 1)).astype(np.float32)
    expected = signal.correlate2d(image[..., 0], VERTICAL_EDGES, "valid")
    np.testing.assert_allclose(apply_filter(image), expected, atol=1e-5 * np.abs(expected).max())


def test_first_filters_are_on_their_own_scale(tiny):
    pictures = first_filters(tiny)
    kernel = np.asarray(tiny.variables["params"]["c1"]["kernel"])
    assert pictures.shape == (6, 3, 3, 3)
    for i in range(6):
        expected = 0.5 + 0.5 * kernel[..., i] / np.abs(kernel[..., i]).max()
        np.testing.assert_allclose(pictures[i], expected, atol=1e-6)
    swapped = first_filters(
        dataclasses.replace(tiny, preprocessing=dataclasses.replace(tiny.preprocessing, channel_order="bgr"))
    )
    np.testing.assert_array_equal(swapped, pictures[..., ::-1])


def test_feature_maps_share_a_scale(lenet, digits):
    maps = feature_maps(lenet, digits[0][0], "conv2")
    values = np.asarray(lenet.stages(digits[0][:1].astype(np.float32) / 255)["conv2"])[0]
    assert maps.shape == (16, 10, 10, 1) and maps.min() == 0 and maps.max() == 1
    expected = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(maps[:, :, :, 0], expected.transpose(2, 0, 1), atol=1e-5)
    assert feature_maps(lenet, digits[0][0], "conv2", count=3).shape[0] == 3


def test_what_has_no_filters_or_maps(linear, lenet, digits):
    with pytest.raises(ConfigError, match="no convolution with 1 input channels"):
        first_filters(linear)
    with pytest.raises(ConfigError, match="fc1 is a vector"):
        feature_maps(lenet, digits[0][0], "fc1")
