"""Named experiments: one explicit table. Each function's docstring opens with what it is and the command.

`experiments.mnist_lenet()` is the Experiment of that name. Imports are relative: where cnnjax is installed, this is
the package cnnjax.experiments.
"""

from collections.abc import Callable

from cnnjax.config import ConfigError, Experiment, did_you_mean

from . import (
    cifar10,
    committees,
    darknet,
    detection,
    digits,
    finetune,
    imagenet,
    mnist,
    points,
    two_stage,
    visualize,
)

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    function.__name__: function
    for function in (
        digits.digits_lenet,
        digits.digits_sliding,
        digits.digits_rows,
        mnist.mnist_lenet,
        mnist.mnist_speedrun,
        mnist.mnist_rows,
        cifar10.cifar10_resnet20,
        cifar10.cifar10_resnet56,
        cifar10.cifar10_laptop,
        cifar10.cifar10_airbench,
        cifar10.cifar10_airbench96,
        cifar10.cifar10_dropconnect,
        cifar10.cifar10_dropconnect_laptop,
        committees.mnist_committee,
        committees.ahcd,
        committees.gtsrb,
        finetune.finetune,
        finetune.finetune_cifar10_small,
        finetune.finetune_cifar10_small_all,
        finetune.cifar10_small,
        detection.digits_localization,
        detection.scenes_grid,
        detection.scenes_maskrcnn,
        two_stage.coco_maskrcnn,
        two_stage.coco_keypointrcnn,
        two_stage.coco128_maskrcnn_overfit,
        detection.bccd_localization,
        detection.bccd_grid,
        detection.coco128_overfit,
        darknet.coco_yolov3,
        darknet.coco_yolov3_tiny,
        darknet.coco128_yolov3_tiny,
        darknet.bccd_yolo,
        darknet.detect,
        points.faces_landmarks,
        points.faces_heatmaps,
        points.faces_cascade,
        points.faces_shape_model,
        points.faces_mtcnn,
        points.pose_figures,
        points.pose_lsp,
        *imagenet.EXPERIMENTS,
        visualize.visualize_digits,
        visualize.visualize_cifar10,
        visualize.visualize_squeezenet,
    )
}


def named(name: str) -> Experiment:
    """The experiment of a name. Raises ConfigError, with the nearest names, if there is none."""
    if name not in EXPERIMENTS:
        hint = did_you_mean(name, EXPERIMENTS, "--list shows all")
        raise ConfigError(f"unknown experiment {name!r}: {hint}")
    return EXPERIMENTS[name]()


def __getattr__(name: str) -> Callable[[], Experiment]:
    if name not in EXPERIMENTS:
        raise AttributeError(f"there is no experiment {name!r}")
    return EXPERIMENTS[name]
