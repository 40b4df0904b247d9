"""Several objects per image, proposed first and looked at then; with their masks where the network has such a head."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import SHORT_SIDE, ConfigError, Experiment, frame_of
from cnnjax.data.darknet_resize import geometry
from cnnjax.data.formats.poses import COCO_NAMES
from cnnjax.detection import two_stage
from cnnjax.detection.boxes import Letterbox, box_from_letterbox
from cnnjax.detection.judge.coco import coco_evaluate
from cnnjax.detection.judge.points import COCO_SIGMAS, Poses, keypoint_average_precision
from cnnjax.detection.keypoints import keypoint_peaks
from cnnjax.detection.masks import paste_masks
from cnnjax.detection.results import Detections, Truth
from cnnjax.detection.rle import RLE, mask_to_rle
from cnnjax.detection.two_stage import Training, Truths, TwoStage
from cnnjax.models import create_model
from cnnjax.models.rcnn import RCNN
from cnnjax.tasks.box_detection import BoxDetection, check_similar
from cnnjax.tasks.metrics import Values
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Apply, Batch, Judgement, Split


@dataclasses.dataclass(frozen=True)
class TwoStageDetection(BoxDetection):
    """Of a network with a mask head the batch holds "masks", too: bool [N, M, H, W]. The images of a batch may have
    no object at all."""

    headline: ClassVar[str] = "ap"

    @classmethod
    def of(
        cls, experiment: Experiment, classes: tuple[str, ...], image_shape: tuple[int, ...]
    ) -> "TwoStageDetection":
        """Raises ConfigError if the experiment's model is of another kind, needs what no data here have, or similar
        classes are none of the classes."""
        name = experiment.model.name
        model = create_model(name, options=experiment.model.options)
        if not isinstance(model, RCNN):
            raise ConfigError(f"model.name={name!r} has no two stages; maskrcnn_small has, for example")
        check_similar(experiment, classes)
        how, data = cls.framing(experiment.data.resize), experiment.data
        frame = frame_of(data) if how == SHORT_SIDE else (image_shape[0], image_shape[1])
        return cls(classes, experiment.detection, frame, how)

    @classmethod
    def framing(cls, resize: str) -> str:
        return resize if resize == SHORT_SIDE else super().framing(resize)

    @property
    def num_outputs(self) -> int:
        return len(self.classes) + 1

    def forward(
        self, apply: Apply, batch: Batch, key: Array | None = None
    ) -> Training | two_stage.Detections:
        """Detections, or in training what the loss is made of."""
        settings = self._settings(apply.model.settings)
        if key is None:
            return apply(batch["image"], settings=settings)
        model: RCNN = apply.model
        for head, entry, data in (
            (model.mask_convs, "masks", "give --data.masks, or take a Faster R-CNN"),
            (model.keypoint_convs, "points", "give --data.keypoints, or take a Faster or a Mask R-CNN"),
        ):
            if head and entry not in batch:
                raise ConfigError(f"the network learns {entry}, and the data have none: {data}")
        if model.keypoint_convs and (count := batch["points"].shape[-2]) != model.keypoints:
            raise ConfigError(
                f"objects have {count} keypoints, the network {model.keypoints}: give --model.options=keypoints={count}"
            )
        return apply(batch["image"], truths=_truths(batch), key=key, settings=settings)

    def _settings(self, settings: TwoStage) -> TwoStage:
        """Those of the network, with what an experiment, or a user of the network, says of detections."""
        return dataclasses.replace(
            settings,
            score_threshold=self.settings.score_threshold,
            iou_threshold=self.settings.iou_threshold,
            max_detections=self.settings.max_detections,
        )

    def loss(self, outputs: Training, batch: Batch) -> Mapping[str, Array]:
        return two_stage.losses(outputs, _truths(batch))

    def metrics(self, outputs: Training | two_stage.Detections, batch: Batch) -> Values:
        """None: what is found says nothing of the loss, and the parts of the loss are logged as they are."""
        return {}

    def predict(self, outputs: two_stage.Detections) -> dict[str, Array]:
        """Boxes, scores, classes, counts, masks within the boxes [N, K, S, S], of half precision, and places of keypoints
        [N, K, P, 2]."""
        found = dict(outputs.found._asdict())
        if outputs.masks is not None:
            found["masks"] = outputs.masks.astype(jnp.float16)
        if outputs.keypoints is not None:
            found["points"] = keypoint_peaks(outputs.keypoints, outputs.found.boxes)
        return found

    def judge(self, predictions: Mapping[str, np.ndarray], split: Split) -> Judgement:
        """As of boxes; with masks COCO's means for these, in pixels of the images where their files have masks, of the
        frame else; and with keypoints COCO's means by OKS, of at most 20 objects in an image."""
        judged = super().judge(predictions, split)
        if "points" in predictions and "points" in split:
            judged = Judgement(judged.metrics | self._keypoint_ap(predictions, split), judged.chosen)
        if "masks" not in predictions or "masks" not in split:
            return judged
        truths, found = self._with_masks(predictions, split)
        result = coco_evaluate(truths, found, len(self.classes), kind="segm")
        named = {"mask_ap": result.ap, "mask_ap50": result.ap50, "mask_ap75": result.ap75}
        named = {name: 0.0 if np.isnan(value) else float(value) for name, value in named.items()}
        return Judgement(judged.metrics | named, judged.chosen)

    def _keypoint_ap(self, predictions: Mapping[str, np.ndarray], split: Split) -> dict[str, float]:
        """Where there are 17 keypoints, with COCO's constants; with 0.05 for each of others."""
        truths, found = self._in_originals(predictions, split)
        sigmas = (
            COCO_SIGMAS
            if split["points"].shape[2] == len(COCO_SIGMAS)
            else np.full(split["points"].shape[2], 0.05)
        )
        ignored = split.get("ignored", np.zeros_like(split["valid"]))
        real, said = [], []
        for i, (truth, one) in enumerate(zip(truths, found, strict=True)):
            height, width = split["size"][i].tolist() if "size" in split else self.frame
            place = geometry(self.resize, height, width, self.frame)
            keep = split["valid"][i] | ignored[i]
            points, visible = _back(split["points"][i][keep], place), split["visible"][i][keep]
            real.append(Poses(points, visible, truth.area, truth.boxes, truth.ignored))
            places = _back(predictions["points"][i][: len(one.boxes)], place)
            said.append(Poses(places, scores=one.scores))
        table = keypoint_average_precision(real, said, sigmas)
        named = {"keypoint_ap": "ap", "keypoint_ap50": "ap50", "keypoint_ap75": "ap75"}
        return {name: 0.0 if np.isnan(table[key]) else table[key] for name, key in named.items()}

    def _with_masks(
        self, predictions: Mapping[str, np.ndarray], split: Split
    ) -> tuple[list[Truth], list[Detections]]:
        """Objects and detections with their masks."""
        if "runs" in split:
            truths, found = self._in_originals(predictions, split)
            return truths, [
                dataclasses.replace(one, masks=_pasted(masks[: len(one.boxes)], one.boxes, (height, width)))
                for one, masks, (height, width) in zip(
                    found, predictions["masks"], split["size"].tolist(), strict=True
                )
            ]
        truths, found = [], []
        ignored = split.get("ignored", np.zeros_like(split["valid"]))
        for i, count in enumerate(predictions["counts"].tolist()):
            keep = split["valid"][i] | ignored[i]
            masks = split["masks"][i][keep]
            truths.append(
                Truth(
                    split["boxes"][i][keep],
                    split["classes"][i][keep],
                    crowd=ignored[i][keep],
                    area=masks.sum((1, 2)),
                    masks=[mask_to_rle(mask) for mask in masks],
                )
            )
            boxes, scores, labels = (predictions[name][i][:count] for name in ("boxes", "scores", "classes"))
            codes = _pasted(predictions["masks"][i][:count], boxes, self.frame)
            found.append(Detections(boxes, scores, labels, codes))
        return truths, found

    def result(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Result:
        result = super().result(prediction, shape)
        boxes = result.boxes
        assert boxes is not None
        if "points" in prediction:  # best first, as the boxes
            place = geometry(self.resize, shape[0], shape[1], self.frame)
            points = _back(prediction["points"][: len(boxes)], place)
            count = points.shape[1]
            names = COCO_NAMES if count == len(COCO_NAMES) else tuple(f"point{i}" for i in range(count))
            result = dataclasses.replace(result, points=points, point_names=names)
        if "masks" in prediction:
            codes = _pasted(prediction["masks"][: len(boxes)], boxes, (shape[0], shape[1]))
            result = dataclasses.replace(result, masks=codes)
        return result


def _truths(batch: Batch) -> Truths:
    keypoints = None
    if "points" in batch:
        keypoints = jnp.concatenate(
            [batch["points"], batch["visible"][..., None].astype(batch["points"].dtype)], axis=-1
        )
    return Truths(batch["boxes"], batch["classes"], batch["valid"], batch.get("masks"), keypoints)


def _back(points: np.ndarray, place: Letterbox) -> np.ndarray:
    """Points [n, K, 2] of the frame in pixels of the image."""
    return box_from_letterbox(np.concatenate([points, points], axis=-1), place)[..., :2]


def _pasted(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> list[RLE]:
    """Masks [K, S, S] of boxes [K, 4] in an image of `size`, one at a time: an image may be large."""
    return [
        mask_to_rle(paste_masks(mask[None], box[None], *size)[0])
        for mask, box in zip(masks, boxes, strict=True)
    ]
