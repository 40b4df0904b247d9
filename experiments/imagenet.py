"""Networks for ImageNet (Russakovsky et al. 2015): to import published weights into, to summarize, to train."""

import dataclasses
from collections.abc import Callable

from cnnjax.config import Augment, Data, Experiment, Model, Optimizer, Train


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """How a network was trained: SGD with momentum 0.9, at a rate that is meant for batches of this size."""

    source: str
    batch_size: int
    epochs: int
    learning_rate: float
    reference_batch: int
    weight_decay: float
    schedule: str = "piecewise"
    falls: tuple[int, ...] = ()  # epochs after which the rate is multiplied by `decay`
    decay: float = 0.1
    warmup: int = 0  # epochs
    nesterov: bool = False

    def optimizer(self) -> Optimizer:
        return Optimizer(
            name="sgd",
            momentum=0.9,
            nesterov=self.nesterov,
            learning_rate=self.learning_rate,
            reference_batch=self.reference_batch,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            boundaries=tuple(epoch / self.epochs for epoch in self.falls),
            decay=self.decay,
            warmup=self.warmup / self.epochs,
        )


# Krizhevsky 2014, section 5: in three steps by 250 in all.
_ALEXNET = _Recipe(
    "Krizhevsky 2014", 128, 90, 0.01, 128, 5e-4, falls=(22, 45, 68), decay=250 ** (-1 / 3)
)  # fmt: skip
# Simonyan & Zisserman 2015, section 3.1: the rate fell three times, when nothing got better, which is no plan; when is ours.
_VGG = _Recipe("Simonyan & Zisserman 2015", 256, 74, 0.01, 256, 5e-4, falls=(37, 56, 67), warmup=5)
# Szegedy et al. 2015 give no rate; BVLC's solver does, whose fall along a square root is linear here.
_GOOGLENET = _Recipe("BVLC's quick solver", 256, 60, 0.01, 32, 2e-4, schedule="linear", warmup=5)
_RESNET = _Recipe(
    "Goyal et al. 2017", 256, 90, 0.1, 256, 1e-4, falls=(30, 60, 80), warmup=5, nesterov=True
)  # fmt: skip
_DENSENET = _Recipe("Huang et al. 2017", 256, 90, 0.1, 256, 1e-4, falls=(30, 60), warmup=5, nesterov=True)
# 170,000 steps.
_SQUEEZENET = _Recipe("Iandola et al. 2016", 512, 68, 0.04, 512, 2e-4, schedule="linear")

# Experiment, model, what it is, how it is trained.
_NETWORKS = (
    ("imagenet_alexnet", "alexnet_one_tower", "AlexNet in one tower (Krizhevsky 2014)", _ALEXNET),
    ("imagenet_vgg16", "vgg16", "VGG16 (Simonyan & Zisserman 2015)", _VGG),
    (
        "imagenet_googlenet",
        "googlenet_bn",
        "GoogLeNet with batch norm, torchvision's form (Szegedy et al. 2015)",
        _GOOGLENET,
    ),
    (
        "imagenet_inception5h",
        "inception5h",
        "GoogLeNet as Google trained it, the network of lucid (Szegedy et al. 2015)",
        # Without batch norm, small batches: the rate that they are scaled to would be too large.
        dataclasses.replace(_GOOGLENET, batch_size=32),
    ),
    ("imagenet_resnet18", "resnet18", "ResNet-18 (He et al. 2016)", _RESNET),
    ("imagenet_resnet50", "resnet50", "ResNet-50 v1.5 (He et al. 2016)", _RESNET),
    ("imagenet_densenet121", "densenet121", "DenseNet-121 (Huang et al. 2017)", _DENSENET),
    (
        "imagenet_squeezenet",
        "squeezenet1_0_caffe",
        "SqueezeNet 1.0, its authors' Caffe form (Iandola et al. 2016)",
        _SQUEEZENET,
    ),
)


def _experiment(name: str, model: str, title: str, recipe: _Recipe) -> Callable[[], Experiment]:
    def experiment() -> Experiment:
        return Experiment(
            name=name,
            data=Data(
                name="imagenet2012",
                batch_size=recipe.batch_size,
                image_size=224,
                resize="crop",
                resize_short=256,
            ),
            # Windows of 8 to 100 % of the area for all of them (Szegedy et al. 2015), older ones' too.
            augment=Augment(random_crop=0.92, flip="random"),
            model=Model(name=model),
            optimizer=recipe.optimizer(),
            train=Train(epochs=recipe.epochs),
        )

    experiment.__name__ = name
    experiment.__doc__ = f"""{title}.

    python launch.py --mode=import --experiment={name} --weights=FILE --workdir=DIR
    python launch.py --experiment={name} --data.stream=true --data.stream_crop=true --data.workers=16
    The first for published weights. The second trains {recipe.epochs} epochs as {recipe.source}; that is not measured.
    """
    return experiment


EXPERIMENTS = tuple(_experiment(*network) for network in _NETWORKS)
