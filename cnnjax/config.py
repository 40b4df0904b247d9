"""An experiment as frozen dataclasses. Every leaf is a typed flag; there is no other configuration language.

Durations inside a run (warm-up, boundaries) are fractions of it; the run itself is given in epochs, steps or
examples, and `total_steps` turns that into steps once.
"""

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class ConfigError(ValueError):
    """A mistake in what the user asked for; its text is one clear line for them."""

    status = 1  # of a program that ends with it


def did_you_mean(name: str, known: Iterable[str], otherwise: str, most: int = 3, cutoff: float = 0.6) -> str:
    """A hint at the names that are like one that is unknown; `otherwise` if none is."""
    close = difflib.get_close_matches(name, known, n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


ON = ()  # of `needs`: any value but none, zero or false
CFG_FILE = "darknet:"  # begins the name of a model that is described by the file after it
OWN = "own:"  # begins names of what a Python program gives itself: data, a model, a task


class Stopped(ConfigError):
    """A run that was asked to end and has saved its state: there is more to do."""

    status = 75  # EX_TEMPFAIL of sysexits.h, at which schedulers can put a job into their queue again


Needs = Mapping[str, tuple[Any, ...]]


def option(
    default: Any, help: str, choices: tuple[str, ...] = (), above: float = -math.inf,
    most: float = math.inf, below: float = math.inf, needs: Needs | None = None,
) -> Any:  # fmt: skip
    """A field with its help text: what `--helpshort` shows. Numbers must lie `above`, `below`, or be at most `most`.

    `needs`: where the field has an effect. By the name of another field, the values that this must have; ON for any
    but none, zero or false. "targets" are those that the task learns, "data" the kind of the data:
    a row of data.sources.SOURCES, or tensorflow-datasets.
    """
    limits = {"choices": choices, "above": above, "most": most, "below": below, "needs": needs or {}}
    return dataclasses.field(default=default, metadata={"help": help, **limits})


LAID_OUT = ("voc", "coco", "yolo")
DARKNET = ("darknet_letterbox", "darknet_stretch")  # of data.resize
SEVERAL_SCALES = {"task": ("multiscale_detection",)}
ANNOTATED = (*LAID_OUT, "tensorflow-datasets")
WHITENED = ("airbench_laptop", "airbench94", "airbench95", "airbench96")
MUON = {"optimizer.name": ("muon",)}


@dataclasses.dataclass(frozen=True)
class Data:
    name: str = option(
        "digits",
        "digits, synthetic, folder:PATH, csv:PATH (pixels and labels), ahcd:PATH, gtsrb:PATH, a tensorflow-datasets name such as mnist, emnist/letters, cifar10; with boxes: shapes, digit_scenes, voc:PATH, coco:PATH, yolo:PATH, of tensorflow-datasets voc/2007, coco/2017, kitti, wider_face; with points: figures, points:PATH; of mode=prepare: records:PATH; several joined by +, as folder:A+folder:B",
    )
    batch_size: int = option(128, "examples per training step, over all devices", above=0)
    image_size: int = option(0, "height and width to resize images to when they are read; 0 keeps theirs")
    resize: str = option(
        "stretch",
        "how to reach image_size: stretch; resize the short side and crop the centre; or fit in and pad with grey, which data with boxes always does, or, of voc, coco and yolo, as darknet fits in or stretches",
        ("stretch", "crop", "letterbox", *DARKNET),
        needs={"targets": ("label",)},
    )
    resize_short: int = option(
        0,
        "with resize=crop: the short side before the crop; 0 means image_size",
        needs={"data.resize": ("crop",)},
    )
    image_width: int = option(
        0,
        "with boxes: width of the frame, where it is not image_size too",
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
    validation: float = option(
        0.0,
        "share of the training split held out (seeded, stratified); evaluated instead of the test split when above 0",
    )
    limit: int = option(0, "use only the first so many examples of each split; 0 uses all")
    stream: bool = option(False, "records:PATH: read images from disk batch by batch, not all into memory")
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
    cutout: int = option(0, "side in pixels of one square set to the mean (DeVries & Taylor 2017)")
    mixup: float = option(
        0.0,
        "alpha of mixup (Zhang et al. 2018); the boxes of both images count in full (Zhang et al. 2019)",
    )
    cutmix: float = option(0.0, "alpha of CutMix (Yun et al. 2019), for labels")
    sizes: tuple[int, ...] = option(
        (),
        "heights in pixels, of which each batch is resized to one, by turns in random order; widths in proportion; the model must be fully convolutional",
    )


@dataclasses.dataclass(frozen=True)
class Model:
    name: str = option("lenet5", "a name of the model table")
    dtype: str = option("float32", "what layers compute in; weights stay float32", ("float32", "bfloat16"))
    options: tuple[str, ...] = option(
        (), "fields of the model's module, such as width=32 or widths=8/16/32, in place of those of the table"
    )


@dataclasses.dataclass(frozen=True)
class Classification:
    label_smoothing: float = option(0.0, "share of the target spread evenly over all classes", most=1)


@dataclasses.dataclass(frozen=True)
class Localization:
    loss: str = option(
        "logistic",
        "squared error over all of the target; or logistic, squared and softmax cross-entropy",
        ("squared", "logistic"),
    )
    box_weight: float = option(1.0, "factor of the squared error of the box, which is in shares of the image")


@dataclasses.dataclass(frozen=True)
class Points:
    weight: float = option(10.0, "factor of the loss of the points, which are in shares of the image")
    beta: float = option(
        0.02, "error, as a share of the image, above which the loss grows no faster than the error", above=0
    )


@dataclasses.dataclass(frozen=True)
class Heatmaps:
    sigma: float = option(2.0, "width of the bumps in pixels of the maps", above=0)
    decode: str = option(
        "quarter",
        "how a place is read: the highest pixel and a quarter toward its neighbour, or the soft-argmax",
        ("quarter", "soft"),
    )
    flip_test: bool = option(False, "in evaluation, average the maps of each image and of its mirror image")


@dataclasses.dataclass(frozen=True)
class Cascade:
    features: int = option(4000, "features drawn at random from all of a window, to choose from", above=0)
    negatives: int = option(4000, "windows without a face that each stage is trained with", above=0)
    stages: int = option(14, "most stages", above=0)
    stumps: tuple[int, ...] = option(
        (5, 10, 20, 30, 40), "most features of each stage; the last number counts for all later ones"
    )
    detection: float = option(0.995, "share of held-out faces that each stage keeps", above=0, most=1)
    false_positives: float = option(
        0.4, "a stage is done when it lets pass so small a share of its windows", above=0, below=1
    )
    enough: float = option(
        5e-4, "no more stages once so small a share of all windows passes", above=0, below=1
    )
    neighbors: int = option(3, "a face that is found is made of more overlapping windows than so many")


@dataclasses.dataclass(frozen=True)
class ShapeModel:
    explained: float = option(
        0.9, "share of the variance that the modes of the shape explain", above=0, most=1
    )
    half_length: int = option(7, "samples of a profile to each side of its point", above=0)
    reach: tuple[int, ...] = option(
        (2, 2, 2),
        "samples to each side in which a point is looked for, of each size of the image, the whole first",
    )
    iterations: int = option(5, "most steps of the search on each size", above=0)
    cascade: str = option(
        "",
        "cascade.xml of a run of faces_cascade, which finds the faces first; empty: each image is one face",
    )


@dataclasses.dataclass(frozen=True)
class Detection:
    form: str = option(
        "logistic",
        "what a cell's numbers mean and how they are trained: the lecture's with loss A or B, YOLOv1's, or with anchors",
        ("squared", "logistic", "yolov1", "anchors"),
        needs={"task": ("grid_detection",)},
    )
    boxes: int = option(
        1,
        "yolov1: boxes that each cell predicts",
        above=0,
        needs={"task": ("grid_detection",), "detection.form": ("yolov1",)},
    )
    num_anchors: int = option(
        5,
        "anchors: how many shapes k-means finds in the training boxes",
        above=0,
        needs={"task": ("grid_detection",), "detection.form": ("anchors",)},
    )
    anchors: tuple[float, ...] = option(
        (),
        "anchors: width, height, width, ... in pixels; empty: k-means, or of several scales the model's",
        needs={"task": ("grid_detection", "multiscale_detection"), "detection.form": ("anchors",)},
    )
    kmeans: bool = option(
        False,
        "several scales: anchors are shapes that k-means finds in the training boxes, not the model's",
        needs=SEVERAL_SCALES,
    )
    loss: str = option(
        "darknet",
        "several scales: darknet's; or CIoU of boxes, which is also the wanted objectness, and several anchors for an object",
        ("darknet", "ciou"),
        needs=SEVERAL_SCALES,
    )
    ignore_iou: float = option(
        0.7,
        "several scales: an anchor without an object that overlaps one by more is left alone",
        most=1,
        needs=SEVERAL_SCALES,
    )
    label_smoothing: float = option(
        0.0,
        "several scales, ciou: of the classes",
        most=1,
        needs={**SEVERAL_SCALES, "detection.loss": ("ciou",)},
    )
    focal_gamma: float = option(
        0.0,
        "anchors: above 0, focal loss of presence with this gamma (Lin et al. 2017); 2 in the paper",
        needs={"task": ("grid_detection",), "detection.form": ("anchors",)},
    )
    similar: tuple[str, ...] = option(
        (), "groups of classes that are alike, for the analysis of errors, such as cat/dog,car/bus/truck"
    )
    score_threshold: float = option(
        0.05, "what does not score more is no detection for average precision", most=1
    )
    shown_score: float = option(
        0.0,
        "what scores less is not drawn, predicted and counted as a confusion; 0: what has the best F1 on the validation split, 0.3 without one",
        most=1,
    )
    iou_threshold: float = option(0.5, "of two boxes of a class that overlap more, the better stays", most=1)
    max_detections: int = option(100, "most detections in an image", above=0)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    name: str = option("adamw", "update rule", ("sgd", "adam", "adamw", "muon"))
    learning_rate: float = option(1e-3, "at its peak")
    bias_learning_rate: float = option(0.0, "of biases and norms, at its peak; 0: learning_rate")
    whitening: float = option(
        0.0,
        "airbench: share of the run in which the whitening layer's bias learns; 0: as others",
        needs={"model.name": WHITENED},
    )
    dense_learning_rate: float = option(0.0, "of dense kernels, at its peak; 0: learning_rate")
    schedule: str = option(
        "cosine",
        "of the learning rate over the run",
        ("constant", "cosine", "linear", "piecewise", "one_cycle", "triangular"),
    )
    warmup: float = option(
        0.0,
        "share of the run over which the rate rises to its peak (linearly; one_cycle: along a cosine)",
    )
    initial: float = option(
        0.0, "share of the peak rate at the start of the warm-up", needs={"optimizer.warmup": ON}
    )
    boundaries: tuple[float, ...] = option(
        (),
        "piecewise: shares of the run after which the rate is multiplied by decay",
        needs={"optimizer.schedule": ("piecewise",)},
    )
    decay: float = option(
        0.1, "piecewise: factor at each boundary", needs={"optimizer.schedule": ("piecewise",)}
    )
    final: float = option(
        0.0,
        "share of the peak rate that is left at the end (cosine, linear, one_cycle, triangular)",
        needs={"optimizer.schedule": ("cosine", "linear", "one_cycle", "triangular")},
    )
    momentum: float = option(0.9, "SGD and Muon: momentum; Adam: b1", below=1)
    b2: float = option(
        0.999,
        "Adam: decay of the second moment",
        below=1,
        needs={"optimizer.name": ("adam", "adamw", "muon")},
    )
    nesterov: bool = option(
        False, "SGD and Muon: Nesterov momentum", needs={"optimizer.name": ("sgd", "muon")}
    )
    weight_decay: float = option(
        0.0, "of weights only, not biases or norms; decoupled for adamw and muon, L2 for sgd and adam"
    )
    muon_steps: int = option(5, "Muon: Newton-Schulz iterations", needs=MUON)
    muon_normalize: bool = option(
        False, "Muon: scale each convolution to norm sqrt(filters) before each update (airbench)", needs=MUON
    )
    muon_rest: str = option(
        "adamw", "Muon: update rule of everything but convolution kernels", ("adamw", "sgd"), needs=MUON
    )
    muon_rest_momentum: float = option(0.9, "Muon: momentum, or b1, of that rule", below=1, needs=MUON)
    frozen: tuple[str, ...] = option(
        (), "starts of paths of parameters that stay as they are, such as trunk/model/conv1"
    )
    clip_norm: float = option(0.0, "clip gradients to this global norm; 0 is off")
    ema: float = option(
        0.0, "decay of an exponential moving average of the weights, used in evaluation; 0 is off", below=1
    )
    lookahead: int = option(
        0,
        "with ema: every so many steps training goes on from the average, which keeps a share that grows with the cube of progress (airbench); 0 is off",
    )
    accumulate: int = option(1, "steps whose gradients are averaged into one update", above=0)


@dataclasses.dataclass(frozen=True)
class Train:
    epochs: float = option(0.0, "length of the run; give exactly one of epochs, steps, examples")
    steps: int = option(0, "length of the run in steps")
    examples: int = option(0, "length of the run in examples seen")
    seed: int = option(0, "of initialization, order and augmentation", below=2**31)
    seeds: int = option(
        1, "train so many seeds (seed, seed + 1, ...) in one program; mean and std are reported", above=0
    )
    init_from: str = option(
        "",
        "begin from trained weights: a workdir, DIR/checkpoints/STEP or a file as mode=import reads; what fits by name and shape is taken, with its preprocessing",
    )
    steps_per_call: int = option(
        0, "steps in one compiled call; 0: one on CPU, up to an epoch on accelerators"
    )
    data_parallel: bool = option(True, "split each batch over all local devices")
    evaluate_every: float = option(1.0, "epochs between evaluations; 0: at the end only")
    checkpoint_every: float = option(1.0, "epochs between checkpoints; 0: at the end only")
    keep_last: int = option(2, "newest checkpoints that are kept", above=0)
    keep_best: int = option(1, "best checkpoints that are kept")
    log_every: int = option(50, "steps between lines of metrics.jsonl", above=0)
    tensorboard: bool = option(False, "also write TensorBoard event files")
    on_nan: str = option(
        "stop",
        "when a loss or gradient is not finite: stop; skip that update; or roll_back to the newest checkpoint and go on with the data in another order",
        ("stop", "skip", "roll_back"),
    )
    nan_limit: int = option(
        10,
        "skip: updates in a row, roll_back: times to one checkpoint, after which the run stops all the same",
        above=0,
        needs={"train.on_nan": ("skip", "roll_back")},
    )
    debug_nans: bool = option(
        False, "name the layer in which the first value that is not finite appeared; waits for every step"
    )


@dataclasses.dataclass(frozen=True)
class Evaluate:
    batch_size: int = option(
        500, "images that the network sees at once in evaluation; no influence on the result", above=0
    )
    augment: str = option(
        "none",
        "test-time augmentation: average over mirrored views; over mirrored and shifted ones; or (mode=evaluate) over ten crops of a larger image",
        ("none", "flip", "flip_shift", "ten_crop"),
    )


PAGE_NAMES = (
    "predictions", "filters", "maps", "channels", "objectives", "classes",
    "deepdream", "toward", "attribution", "deconvnet", "evolution", "embeddings",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Visualize:
    """What mode=visualize shows of a trained network; has no influence on training."""

    pages: tuple[str, ...] = option((), f"which pictures to make, of {', '.join(PAGE_NAMES)}; empty: all")
    layer: tuple[str, ...] = option(
        (), "layer, layer:channel, layer:channel@y,x, logits:class or probability:class; empty: a choice"
    )
    steps: tuple[int, ...] = option((0, 4, 48, 512), "updates after which a rendered picture is kept")
    channels: int = option(8, "channels that are shown of each layer")
    classes: tuple[str, ...] = option(
        (), "classes, as names or numbers, that pictures are made for; empty: those of the images"
    )
    images: int = option(6, "example images that are explained")
    embedded: int = option(1000, "evaluated images whose vectors are compared and classified by an SVM")
    svm_images: int = option(1000, "training images that the SVM learns from")
    toward: str = option("", "class that a photograph is pulled toward; empty: the next one")
    guide: str = option("", "image file whose features DeepDream imitates; empty: it climbs what it sees")
    parameterization: str = option(
        "fourier",
        "what rendered pictures are made of; maco: phases of waves with the magnitudes of the images",
        ("fourier", "pixels", "maco"),
    )
    size: int = option(0, "height and width of rendered pictures; 0: those of the images")
    seed: int = option(0, "of noise and transformations", below=2**31)
    train: bool = option(False, "train first what is not trained yet; otherwise a network must be there")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides the numbers of a run, and what is shown of it."""

    name: str = "digits_lenet"
    task: str = option("classification", "what is learned: a name of the task table")
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    classification: Classification = Classification()
    localization: Localization = Localization()
    points: Points = Points()
    heatmaps: Heatmaps = Heatmaps()
    cascade: Cascade = Cascade()
    shape_model: ShapeModel = ShapeModel()
    detection: Detection = Detection()
    optimizer: Optimizer = Optimizer()
    train: Train = Train(epochs=1)
    evaluate: Evaluate = Evaluate()
    visualize: Visualize = Visualize()


# Fields that may differ when a run is resumed: how long, how often, how much is written and shown. So may the folder
# in data.name, if it holds the same data (data/identity.py).
RESUMABLE = frozenset(
    {"train.epochs", "train.steps", "train.examples", "train.evaluate_every", "train.checkpoint_every", "train.keep_last",
     "train.keep_best", "train.log_every", "train.tensorboard", "train.on_nan", "train.nan_limit", "train.debug_nans", "train.steps_per_call", "data.stream", "data.workers", "evaluate.batch_size",
     "evaluate.augment", "detection.shown_score", "detection.similar"}
    | {f"visualize.{field.name}" for field in dataclasses.fields(Visualize)}
)  # fmt: skip


# Fields that prediction may change: what is done with the outputs of a network.
PREDICTABLE = tuple(
    f"detection.{name}" for name in ("shown_score", "score_threshold", "iou_threshold", "max_detections")
)


def check_local(name: str, path: str) -> None:
    """Raises ConfigError if a path is a URL, which would be taken for a folder called "s3:"."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise ConfigError(f"{name}={path}: a URL cannot be used here; give a path on this machine")


# Fields that evaluation on a validation split decides where the experiment leaves them at 0.
CHOSEN = frozenset({"detection.shown_score"})


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Every leaf of a nested dataclass: ("optimizer.learning_rate", its field, its value)."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field, value


def replace(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of the nested dataclass with the leaves named like "train.epochs" changed."""
    direct: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if head not in {f.name for f in dataclasses.fields(config)}:
            raise ConfigError(f"unknown field {name!r}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = value
    direct |= {head: replace(getattr(config, head), rest) for head, rest in nested.items()}
    return dataclasses.replace(config, **direct)


LENGTHS = ("train.epochs", "train.steps", "train.examples")


def changed(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """`replace`, checked. A length given in one unit takes the place of that which the experiment gives in another."""
    if any(name in changes for name in LENGTHS):
        changes = {"train.epochs": 0.0, "train.steps": 0, "train.examples": 0} | dict(changes)
    return check(replace(experiment, changes))


def check(experiment: Experiment) -> Experiment:
    """Returns the experiment; raises ConfigError with one line if a value cannot be meant."""
    for name, field, value in fields(experiment):
        _check_type(name, field.type, value)
        choices = field.metadata.get("choices", ())
        if choices and value not in choices:
            raise ConfigError(f"{name}={value!r}: choose one of {', '.join(choices)}")
    check_local("data.name", experiment.data.name.partition(":")[2])
    check_local("data.backgrounds", experiment.data.backgrounds)
    check_local("visualize.guide", experiment.visualize.guide)
    check_local("train.init_from", experiment.train.init_from)
    if not re.fullmatch(r"\w[\w.-]*", experiment.name):  # files are called after it
        raise ConfigError(f"name={experiment.name!r}: expected letters, digits, '_', '-' and '.'")
    train, data = experiment.train, experiment.data
    given = [name for name in ("epochs", "steps", "examples") if getattr(train, name)]
    if len(given) != 1:
        raise ConfigError(
            f"give exactly one of train.epochs, train.steps and train.examples, not {' and '.join(given) or 'none'}"
        )
    for name, field, value in fields(experiment):
        if not isinstance(value, int | float):
            continue
        if value < 0:
            raise ConfigError(f"{name}={value}: must not be negative")
        limits = field.metadata
        if value <= limits["above"]:
            raise ConfigError(f"{name}={value}: must be above {limits['above']:,}")
        if value > limits["most"]:
            raise ConfigError(f"{name}={value}: must be at most {limits['most']:,}")
        if value >= limits["below"]:
            raise ConfigError(f"{name}={value}: must be below {limits['below']:,}")
    if experiment.optimizer.lookahead and not experiment.optimizer.ema:
        raise ConfigError("optimizer.lookahead needs optimizer.ema, the decay of its average")
    if len(data.mean) != len(data.std):
        raise ConfigError("give data.mean and data.std alike: a number per channel each, or neither of them")
    if data.std and min(data.std) <= 0:
        raise ConfigError(f"data.std={data.std}: must be above 0")
    if not 0 <= data.validation < 1:
        raise ConfigError(f"data.validation={data.validation}: must be at least 0 and below 1")
    return experiment


def total_steps(train: Train, num_examples: int, batch_size: int) -> int:
    """The length of the run in steps, at least 1."""
    if train.steps:
        return train.steps
    return max(1, round((train.examples or train.epochs * num_examples) / batch_size))


def to_json(experiment: Experiment) -> str:
    return json.dumps(dataclasses.asdict(experiment), indent=2)


def from_json(text: str) -> Experiment:
    """Reads what `to_json` wrote. Raises ConfigError if the text is not an experiment."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config is not valid JSON: {error}") from error
    return from_dict(tree)


def differences(old: Experiment, new: Experiment) -> list[str]:
    """Lines "data.batch_size: 128 -> 64" of the fields in which two experiments differ."""
    before = {name: value for name, _, value in fields(old)}
    return [
        f"{name}: {before[name]!r} -> {value!r}"
        for name, _, value in fields(new)
        if before.get(name) != value
    ]


def from_dict(tree: Any) -> Experiment:
    """The experiment that `dataclasses.asdict` turned into `tree`; raises ConfigError if it is none."""
    return check(_from_dict(Experiment, tree, ""))


def _from_dict(cls: type, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"config: {prefix or 'the file'} is not an object")
    known = typing.get_type_hints(cls)
    unknown = sorted(set(tree) - set(known))
    if unknown:
        raise ConfigError(
            f"config has an unknown field {prefix}{unknown[0]}: misspelt, or of another version"
        )
    values = {}
    for name, value in tree.items():
        if dataclasses.is_dataclass(known[name]):
            value = _from_dict(typing.cast(type, known[name]), value, f"{prefix}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return cls(**values)


def element_type(field_type: Any) -> type:
    """float for `tuple[float, ...]`, else the type itself."""
    return typing.get_args(field_type)[0] if isinstance(field_type, types.GenericAlias) else field_type


def _check_type(name: str, field_type: Any, value: Any) -> None:
    kind = element_type(field_type)
    several = isinstance(field_type, types.GenericAlias)
    if several and not isinstance(value, tuple):
        raise ConfigError(f"{name}={value!r}: expected a list of {kind.__name__}")
    values = value if several else (value,)
    allowed = (int, float) if kind is float else (kind,)
    for item in values:
        if not isinstance(item, allowed) or (isinstance(item, bool) and kind is not bool):
            raise ConfigError(f"{name}={value!r}: expected {kind.__name__}, got {type(item).__name__}")
        if isinstance(item, float) and not math.isfinite(item):
            raise ConfigError(f"{name}={value!r}: must be finite")
