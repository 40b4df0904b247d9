"""Experiments that begin from a published network: your own photographs, and a small part of CIFAR-10."""

from cnnjax.config import Augment, Data, Experiment, Model, Optimizer, Train, replace


def finetune() -> Experiment:
    """A published SqueezeNet learns your classes: its head anew, the rest at a tenth of the rate.

    python launch.py --experiment=finetune --data.name=folder:PHOTOS --train.init_from=squeezenet1_0.npz
    PHOTOS holds a folder for each class; 200 of them take three minutes on a CPU core. Other networks by --model.name, as
    resnet50 with resnet50.pth.
    """
    return Experiment(
        name="finetune",
        data=Data(name="folder:photos", batch_size=16),
        augment=Augment(random_crop=0.5, flip="random"),
        model=Model(name="squeezenet1_0_caffe"),
        optimizer=Optimizer(
            name="adamw", learning_rate=1e-3, trunk_learning_rate=0.1, weight_decay=1e-2, schedule="cosine", warmup=0.1
        ),
        train=Train(epochs=10, evaluate_every=2, checkpoint_every=2, log_every=10),
    )  # fmt: skip


def finetune_cifar10_small() -> Experiment:
    """The head of a published SqueezeNet on 100 images per class of CIFAR-10, its trunk frozen.

    python launch.py --experiment=finetune_cifar10_small --train.init_from=squeezenet1_0.npz
    Expect 72 % of the first 2,000 test images; minutes on a CPU core.
    """
    return Experiment(
        name="finetune_cifar10_small",
        data=Data(name="cifar10", batch_size=50, limit=2000, per_class=100, image_size=96, resize="crop", resize_short=96),
        augment=Augment(flip="random"),
        model=Model(name="squeezenet1_0_caffe"),
        optimizer=Optimizer(name="adamw", learning_rate=1e-3, frozen=("trunk",), schedule="cosine", warmup=0.1),
        train=Train(epochs=6, evaluate_every=0, checkpoint_every=0),
    )  # fmt: skip


def finetune_cifar10_small_all() -> Experiment:
    """The same with a trunk that learns, at a tenth of the head's rate.

    python launch.py --experiment=finetune_cifar10_small_all --train.init_from=squeezenet1_0.npz
    Expect 72 % of the first 2,000 test images; five minutes on a CPU core.
    """
    changes = {
        "name": "finetune_cifar10_small_all",
        "optimizer.frozen": (),
        "optimizer.trunk_learning_rate": 0.1,
    }
    return replace(finetune_cifar10_small(), changes)


def cifar10_small() -> Experiment:
    """The same network and images from random numbers: what published weights are worth.

    python launch.py --experiment=cifar10_small
    Expect 18 % of the first 2,000 test images; five minutes on a CPU core. One run of 24 epochs had 31 %.
    """
    return replace(finetune_cifar10_small(), {"name": "cifar10_small", "optimizer.frozen": ()})
