"""Networks for ImageNet (Russakovsky et al. 2015): to import published weights into, to summarize, to train."""

from collections.abc import Callable

from cnnjax.config import Augment, Data, Experiment, Model, Optimizer, Train

# Experiment, model, what it is.
_NETWORKS = (
    ("imagenet_alexnet", "alexnet_one_tower", "AlexNet in one tower (Krizhevsky 2014)"),
    ("imagenet_vgg16", "vgg16", "VGG16 (Simonyan & Zisserman 2015)"),
    (
        "imagenet_googlenet",
        "googlenet_bn",
        "GoogLeNet with batch norm, torchvision's form (Szegedy et al. 2015)",
    ),
    (
        "imagenet_inception5h",
        "inception5h",
        "GoogLeNet as Google trained it, the network of lucid (Szegedy et al. 2015)",
    ),
    ("imagenet_resnet18", "resnet18", "ResNet-18 (He et al. 2016)"),
    ("imagenet_resnet50", "resnet50", "ResNet-50 v1.5 (He et al. 2016)"),
    ("imagenet_densenet121", "densenet121", "DenseNet-121 (Huang et al. 2017)"),
    (
        "imagenet_squeezenet",
        "squeezenet1_0_caffe",
        "SqueezeNet 1.0, its authors' Caffe form (Iandola et al. 2016)",
    ),
)


def _experiment(name: str, model: str, title: str) -> Callable[[], Experiment]:
    def experiment() -> Experiment:
        return Experiment(
            name=name,
            data=Data(name="imagenet2012", batch_size=256, image_size=224, resize="crop", resize_short=256),
            augment=Augment(crop=16, flip="random"),
            model=Model(name=model),
            optimizer=Optimizer(
                name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-4, schedule="cosine", warmup=0.05
            ),
            train=Train(epochs=90),
        )

    experiment.__name__ = name
    experiment.__doc__ = f"""{title}.

    python launch.py --mode=import --experiment={name} --weights=FILE --workdir=DIR
    For published weights; training from scratch needs ImageNet in memory and is not measured.
    """
    return experiment


EXPERIMENTS = tuple(_experiment(*network) for network in _NETWORKS)
