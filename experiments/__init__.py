"""Named experiments: one explicit table. Each function's docstring opens with what it is and the command."""

from collections.abc import Callable

from cnnjax.config import Experiment
from experiments import cifar10, darknet, detection, digits, imagenet, mnist, visualize

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    function.__name__: function
    for function in (
        digits.digits_lenet,
        digits.digits_sliding,
        mnist.mnist_lenet,
        mnist.mnist_speedrun,
        cifar10.cifar10_resnet20,
        cifar10.cifar10_resnet56,
        cifar10.cifar10_laptop,
        cifar10.cifar10_airbench,
        cifar10.cifar10_airbench96,
        detection.digits_localization,
        detection.scenes_grid,
        detection.bccd_localization,
        detection.bccd_grid,
        detection.coco128_overfit,
        darknet.coco_yolov3,
        darknet.coco_yolov3_tiny,
        darknet.bccd_yolo,
        *imagenet.EXPERIMENTS,
        visualize.visualize_digits,
        visualize.visualize_cifar10,
        visualize.visualize_squeezenet,
    )
}
