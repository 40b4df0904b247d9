"""SmoothGrad, Grad-CAM++ and RISE on a network written once more in torch, in float64, after the papers."""

import jax
import numpy as np
import pytest

from cnnjax.visualization import attribution as at

torch = pytest.importorskip("torch")
functional = torch.nn.functional

LABELS = [3, 1]
MEAN, STD = 0.5, 0.25  # of the fixture `tiny`


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(4).random((2, 16, 16, 3)).astype(np.float32)


def to_torch(images):
    return torch.tensor(np.asarray(images, np.float64).transpose(0, 3, 1, 2))


def from_torch(images):
    return images.detach().numpy().transpose(0, 2, 3, 1)


def weights(network):
    """Kernels and biases of the three layers, in torch's order."""
    found = []
    for name in ("c1", "c2", "out"):
        layer = network.variables["params"][name]
        kernel = np.asarray(layer["kernel"], np.float64)
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        found += [torch.tensor(kernel), torch.tensor(np.asarray(layer["bias"], np.float64))]
    return found


def lower(network, x):
    """Pictures [N, 3, H, W] in [0, 1] -> pool1."""
    kernel, bias, *_ = weights(network)
    return functional.max_pool2d(functional.relu(functional.conv2d((x - MEAN) / STD, kernel, bias)), 3, 2)


def upper(network, pool1):
    """pool1 -> logits [N, 5]."""
    _, _, kernel, bias, *head = weights(network)
    return functional.linear(functional.relu(functional.conv2d(pool1, kernel, bias)).mean((2, 3)), *head)


def test_smooth_grad(tiny, pictures):
    """The mean gradient of noisy copies, with the noise that is drawn here."""
    keys = jax.random.split(jax.random.key(7), 4)
    noise = [0.15 * np.asarray(jax.random.normal(key, pictures.shape)) for key in keys]
    total = 0
    for one in noise:
        x = to_torch(pictures + one).requires_grad_()
        logits = upper(tiny, lower(tiny, x))
        (slope,) = torch.autograd.grad(sum(logits[n, label] for n, label in enumerate(LABELS)), x)
        total = total + slope
    expected = from_torch(total / len(noise))
    result = at.smooth_grad(tiny, pictures, LABELS, jax.random.key(7), samples=4, deviation=0.15)
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())


def test_grad_cam_plus_plus(tiny, pictures):
    """Chattopadhay et al. 2018, equations 13 and 19, of Y = exp(logit) by three derivatives of every activation.

    All three share the factor exp(logit), which is divided out: it scales the map.
    """
    activation = lower(tiny, to_torch(pictures))
    expected = []
    for n, label in enumerate(LABELS):
        a = activation[n : n + 1].detach().requires_grad_()
        logit = upper(tiny, a)[0, label]
        scale = torch.exp(logit).item()
        (first,) = torch.autograd.grad(torch.exp(logit), a, create_graph=True)
        second, third = torch.zeros(a.numel()).double(), torch.zeros(a.numel()).double()
        for i, slope in enumerate(first.flatten()):
            (row,) = torch.autograd.grad(slope, a, create_graph=True, retain_graph=True)
            second[i] = row.flatten()[i]
            (row,) = torch.autograd.grad(row.flatten()[i], a, retain_graph=True)
            third[i] = row.flatten()[i]
        second, third = second.reshape(a.shape) / scale, third.reshape(a.shape) / scale
        alpha = second / (2 * second + a.sum((2, 3), keepdim=True) * third + 1e-6)
        weight = (alpha * functional.relu(first / scale)).sum((2, 3), keepdim=True)
        expected.append(functional.relu((weight * a).sum(1, keepdim=True)))
    enlarged = functional.interpolate(torch.cat(expected), (16, 16), mode="bilinear", align_corners=False)
    expected = from_torch(enlarged)[..., 0]
    assert (expected > 0).mean() > 0.1
    result = at.grad_cam_plus_plus(tiny, pictures, LABELS, "pool1")
    np.testing.assert_allclose(result, expected, atol=1e-4 * expected.max())


def rise_masks(key, count, cells, keep, size):
    """Petsiuk et al. 2018, section 3.2, with the numbers drawn here: grids, enlarged in torch, then cut out."""
    grid_key, shift_key = jax.random.split(key)
    height, width = (-(-length // cells) for length in size)
    drawn = np.asarray(jax.random.bernoulli(grid_key, keep, (count, cells + 1, cells + 1)), np.float64)
    grids = torch.tensor(drawn)[:, None]
    whole = ((cells + 1) * height, (cells + 1) * width)
    smooth = functional.interpolate(grids, whole, mode="bilinear", align_corners=False)[:, 0].numpy()
    shifts = np.asarray(jax.random.randint(shift_key, (count, 2), 0, np.array([[height, width]])))
    return np.stack([m[y : y + size[0], x : x + size[1]] for m, (y, x) in zip(smooth, shifts, strict=True)])


def test_rise(tiny, pictures):
    """Masks weighted by the probability of what they leave, one by one, over their number and share."""
    count, cells, keep = 50, 3, 0.4  # 3 cells of 6 pixels reach beyond the 16 of the picture
    masks = rise_masks(jax.random.key(5), count, cells, keep, (16, 16))
    assert masks.min() == 0 and masks.max() == 1 and abs(masks.mean() - keep) < 0.05
    expected = np.zeros((2, 16, 16))
    for n, label in enumerate(LABELS):
        for mask in masks:
            left = to_torch(pictures[n : n + 1] * mask[None, :, :, None])
            probability = torch.softmax(upper(tiny, lower(tiny, left)), 1)[0, label].item()
            expected[n] += probability * mask / (count * keep)
    result = at.rise(tiny, pictures, LABELS, jax.random.key(5), count, cells, keep)
    np.testing.assert_allclose(result, expected, rtol=1e-4)
