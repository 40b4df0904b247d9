"""Experiments that find objects: one per image, then several on a grid."""

from cnnjax.config import Augment, Data, Detection, Experiment, Model, Optimizer, Train


def digits_localization() -> Experiment:
    """One handwritten digit or none on clutter: is it there, where, and which (the lecture's loss B).

    python launch.py --experiment=digits_localization
    Expect an IoU of 0.85 and 97 % accuracy; a few minutes on two CPU cores.
    """
    return Experiment(
        name="digits_localization",
        task="localization",
        data=Data(name="digit_scenes", objects=1, batch_size=64, resize="letterbox"),
        augment=Augment(scale=0.1, translate=0.1, brightness=0.1),
        model=Model(name="localizer"),
        optimizer=Optimizer(name="adamw", learning_rate=3e-3, weight_decay=1e-2, warmup=0.05),
        train=Train(epochs=25, evaluate_every=5, checkpoint_every=5),
    )


def scenes_grid() -> Experiment:
    """Up to four shapes on clutter, found by an 8x8 grid (the lecture's detector, loss B).

    python launch.py --experiment=scenes_grid
    Expect an AP50 of 0.90; about ten minutes on two CPU cores.
    """
    return Experiment(
        name="scenes_grid",
        task="grid_detection",
        data=Data(name="shapes", objects=4, batch_size=32, resize="letterbox"),
        augment=Augment(flip="random", scale=0.1, translate=0.1),
        model=Model(name="grid8"),
        detection=Detection(form="logistic"),
        optimizer=Optimizer(name="adamw", learning_rate=3e-3, weight_decay=1e-2, warmup=0.05),
        train=Train(epochs=25, evaluate_every=5, checkpoint_every=5),
    )
