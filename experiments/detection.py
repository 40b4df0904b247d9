"""Experiments that find objects: one per image, then several on a grid."""

from cnnjax.config import (
    Augment,
    Data,
    Detection,
    Evaluate,
    Experiment,
    Localization,
    Model,
    Optimizer,
    Train,
)


def digits_localization() -> Experiment:
    """One handwritten digit or none on clutter: is it there, where, and which (the lecture's loss B).

    python launch.py --experiment=digits_localization
    Expect an IoU of 0.86 and 97.8 % accuracy on 1,000 held-out scenes (means of 3 seeds); about ten minutes on one CPU core.
    """
    return Experiment(
        name="digits_localization",
        task="localization",
        data=Data(name="digit_scenes", objects=1, batch_size=64, resize="letterbox"),
        augment=Augment(scale=0.2, translate=0.1, hue=0.2, saturation=0.5, exposure=0.3),
        model=Model(name="localizer"),
        localization=Localization(box_weight=40),
        optimizer=Optimizer(
            name="adamw", learning_rate=3e-3, weight_decay=0.3, warmup=0.1, clip_norm=5.0, ema=0.99
        ),
        train=Train(epochs=12, evaluate_every=2, checkpoint_every=2),
    )


def bccd_localization() -> Experiment:
    """The white cell of a real photograph of blood, or none (BCCD, Pascal VOC layout; the lecture's loss B).

    python launch.py --experiment=bccd_localization --data.name=voc:PATH_TO_BCCD
    Expect an IoU of 0.79 on the 72 test images (mean of 3 seeds); about four minutes on one CPU core. The accuracy of
    94.4 % is that of saying yes each time: 4 of them have no white cell, as has 1 of the 205 to train with.
    """
    return Experiment(
        name="bccd_localization",
        task="localization",
        data=Data(
            name="voc:bccd", keep=("WBC",), image_size=96, image_width=128, batch_size=16, resize="letterbox"
        ),
        augment=Augment(
            flip="random",
            flip_vertical=True,
            scale=0.2,
            translate=0.3,
            hue=0.05,
            saturation=0.3,
            exposure=0.3,
        ),
        model=Model(name="localizer"),
        localization=Localization(box_weight=40),
        optimizer=Optimizer(name="adamw", learning_rate=2e-3, weight_decay=5e-2, warmup=0.1, clip_norm=5.0),
        train=Train(epochs=80, evaluate_every=20, checkpoint_every=20),
        evaluate=Evaluate(batch_size=24),
    )


def bccd_grid() -> Experiment:
    """Blood cells of three kinds on real photographs (BCCD, Pascal VOC layout), with anchors.

    python launch.py --experiment=bccd_grid --data.name=voc:PATH_TO_BCCD
    Expect a mean AP of 0.88 at IoU 0.5 on the test split (mean of 3 seeds); about seven minutes on one CPU core.
    """
    return Experiment(
        name="bccd_grid",
        task="grid_detection",
        data=Data(name="voc:bccd", image_size=240, image_width=320, batch_size=8, resize="letterbox"),
        augment=Augment(
            flip="random",
            flip_vertical=True,
            scale=0.2,
            translate=0.2,
            hue=0.05,
            saturation=0.3,
            exposure=0.3,
        ),
        model=Model(name="grid16"),
        detection=Detection(form="anchors", num_anchors=3, score_threshold=0.01),
        optimizer=Optimizer(
            name="adamw", learning_rate=2e-3, weight_decay=1e-2, warmup=0.05, clip_norm=10.0, ema=0.99
        ),
        train=Train(epochs=40, evaluate_every=20, checkpoint_every=10),
        evaluate=Evaluate(batch_size=8),
    )


def coco128_overfit() -> Experiment:
    """A check of the whole chain: a detector learns the 128 training images of coco128 by heart.

    python launch.py --experiment=coco128_overfit --data.name=yolo:PATH_TO_COCO128
    Expect an AP50 of 0.93 on those same images; about 15 minutes on one CPU core.
    """
    return Experiment(
        name="coco128_overfit",
        task="grid_detection",
        data=Data(name="yolo:coco128", split="train", image_size=256, batch_size=8, resize="letterbox"),
        model=Model(name="grid16"),
        detection=Detection(form="anchors", num_anchors=5, score_threshold=0.01),
        optimizer=Optimizer(name="adamw", learning_rate=2e-3, warmup=0.05, clip_norm=10.0),
        train=Train(epochs=150, evaluate_every=50, checkpoint_every=50),
        evaluate=Evaluate(batch_size=8),
    )


def scenes_grid() -> Experiment:
    """Up to four shapes on clutter, found by an 8x8 grid (the lecture's detector, loss B).

    python launch.py --experiment=scenes_grid
    Expect an AP50 of 0.95; about five minutes on two CPU cores.
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


def scenes_maskrcnn() -> Experiment:
    """Up to four shapes on clutter, each with its box and its mask (Mask R-CNN, 0.9 M parameters).

    python launch.py --experiment=scenes_maskrcnn
    Expect an AP of 0.83 for boxes and 0.79 for masks on 1,000 held-out scenes; about nine minutes on one CPU core.
    """
    return Experiment(
        name="scenes_maskrcnn",
        task="two_stage",
        data=Data(name="shapes", objects=4, image_size=128, masks=True, batch_size=8, resize="letterbox"),
        model=Model(name="maskrcnn_small"),
        detection=Detection(max_detections=20, shown_score=0.5),
        optimizer=Optimizer(
            name="adamw",
            learning_rate=2e-3,
            schedule="one_cycle",
            warmup=0.3,
            weight_decay=1e-2,
            clip_norm=5.0,
        ),
        train=Train(steps=1200, evaluate_every=0, checkpoint_every=1),
        evaluate=Evaluate(batch_size=20),
    )
