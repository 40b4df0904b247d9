"""The traditional way from a photograph to 68 points: faces found by a cascade, the mean shape placed, then searched."""

import dataclasses

import numpy as np

from cnnjax.faces.cascade import Cascade
from cnnjax.faces.crops import face_squares
from cnnjax.faces.scan import detect
from cnnjax.faces.search import ActiveShape, Step


@dataclasses.dataclass(frozen=True)
class Face:
    """A face that was found: box [4] xyxy in pixels, how many windows it is made of, its points [68, 2], and the steps
    of the search."""

    box: np.ndarray
    windows: int
    points: np.ndarray
    steps: tuple[Step, ...]


@dataclasses.dataclass(frozen=True)
class Traditional:
    """A cascade and a shape model of 68 points, both trained with the squares of `face_squares`."""

    cascade: Cascade
    shape: ActiveShape
    neighbors: int = 3
    factor: float = 1.1

    def __call__(self, image: np.ndarray, least: int = 0) -> list[Face]:
        """Faces in a photograph, those of the most windows first.

        Args:
          image: uint8 [H, W] grey.
          least: least width of a face's box in pixels.
        """
        boxes, counts = detect(self.cascade, image, self.factor, self.neighbors, least)
        x, y, side = face_squares(self.shape.start[None])[0]
        known = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
        faces = []
        for box, count in zip(boxes, counts.tolist(), strict=True):
            points, steps = self.shape.search(image, self.shape.in_box(box, known))
            faces.append(Face(box, count, points, tuple(steps)))
        return faces
