"""Experiments on scikit-learn's bundled handwritten digits: no download, a minute or less."""

import dataclasses

from cnnjax.config import Augment, Data, Experiment, Model, Optimizer, Train


def digits_lenet() -> Experiment:
    """LeNet-5 on 1,797 handwritten digits.

    python launch.py
    Expect about 99 % of 360 held-out digits; about a minute on two CPU cores.
    """
    return Experiment(
        name="digits_lenet",
        data=Data(name="digits", image_size=28, batch_size=64),
        augment=Augment(rotate=10, scale=0.1, translate=0.08, shear=5),
        model=Model(name="lenet5"),
        optimizer=Optimizer(
            name="adamw", learning_rate=3e-3, weight_decay=1e-2, schedule="cosine", warmup=0.05
        ),
        train=Train(epochs=40, evaluate_every=10, checkpoint_every=10),
    )


def digits_sliding() -> Experiment:
    """LeNet-5 on digits of 32x32 pixels, unpadded: made to slide over a larger image (--mode=slide).

    python launch.py --mode=slide --experiment=digits_sliding
    One pass over the image equals its windows evaluated one by one, with a small part of their arithmetic.
    """
    lenet = digits_lenet()
    return dataclasses.replace(
        lenet, name="digits_sliding", data=dataclasses.replace(lenet.data, image_size=32)
    )
