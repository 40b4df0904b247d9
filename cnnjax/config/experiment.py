"""The whole: every section, what may differ when a run goes on, and what is shown of it."""

import dataclasses

from cnnjax.config.data import Augment, Data
from cnnjax.config.options import option
from cnnjax.config.tasks import (
    Cascade,
    Classification,
    Detection,
    Heatmaps,
    Localization,
    Mtcnn,
    Points,
    ShapeModel,
)
from cnnjax.config.training import Evaluate, Model, Optimizer, Train

PAGE_NAMES = (
    "predictions", "filters", "maps", "channels", "objectives", "classes",
    "deepdream", "toward", "attribution", "deconvnet", "evolution", "embeddings", "states",
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
    mtcnn: Mtcnn = Mtcnn()
    detection: Detection = Detection()
    optimizer: Optimizer = Optimizer()
    train: Train = Train(epochs=1)
    evaluate: Evaluate = Evaluate()
    visualize: Visualize = Visualize()


# Fields that may differ when a run is resumed: how long, how often, how much is written and shown. So may the folder
# in data.name, if it holds the same data (data/identity.py).
RESUMABLE = frozenset(
    {"train.epochs", "train.steps", "train.examples", "train.evaluate_every", "train.checkpoint_every", "train.keep_last",
     "train.keep_best", "train.patience", "train.log_every", "train.tensorboard", "train.trackers", "train.on_nan", "train.nan_limit", "train.debug_nans", "train.steps_per_call", "model.precision", "model.convolutions", "data.stream", "data.workers", "evaluate.batch_size",
     "evaluate.augment", "detection.shown_score", "detection.similar"}
    | {f"visualize.{field.name}" for field in dataclasses.fields(Visualize)}
)  # fmt: skip
# Fields that prediction may change: how exactly a network computes, and what is done with its outputs.
PREDICTABLE = (
    *(f"detection.{name}" for name in ("shown_score", "score_threshold", "iou_threshold", "max_detections")),
    "model.precision",
    "model.convolutions",
)
