"""Experiments that find objects with masks or keypoints in two stages."""

from cnnjax.config import Augment, Data, Detection, Evaluate, Experiment, Model, Optimizer, Train, replace

_STEPS = 90_000  # Lin et al. 2017, section 4


def coco_maskrcnn() -> Experiment:
    """Mask R-CNN with ResNet-50 and a feature pyramid on COCO: short sides of 800 pixels, long ones of at most 1333.

    python launch.py --mode=prepare --data.name=coco:PATH_TO_COCO --data.masks --output=RECORDS
    python launch.py --experiment=coco_maskrcnn --data.name=records:RECORDS --data.stream --train.init_from=WEIGHTS

    Not trained here: 90,000 steps of 16 images. Its norms do not learn, so it begins from trained weights. torchvision's
    have a box AP of 37.9 and a mask AP of 34.6 (their authors); to import them: --mode=import
    --model.name=maskrcnn_resnet50_fpn_coco_v1.
    """
    return Experiment(
        name="coco_maskrcnn",
        task="two_stage",
        data=Data(
            name="coco:coco",
            image_size=800,
            image_width=1333,
            resize="short_side",
            masks=True,
            batch_size=16,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        augment=Augment(flip="random"),
        model=Model(name="maskrcnn_resnet50_fpn"),
        detection=Detection(shown_score=0.5),
        optimizer=Optimizer(
            name="sgd",
            learning_rate=0.02,
            momentum=0.9,
            weight_decay=1e-4,
            warmup=500 / _STEPS,
            schedule="piecewise",
            boundaries=(2 / 3, 8 / 9),
        ),
        train=Train(steps=_STEPS, evaluate_every=4, checkpoint_every=1),
        evaluate=Evaluate(batch_size=4),
    )


def coco_keypointrcnn() -> Experiment:
    """Keypoint R-CNN with ResNet-50 and a feature pyramid on COCO's persons, as `coco_maskrcnn`.

    python launch.py --mode=prepare --data.name=coco:PATH_TO_COCO --data.keypoints --output=RECORDS
    python launch.py --experiment=coco_keypointrcnn --data.name=records:RECORDS --data.stream --train.init_from=WEIGHTS

    Not trained here. torchvision's weights have a box AP of 54.6 and a keypoint AP of 65.0 (their authors).
    """
    changes = {"name": "coco_keypointrcnn", "data.masks": False, "data.keypoints": True}
    return replace(coco_maskrcnn(), changes | {"model.name": "keypointrcnn_resnet50_fpn"})


def coco128_maskrcnn_overfit() -> Experiment:
    """A check of the whole chain of masks: a small Mask R-CNN learns the 100 training images of coco128 that have
    polygons by heart.

    python launch.py --experiment=coco128_maskrcnn_overfit --data.name=coco:PATH_TO_COCO128
    Expect a mask AP50 of 0.80 and a box AP50 of 0.89 on those same images (one run); half an hour on one CPU core.
    """
    return Experiment(
        name="coco128_maskrcnn_overfit",
        task="two_stage",
        data=Data(
            name="coco:coco128",
            split="train",
            image_size=224,
            image_width=288,
            masks=True,
            batch_size=8,
            resize="letterbox",
        ),
        model=Model(name="maskrcnn_small", options=("mask_convs=128/128", "hidden=256")),
        detection=Detection(max_detections=50, shown_score=0.5),
        optimizer=Optimizer(
            name="adamw", learning_rate=2e-3, schedule="one_cycle", warmup=0.2, clip_norm=5.0
        ),
        train=Train(steps=3500, evaluate_every=0, checkpoint_every=20),
        evaluate=Evaluate(batch_size=10),
    )
