"""Detectors over several scales: YOLOv3 with the recipe of its configuration, and small ones for a few photographs."""

from cnnjax.config import Augment, Data, Detection, Evaluate, Experiment, Model, Optimizer, Train, replace


def coco_yolov3() -> Experiment:
    """YOLOv3 on COCO with the recipe of darknet's yolov3.cfg; also the form in which its weights are imported.

    python launch.py --experiment=coco_yolov3
    python launch.py --mode=import --experiment=coco_yolov3 --weights=yolov3.weights --classes=coco.names --workdir=DIR
    Not trained here: 500,200 steps of 64 images. Darknet's own weights have an AP50 of 0.553 at 416 pixels (their authors).
    """
    return Experiment(
        name="coco_yolov3",
        task="multiscale_detection",
        data=Data(
            name="coco/2017",
            image_size=416,
            batch_size=64,
            resize="letterbox",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ),
        augment=Augment(
            flip="random",
            scale=0.3,
            translate=0.2,
            hue=0.1,
            saturation=0.5,
            exposure=0.5,
            sizes=tuple(range(320, 609, 32)),
        ),
        model=Model(name="yolov3"),
        detection=Detection(score_threshold=0.005, iou_threshold=0.45, shown_score=0.5),
        optimizer=Optimizer(
            name="sgd",
            learning_rate=1e-3,
            momentum=0.9,
            weight_decay=5e-4,
            warmup=1000 / 500_200,
            schedule="piecewise",
            boundaries=(400_000 / 500_200, 450_000 / 500_200),
        ),
        train=Train(steps=500_200, evaluate_every=10, checkpoint_every=1),
        evaluate=Evaluate(batch_size=16),
    )


def coco_yolov3_tiny() -> Experiment:
    """YOLOv3-tiny on COCO with the recipe of darknet's yolov3-tiny.cfg; also the form to import its weights.

    python launch.py --experiment=coco_yolov3_tiny
    Not trained here: 500,200 steps of 64 images. Darknet's own weights have an AP50 of 0.331 (their authors).
    """
    return replace(coco_yolov3(), {"name": "coco_yolov3_tiny", "model.name": "yolov3_tiny"})


def coco128_yolov3_tiny() -> Experiment:
    """A check of detection at several scales: YOLOv3-tiny learns the 128 images of coco128 by heart, at several sizes.

    python launch.py --experiment=coco128_yolov3_tiny --data.name=yolo:PATH_TO_COCO128
    Expect an AP50 of 0.91 of those same images, and an AP of 0.83; 50 minutes on one CPU core.
    """
    return Experiment(
        name="coco128_yolov3_tiny",
        task="multiscale_detection",
        data=Data(name="yolo:coco128", split="train", image_size=288, batch_size=8, resize="letterbox"),
        augment=Augment(sizes=(224, 256, 288)),
        model=Model(name="yolov3_tiny"),
        detection=Detection(loss="ciou", kmeans=True, score_threshold=0.01, iou_threshold=0.45),
        optimizer=Optimizer(name="adamw", learning_rate=1e-3, warmup=0.05, clip_norm=10.0),
        train=Train(epochs=180, evaluate_every=60, checkpoint_every=20),
        evaluate=Evaluate(batch_size=8),
    )


def bccd_yolo() -> Experiment:
    """Blood cells of three kinds (BCCD, Pascal VOC layout), found at three scales by a YOLOv3 of a quarter of its width.

    python launch.py --experiment=bccd_yolo --data.name=voc:PATH_TO_BCCD
    Expect a mean AP of 0.89 of the test split at IoU 0.5 (one seed), 20 minutes on one CPU core; bccd_grid has 0.88.
    Of cells that are held out, a run on 384x512 pixels had 0.886; 0.890 with --evaluate.augment=flips.
    """
    return Experiment(
        name="bccd_yolo",
        task="multiscale_detection",
        data=Data(name="voc:bccd", image_size=288, image_width=384, batch_size=8, resize="letterbox"),
        augment=Augment(
            flip="random",
            flip_vertical=True,
            scale=0.2,
            translate=0.2,
            hue=0.05,
            saturation=0.3,
            exposure=0.3,
        ),
        model=Model(name="yolov3", options=("width=8", "blocks=1/1/2/2/1")),
        detection=Detection(loss="ciou", kmeans=True, score_threshold=0.01, iou_threshold=0.45),
        optimizer=Optimizer(
            name="adamw", learning_rate=2e-3, weight_decay=1e-2, warmup=0.05, clip_norm=10.0, ema=0.99
        ),
        train=Train(epochs=60, evaluate_every=20, checkpoint_every=10),
        evaluate=Evaluate(batch_size=8),
    )


def detect() -> Experiment:
    """Objects on your own photographs: a small YOLOv3 with settings that suit most of them.

    python launch.py --experiment=detect --data.name=coco:FOLDER
    Or voc:FOLDER, or yolo:FOLDER; of a folder without lists of splits a fixed fifth is held out for the test. Anchors come
    from its boxes. As it is, or with --data.limit=200, it learns drawn shapes. 3,000 steps whatever the number of images:
    for many of them, or a GPU, give more, and --model.options= for the whole YOLOv3. Its precision is not measured yet; a
    step takes 2.3 s on one CPU core.
    """
    return Experiment(
        name="detect",
        task="multiscale_detection",
        data=Data(name="shapes", image_size=320, batch_size=8, resize="letterbox"),
        augment=Augment(
            mosaic=True,
            flip="random",
            scale=0.3,
            translate=0.1,
            hue=0.03,
            saturation=0.5,
            exposure=0.5,
        ),
        model=Model(name="yolov3", options=("width=8", "blocks=1/1/2/2/1")),
        detection=Detection(loss="ciou", kmeans=True, score_threshold=0.01, iou_threshold=0.45),
        optimizer=Optimizer(
            name="adamw", learning_rate=2e-3, weight_decay=1e-2, warmup=0.05, clip_norm=10.0, ema=0.99
        ),
        train=Train(steps=3000, evaluate_every=10, checkpoint_every=5),
        evaluate=Evaluate(batch_size=8),
    )
