"""Experiments on CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32x32x3."""

from cnnjax.config import Augment, Data, Experiment, Model, Optimizer, Train


def cifar10_resnet20() -> Experiment:
    """ResNet-20 on CIFAR-10 (He et al. 2016, section 4.2).

    python launch.py --experiment=cifar10_resnet20
    The paper has 91.25 % after 164 epochs; minutes on a GPU, about 14 hours on two CPU cores.
    """
    return Experiment(
        name="cifar10_resnet20",
        data=Data(name="cifar10", batch_size=128),
        augment=Augment(crop=4, flip="random"),
        model=Model(name="resnet20"),
        optimizer=Optimizer(
            name="sgd", learning_rate=0.1, weight_decay=1e-4, schedule="piecewise", boundaries=(0.5, 0.75)
        ),
        train=Train(epochs=200, evaluate_every=5, checkpoint_every=5),
    )
