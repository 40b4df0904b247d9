"""A file of weights that the tests share."""

import pytest
from drawn import draw, template
from safetensors.numpy import load_file

from cnnjax.weights.convert import save_torchvision


@pytest.fixture
def published(tmp_path):
    """A file with torchvision's names of a small VGG with normalization, its tensors, and the variables in it."""
    model, shapes = template("vgg11_bn", width=2, hidden=(6, 5), num_outputs=3)
    variables = draw(shapes)
    path = tmp_path / "vgg11_bn.safetensors"
    save_torchvision(path, "vgg11_bn", variables)
    return path, load_file(path), variables
