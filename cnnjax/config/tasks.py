"""What is learned: the sections of the tasks."""

import dataclasses

from cnnjax.config.options import option

SEVERAL_SCALES = {"task": ("multiscale_detection",)}


@dataclasses.dataclass(frozen=True)
class Classification:
    """Of task classification: one label for an image."""

    label_smoothing: float = option(0.0, "share of the target spread evenly over all classes", most=1)
    class_weights: tuple[float, ...] = option(
        (),
        "factor of the loss of an example, one number for each class in their order; empty: all count alike",
    )
    balanced: bool = option(
        False,
        "class_weights from the training split, so that all classes count alike however many examples they have",
    )


@dataclasses.dataclass(frozen=True)
class Localization:
    """Of task localization: one object or none, its box and its class."""

    loss: str = option(
        "logistic",
        "squared error over all of the target; or logistic, squared and softmax cross-entropy",
        ("squared", "logistic"),
    )
    box_weight: float = option(1.0, "factor of the squared error of the box, which is in shares of the image")


@dataclasses.dataclass(frozen=True)
class Points:
    """Of task points: their coordinates by regression."""

    weight: float = option(10.0, "factor of the loss of the points, which are in shares of the image")
    beta: float = option(
        0.02, "error, as a share of the image, above which the loss grows no faster than the error", above=0
    )


@dataclasses.dataclass(frozen=True)
class Heatmaps:
    """Of task heatmaps: a map for each point, whose peak is its place."""

    sigma: float = option(2.0, "width of the bumps in pixels of the maps", above=0)
    decode: str = option(
        "quarter",
        "how a place is read: the highest pixel and a quarter toward its neighbour, or the soft-argmax",
        ("quarter", "soft"),
    )


@dataclasses.dataclass(frozen=True)
class Cascade:
    """Of task cascade: boosted Haar features (Viola & Jones 2001)."""

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
        1e-3, "no more stages once so small a share of all windows passes", above=0, below=1
    )
    neighbors: int = option(3, "a face that is found is made of more overlapping windows than so many")


@dataclasses.dataclass(frozen=True)
class ShapeModel:
    """Of task shape_model: points by profiles and the modes of a shape (Cootes et al. 1995)."""

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
class Mtcnn:
    """Of task mtcnn: three networks that find faces, each trained on what those before it let pass (Zhang et al. 2016)."""

    steps: tuple[int, ...] = option((10000, 6000, 4000), "training steps of P-Net, R-Net and O-Net")
    batch_size: int = option(384, "windows of a step, half of them without a face", above=0)
    learning_rate: float = option(
        1e-3, "of Adam, at the first step of each network; it falls as a cosine", above=0
    )
    hard: float = option(
        0.7, "share of the faces and non-faces of a batch that is learned from: those of the largest loss",
        above=0, most=1,
    )  # fmt: skip
    samples: tuple[int, ...] = option(
        (60000, 40000, 20000), "most windows of each type, for P-Net, R-Net and O-Net"
    )
    mined: tuple[float, ...] = option(
        (0.4, 0.05),
        "scores from which on what P-Net and R-Net find is a window to train the next network with",
    )
    landmarks: str = option(
        "",
        "points:PATH of faces with 68 or 5 points, from which O-Net learns to place five; empty: it places none",
    )
    min_face: int = option(20, "side in pixels of the smallest face that is looked for", above=11)
    thresholds: tuple[float, ...] = option((0.6, 0.7, 0.7), "scores that each network asks for")
    weights: str = option(
        "",
        "folder with pnet, rnet and onet (.safetensors or .pt) that are taken as they are, and nothing is trained",
    )


@dataclasses.dataclass(frozen=True)
class Detection:
    """Of tasks that find any number of objects; each field says of which."""

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
