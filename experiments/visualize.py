"""What networks learned, as galleries: --mode=visualize with everything that it needs."""

import dataclasses

from cnnjax.config import Data, Experiment, Model, Train, Visualize

from .cifar10 import cifar10_resnet56
from .digits import digits_lenet


def visualize_digits() -> Experiment:
    """LeNet-5 on handwritten digits: trained, then looked at.

    python launch.py --mode=visualize --experiment=visualize_digits
    """
    return dataclasses.replace(
        digits_lenet(),
        name="visualize_digits",
        train=Train(epochs=12, evaluate_every=0, checkpoint_every=1, keep_last=20),
        visualize=Visualize(train=True, steps=(0, 4, 16, 64), images=5, embedded=360, svm_images=1400),
    )


def visualize_cifar10() -> Experiment:
    """What published weights of ResNet-56 learned from CIFAR-10.

    python launch.py --mode=visualize --experiment=visualize_cifar10 --weights=resnet56.th
    """
    return dataclasses.replace(
        cifar10_resnet56(),
        name="visualize_cifar10",
        visualize=Visualize(steps=(0, 4, 48, 256), images=10, embedded=10_000, svm_images=5000),
    )


def visualize_squeezenet() -> Experiment:
    """What published weights of SqueezeNet 1.0 learned from ImageNet, on photographs of your own.

    python launch.py --mode=visualize --experiment=visualize_squeezenet --weights=squeezenet1_0.npz --inputs=FOLDER
    """
    return Experiment(
        name="visualize_squeezenet",
        data=Data(name="imagenet2012"),
        model=Model(name="squeezenet1_0_caffe"),
        visualize=Visualize(
            layer=("fire3", "fire5", "fire7", "fire9"),
            steps=(0, 4, 48, 128),
            channels=9,
            # goldfish, peacock, flamingo, golden retriever, tiger, monarch butterfly,
            # starfish, giant panda, school bus, lemon, pizza, daisy
            classes=("1", "84", "130", "207", "292", "323", "327", "388", "779", "951", "963", "985"),
            images=4,
            toward="207",
            size=160,
        ),
    )
