"""What is read, and how it is changed at random in training."""

import dataclasses
from typing import Protocol

from cnnjax.config.options import ON, option

LAID_OUT = ("voc", "coco", "yolo", "wider")
CROPPING = ("crop", "stretch_crop")  # of data.resize: what leaves something out
DARKNET = ("darknet_letterbox", "darknet_stretch")  # of data.resize
SHORT_SIDE = "short_side"  # of data.resize: images of different sizes (data/buckets.py)
ANNOTATED = (*LAID_OUT, "tensorflow-datasets")


class Framing(Protocol):
    """How an image is brought to a frame: Data, or the part of it that a trained network remembers."""

    @property
    def image_size(self) -> int: ...
    @property
    def image_width(self) -> int: ...
    @property
    def resize(self) -> str: ...
    @property
    def resize_short(self) -> int: ...
    @property
    def interpolation(self) -> str: ...


def frame_of(data: Framing) -> tuple[int, int]:
    """Height and width of the frame that is asked for; by the short side, the limits of an image's short and long one."""
    return data.image_size, data.image_width or data.image_size


@dataclasses.dataclass(frozen=True)
class Data:
    """What is read, from where, and how images get into the frame of the network."""

    name: str = option(
        "digits",
        "digits, synthetic, folder:PATH, csv:PATH (pixels and labels), ahcd:PATH, gtsrb:PATH, a tensorflow-datasets name such as mnist, emnist/letters, cifar10; with boxes: shapes, digit_scenes, voc:PATH, coco:PATH, yolo:PATH, wider:PATH, of tensorflow-datasets voc/2007, coco/2017, kitti, wider_face; with points: figures, points:PATH; of mode=prepare: records:PATH; several joined by +, as folder:A+folder:B",
    )
    batch_size: int = option(128, "examples per training step, over all devices", above=0)
    image_size: int = option(0, "height and width to resize images to when they are read; 0 keeps theirs")
    resize: str = option(
        "stretch",
        "how to reach image_size: stretch; crop: resize the short side and crop the centre; stretch_crop: stretch to resize_short and crop the centre, as Caffe; or fit in and pad with grey, which data with boxes always does, or, of voc, coco and yolo, as darknet fits in or stretches; short_side, for two_stage: the short side becomes image_size, or less where the long one would exceed image_width, and images of like shape share a frame",
        ("stretch", *CROPPING, "letterbox", *DARKNET, SHORT_SIDE),
        needs={"targets": ("label",)},
    )
    resize_short: int = option(
        0,
        "with resize=crop: the short side before the crop, with stretch_crop both sides; 0 means image_size",
        needs={"data.resize": CROPPING},
    )
    interpolation: str = option(
        "bilinear",
        "between pixels, where images are resized: as Pillow's filters, which smooth what gets smaller",
        ("bilinear", "bicubic", "lanczos", "nearest"),
        needs={"targets": ("label",)},
    )
    image_width: int = option(
        0,
        "with boxes: width of the frame, where it is not image_size too; with resize=short_side the most of a long side",
        needs={"targets": ("boxes",), "data": (*ANNOTATED, "records")},
    )
    objects: int = option(
        4, "shapes and digit_scenes: most objects in an image", needs={"data": ("shapes", "digit_scenes")}
    )
    keep: tuple[str, ...] = option(
        (), "voc, coco, yolo: read objects of these classes only; empty: of all", needs={"data": LAID_OUT}
    )
    masks: bool = option(
        False,
        "shapes, digit_scenes and coco: with the masks of the objects",
        needs={"data": ("shapes", "digit_scenes", "coco")},
    )
    keypoints: bool = option(
        False,
        "coco: with the keypoints of the objects, from annotations/person_keypoints_SPLIT.json if there is one",
        needs={"data": ("coco",), "task": ("two_stage",)},
    )
    max_objects: int = option(
        0,
        "voc, coco, yolo and records of them: train with so many objects of an image at most, the largest, which bounds the memory of their masks; 0: with all",
        needs={"targets": ("boxes",), "data": (*LAID_OUT, "records")},
    )
    split: str = option(
        "",
        "with boxes: the split that is evaluated; empty: test, else val, else a fixed fifth of the training split",
        needs={"targets": ("boxes",), "data": ANNOTATED},
    )
    backgrounds: str = option(
        "",
        "points:PATH: a folder of photographs that show nothing with points; random squares of them are examples of that",
        needs={"data": ("points",), "targets": ("points",)},
    )
    channel_order: str = option("rgb", "order of colour channels that the model expects", ("rgb", "bgr"))
    mean: tuple[float, ...] = option(
        (),
        "per channel in the order of channel_order, of values in [0, 1], subtracted; empty: of the training split",
    )
    std: tuple[float, ...] = option(
        (),
        "per channel in the order of channel_order, of values in [0, 1], divided by; empty: of the training split",
    )
    contrast: str = option(
        "none",
        "of each image, evened out before the network sees it, of colours their lightness: imadjust (1 % black, 1 % white), histeq (histogram equalization), clahe (the same in 8x8 tiles), conorm (edges: a difference of Gaussians)",
        ("none", "imadjust", "histeq", "clahe", "conorm"),
    )
    digit_width: int = option(
        0,
        "pixels to which what is drawn on black is made wide before the network sees it (10 to 20 for MNIST); 0 keeps its width",
        needs={"targets": ("label",)},
    )
    validation: float = option(
        0.0,
        "share of the training split held out (seeded, stratified); evaluated instead of the test split when above 0",
    )
    limit: int = option(0, "use only the first so many examples of each split; 0 uses all")
    per_class: int = option(
        0,
        "after limit: train on only so many examples of each class, the first ones; 0 uses all",
        needs={"targets": ("label",)},
    )
    stream: bool = option(
        False,
        "records:PATH, and labelled images that tensorflow-datasets has prepared: read images from disk batch by batch, not all into memory",
    )
    stream_crop: bool = option(
        False,
        "stream: cut the window of augment.random_crop out of each file while that is decoded, in the worker processes, and not out of the picture that was read; drawn as torchvision's RandomResizedCrop",
        needs={"data.stream": ON, "augment.random_crop": ON, "targets": ("label",)},
    )
    workers: int = option(
        2,
        "stream: processes that read and decode ahead of training; 0: threads of this one",
        needs={"data.stream": ON},
    )


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of training examples, in the order of the fields. Zero, or false, is off.

    Boxes, points and masks follow the image. What has no meaning with them is refused.
    """

    mosaic: bool = option(
        False, "four images of the batch side by side, with the objects of all (Bochkovskiy et al. 2020)"
    )
    crop: int = option(0, "pad by so many pixels, then crop at random to the old size")
    crop_fill: str = option(
        "zero",
        "what the padding holds: zero (grey, if images are letterboxed), or the image reflected",
        ("zero", "reflect"),
        needs={"augment.crop": ON},
    )
    random_crop: float = option(
        0.0, "enlarge a random window, of at least 1 - random_crop of the area, to the whole image", below=1
    )
    flip: str = option(
        "none",
        "horizontal flip: random, or alternating from epoch to epoch",
        ("none", "random", "alternating"),
    )
    flip_vertical: bool = option(False, "flip top and bottom at random")
    rotate: float = option(0.0, "rotation by up to so many degrees; a box becomes that around the turned box")
    scale: float = option(0.0, "zoom by a factor from 1 - scale to 1 + scale", below=1)
    translate: float = option(0.0, "shift by up to this share of the size")
    shear: float = option(0.0, "shear by up to so many degrees", below=90)
    elastic: float = option(
        0.0,
        "elastic distortion (Simard et al. 2003): factor alpha, 34 in the paper; 0.16 * alpha / sigma pixels; not with boxes or points",
    )
    elastic_sigma: float = option(
        4.0, "elastic distortion: smoothness in pixels (sigma)", needs={"augment.elastic": ON}, above=0
    )
    hue: float = option(0.0, "turn the hue by up to this share of the circle")
    saturation: float = option(0.0, "change the saturation by a factor of up to 1 + saturation")
    exposure: float = option(0.0, "change the exposure by a factor of up to 1 + exposure")
    brightness: float = option(0.0, "add up to this share of the full range")
    contrast: float = option(0.0, "change the contrast by a factor from 1 - contrast to 1 + contrast")
    colour_jitter: tuple[float, ...] = option(
        (),
        "torchvision's ColorJitter: four numbers, by how much brightness, contrast and saturation are multiplied (1 - number to 1 + number) and the hue is turned (share of the circle, at most 0.5), in random order",
    )
    rand_augment: int = option(
        0,
        "RandAugment (Cubuk et al. 2020), torchvision's 14 operations: so many for each image; boxes, points and masks follow those that move it",
    )
    rand_magnitude: int = option(
        9,
        "RandAugment: strength of its operations, 0 to 30",
        needs={"augment.rand_augment": ON},
        above=-1,
        most=30,
    )
    cutout: int = option(0, "side in pixels of one square set to the mean (DeVries & Taylor 2017)")
    cutout_inside: bool = option(
        False,
        "the square lies wholly in the image (airbench); otherwise its centre does",
        needs={"augment.cutout": ON},
    )
    erasing: float = option(
        0.0,
        "probability of random erasing (Zhong et al. 2020): a rectangle of 2 to 33 % of the area is hidden",
        most=1,
    )
    erasing_fill: str = option(
        "mean",
        "random erasing: the mean pixel, or noise",
        ("mean", "noise"),
        needs={"augment.erasing": ON},
    )
    mixup: float = option(
        0.0,
        "alpha of mixup (Zhang et al. 2018); the boxes of both images count in full (Zhang et al. 2019)",
    )
    cutmix: float = option(0.0, "alpha of CutMix (Yun et al. 2019), for labels")
    sizes: tuple[int, ...] = option(
        (),
        "heights in pixels, of which each batch is resized to one, by turns in random order; widths in proportion; the model must be fully convolutional",
    )
