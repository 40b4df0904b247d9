"""Published weights score what their authors say, on real images. Needs ../shared data; minutes on a CPU."""

import csv
import os

import jax
import numpy as np
import pytest

from cnnjax.models import create_model
from cnnjax.weights.convert import load_weights, preprocessing

pytestmark = pytest.mark.slow


def load(path, name, size):
    model = create_model(name)
    template = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, size, size, 3), np.float32))
    return jax.jit(model.apply), load_weights(path, name, template), preprocessing(path, name)


@pytest.fixture(scope="module")
def cifar10_test():
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = os.path.join(os.environ.get("CNNJAX_SHARED", ""), "data/tfds")
    if not os.path.isdir(os.path.join(folder, "cifar10")):
        pytest.skip("needs the prepared CIFAR-10: set CNNJAX_SHARED to its folder")
    source = tfds.data_source("cifar10", split="test", data_dir=folder)
    examples = [source[i] for i in range(len(source))]
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


@pytest.mark.parametrize(
    ("name", "file", "accuracy"),
    [
        ("resnet20", "resnet20-12fca82f.th", 91.73),
        ("resnet32", "resnet32-d509ac18.th", 92.63),
        ("resnet44", "resnet44-014dd654.th", 93.10),
        ("resnet56", "resnet56-4bfd9763.th", 93.39),
    ],
)
def test_cifar_resnets(shared, cifar10_test, name, file, accuracy):
    pytest.importorskip("torch", reason="the files are torch checkpoints")
    images, labels = cifar10_test
    apply, variables, prepare = load(shared(f"data/weights/resnet_cifar10/{file}"), name, 32)
    correct = 0
    for i in range(0, len(images), 500):
        logits = apply(variables, prepare(images[i : i + 500]))
        correct += int((np.asarray(logits).argmax(-1) == labels[i : i + 500]).sum())
    score = 100 * correct / len(images)
    print(f"{name}: {score:.2f} %")
    assert len(images) == 10_000
    assert score == pytest.approx(accuracy, abs=0.02)


def test_squeezenet_on_photographs(shared):
    """About 62 % top-1 and 84 % top-5 on photographs of ImageNet; here 100 of them, so give or take ten."""
    from PIL import Image

    path = shared("data/weights/squeezenet1_0/squeezenet1_0.npz")
    apply, variables, prepare = load(path, "squeezenet1_0_caffe", 227)
    folder = shared("data/imagenet_sample")
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    images = []
    for row in rows:
        with Image.open(folder / row["file"]) as photo:
            left, top = (photo.width - prepare.image_size) // 2, (photo.height - prepare.image_size) // 2
            box = (left, top, left + prepare.image_size, top + prepare.image_size)
            images.append(np.asarray(photo.convert("RGB").crop(box)))
    labels = np.array([int(row["class_index"]) for row in rows])
    logits = np.asarray(apply(variables, prepare(np.stack(images))))
    order = np.argsort(-logits, axis=-1)
    top1, top5 = (order[:, :1] == labels[:, None]).mean(), (order[:, :5] == labels[:, None]).any(-1).mean()
    print(f"squeezenet1_0: top-1 {100 * top1:.0f} %, top-5 {100 * top5:.0f} %")
    assert len(rows) == 100
    assert top1 >= 0.52 and top5 >= 0.74
    # Each step of the preprocessing matters: without the order of channels the score falls.
    swapped = np.asarray(apply(variables, prepare(np.stack(images)[..., ::-1])))
    assert (swapped.argmax(-1) == labels).mean() < top1
