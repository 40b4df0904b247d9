"""What published networks show on real images. Needs ../shared data; minutes on a CPU."""

import os
import re

import jax
import numpy as np
import pytest

from cnnjax.config import Data
from cnnjax.data.images import read_image
from cnnjax.runs.run import restore
from cnnjax.runs.transfer import import_weights
from cnnjax.runs.workdir import Workdir
from cnnjax.visualization.interrogate import interrogate
from cnnjax.visualization.render import render_each
from experiments.visualize import visualize_squeezenet

pytestmark = pytest.mark.slow

GOLDEN_RETRIEVER = 207


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    """The run of an import, made once."""
    path = os.path.join(os.environ.get("CNNJAX_SHARED", ""), "data/weights/squeezenet1_0/squeezenet1_0.npz")
    if not os.path.exists(path):
        pytest.skip("needs published weights: set CNNJAX_SHARED to their folder")
    workdir = Workdir(tmp_path_factory.mktemp("squeezenet"))
    import_weights(visualize_squeezenet(), path, workdir, tuple(map(str, range(1000))))
    return restore(workdir)


def test_a_photograph_becomes_a_dog(squeezenet, shared):
    network = squeezenet.first
    original = read_image(shared("data/imagenet_sample/n09332890_lakeside.jpg"), Data(), 3)
    photograph = squeezenet.recipe.preprocessing.frame(original, squeezenet.image_shape)
    result = interrogate(network, photograph, GOLDEN_RETRIEVER, key=jax.random.key(0), steps=(0, 64))
    assert result.probabilities[0] < 0.01 and result.probabilities[-1] > 0.9
    assert np.abs(result.image - photograph / 255).mean() < 0.15  # and is still the photograph


def test_channels_of_several_layers_give_pictures(squeezenet):
    """No grey fields, and each picture excites its own channel more than the others do."""
    network = squeezenet.first.at_size(96, 96)
    for layer in ("fire3", "fire9"):
        made = render_each(network, [f"{layer}:{c}" for c in range(3)], key=jax.random.key(0), steps=(0, 48))
        pictures = np.concatenate([r.images for r in made])
        assert all(r.alive and r.values[48] > 3 * max(r.values[0], 1.0) for r in made)
        assert pictures.std(axis=(1, 2, 3)).min() > 0.08
        responses = network.stages(pictures)[layer][..., :3].mean(axis=(1, 2))
        np.testing.assert_array_equal(np.argmax(responses, axis=0), [0, 1, 2])


def test_an_svm_on_the_features_of_resnet56(launch, shared, tmp_path):
    """First 5,000 training images, all 10,000 test images of CIFAR-10: at least 92 %."""
    weights = shared("data/weights/resnet_cifar10/resnet56-4bfd9763.th")
    shared("data/tfds/cifar10")
    result = launch(
        "--mode=visualize", "--experiment=visualize_cifar10", f"--weights={weights}", f"--workdir={tmp_path}",
        f"--data_dir={shared('data/tfds')}", "--visualize.pages=embeddings",
    )  # fmt: skip
    assert result.code == 0, result.err
    page = (tmp_path / "gallery" / "gallery.html").read_text()
    assert "Trained on 5000 training images, tested on 10000 others" in page
    accuracy = re.search(r"A linear SVM on the vectors of each layer: ([\d.]+)%", page)
    assert accuracy and float(accuracy[1]) >= 92
