"""Windows with faces, cut out of images with 68 known points each."""

import numpy as np

from cnnjax.faces.scan import resize_exact

EYES, MOUTH = slice(36, 48), slice(48, 68)
SIDE = 2.3  # of a face's square, in distances from the eyes to the mouth


def face_squares(points: np.ndarray) -> np.ndarray:
    """Squares around faces, centred between eyes and mouth.

    points: [N, 68, 2] in pixels. Returns [N, 3]: x and y of the centre, and the side.
    """
    eyes, mouth = points[:, EYES].mean(1), points[:, MOUTH].mean(1)
    side = SIDE * np.linalg.norm(eyes - mouth, axis=1)
    return np.concatenate([(eyes + mouth) / 2, side[:, None]], axis=1)


def jitter_squares(squares: np.ndarray, rng: np.random.Generator, shift: float, scale: float) -> np.ndarray:
    """Squares moved by up to `shift` of their side and made larger or smaller by up to `scale` of it."""
    moves = rng.uniform(-shift, shift, (len(squares), 2)) * squares[:, 2:]
    factors = 1 + rng.uniform(-scale, scale, (len(squares), 1))
    return np.concatenate([squares[:, :2] + moves, squares[:, 2:] * factors], axis=1)


def cut_squares(images: np.ndarray, squares: np.ndarray, size: int) -> np.ndarray:
    """Squares of grey images as windows; what lies outside repeats the border.

    images: uint8 [N, H, W]. squares: [N, 3] as `face_squares` gives them. Returns uint8 [N, size, size].
    """
    windows = np.empty((len(images), size, size), np.uint8)
    for index, (image, (x, y, side)) in enumerate(zip(images, squares, strict=True)):
        whole = max(1, round(side))
        rows = np.clip(round(y - side / 2) + np.arange(whole), 0, image.shape[0] - 1)
        columns = np.clip(round(x - side / 2) + np.arange(whole), 0, image.shape[1] - 1)
        windows[index] = resize_exact(image[np.ix_(rows, columns)], size, size)
    return windows
