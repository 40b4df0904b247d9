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


def digits_rows() -> Experiment:
    """An LSTM reads digits of 8x8 pixels row by row, from the top and from the bottom.

    python launch.py --experiment=digits_rows
    Expect about 98 % of 360 held-out digits (98.06 % in one run); half a minute on a CPU core.
    """
    return Experiment(
        name="digits_rows",
        data=Data(name="digits", batch_size=64),
        augment=Augment(rotate=8, scale=0.08, translate=0.05),
        model=Model(name="lstm_rows", options=("hidden=64", "bidirectional=true")),
        optimizer=Optimizer(name="adam", learning_rate=5e-3, schedule="cosine", warmup=0.05, clip_norm=1),
        train=Train(epochs=40, evaluate_every=10, checkpoint_every=10),
    )
