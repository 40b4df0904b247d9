"""What training does to a batch: everything that an experiment's `augment.*` switches on."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.augment import kinds, mixing, rand_augment
from cnnjax.augment.colour import change_colours
from cnnjax.augment.draws import Keys
from cnnjax.augment.geometry import Form, Motion, along_axes, draw_motions
from cnnjax.augment.kinds import Batch
from cnnjax.config import Augment, ConfigError, is_on


def augment(
    options: Augment, batch: Batch, keys: Keys, mean_pixel: Array, fill: float = 0.0
) -> dict[str, Array]:
    """Applies what `options` switch on, in the order of their fields; what is off costs nothing.

    What happens to an example depends on its own keys only, so neither batch size nor the number of devices changes
    it; the one exception are the partners of mosaic, mixup and CutMix, which come from the batch.

    Args:
      options: what to do.
      batch: "image" float32 [N, H, W, C] in 0..255, with entries that follow it (`kinds.KINDS`) and others that stay
        as they are.
      keys: of `draws.keys_of`.
      mean_pixel: [C] in 0..255: fills cutouts, and contrast turns about it.
      fill: what lies around an image, in 0..255: that with which it was padded when it was read.

    Mixup and CutMix add entries (`mixing.mixup`); with mosaic and mixup there are more boxes. Colours are clipped
    to 0..255 by colour_jitter and rand_augment only. Raises ConfigError for what `check` and `check_images` refuse, and what these entries do not allow.
    """
    check(options, batch)
    check_images(options, batch["image"].shape[1:])
    _check_entries(options, batch)
    height, width = batch["image"].shape[1:3]
    changed = dict(batch)
    if options.mosaic:
        changed = mixing.mosaic(changed, keys.example, fill)
    for motion in draw_motions(options, keys, height, width):
        changed = {**kinds.follow(changed, motion), "image": motion.pixels(changed["image"], fill)}
    image = change_colours(options, changed["image"], keys.example, mean_pixel)
    if options.rand_augment:
        image = rand_augment.colours(options, image, keys.example)
    if options.cutout:
        image = mixing.cutout(image, keys.example, options.cutout, mean_pixel, options.cutout_inside)
    if options.erasing:
        noise = options.erasing_fill == "noise"
        image = mixing.erase(image, keys.example, options.erasing, None if noise else mean_pixel)
    changed["image"] = image
    if is_on(options.mixup):
        changed = mixing.mixup(changed, keys.example, options.mixup)
    if is_on(options.cutmix):
        changed = mixing.cutmix(changed, keys.example, options.cutmix)
    return changed


def resize(batch: Batch, frame: tuple[int, int]) -> dict[str, Array]:
    """A batch with its images in the size of `frame` (height, width), and what follows them; bilinear, with
    antialiasing."""
    image = batch["image"]
    n, height, width, channels = image.shape
    scale = np.array([[frame[1] / width, frame[0] / height]], np.float32)
    matrix = along_axes(jnp.broadcast_to(scale, (n, 2)), jnp.zeros((n, 2)))
    motion = Motion(matrix, Form.STRETCH, frame)
    resized = {**batch, "image": jax.image.resize(image, (n, *frame, channels), "linear", antialias=True)}
    for kind in kinds.present(batch):
        resized |= kind.move(batch, motion)
    return resized


def check(options: Augment, targets: Collection[str]) -> None:
    """Raises ConfigError for what has no meaning for examples with these entries beside the image.

    Points and masks without boxes are taken for those of the whole picture.
    """

    def refuse(name: str, reason: str) -> None:
        if is_on(getattr(options, name.partition("=")[0])):
            raise ConfigError(f"augment.{name}: {reason}")

    jitter = options.colour_jitter
    if jitter and not (len(jitter) == 4 and min(jitter) >= 0 and max(jitter[:3]) <= 1 and jitter[3] <= 0.5):
        raise ConfigError(
            f"augment.colour_jitter={','.join(map(str, jitter))}: four numbers, of brightness, contrast and saturation "
            "(0 to 1) and of hue (0 to 0.5)"
        )
    if is_on(options.mixup) and is_on(options.cutmix):
        raise ConfigError("augment.mixup and augment.cutmix exclude each other: set one of them to 0")
    for kind in ("boxes", "points"):
        if kind in targets:
            refuse("elastic", f"{kind} cannot be bent with the picture; masks and labels can")
            if options.crop and options.crop_fill == "reflect":
                raise ConfigError(f"augment.crop_fill=reflect: what is reflected has no {kind}; use zero")
    if kinds.entries(targets):
        refuse("cutmix", f"pieces of pictures have no {kinds.entries(targets)[0]}; it is made for labels")
    elif "label" not in targets:
        refuse("cutmix", "it needs labels, and there are none")
    for name in ("mosaic", "mixup"):
        for kind in ("points", "masks"):
            if kind in targets and "boxes" not in targets and (name, kind) != ("mosaic", "masks"):
                refuse(name, f"a picture has one set of {kind} here; those of several cannot be joined")
    if "label" in targets or not kinds.entries(targets):
        refuse("mosaic", "a picture has one label, and not those of four; it is made for images with boxes")
    if "label" not in targets and not kinds.entries(targets):
        refuse("mixup", "it needs labels or boxes, and there are none")


def check_images(options: Augment, image_shape: tuple[int, ...]) -> None:
    """Raises ConfigError for what has no meaning for images [H, W, C]."""
    height, width, channels = image_shape
    if options.crop and options.crop_fill == "reflect" and options.crop >= min(height, width):
        raise ConfigError(
            f"augment.crop={options.crop}: {height}x{width} pixels cannot be reflected so far; less than "
            f"{min(height, width)}, or augment.crop_fill=zero"
        )
    for name in ("hue", "saturation"):
        if is_on(getattr(options, name)) and channels != 3:
            raise ConfigError(f"augment.{name}: images of {channels} channel(s) have no {name}")
    if channels != 3 and any(options.colour_jitter[2:]):
        raise ConfigError(
            f"augment.colour_jitter: images of {channels} channel(s) have no saturation and no hue"
        )


def _check_entries(options: Augment, batch: Batch) -> None:
    for name in ("flip", "flip_vertical"):
        if getattr(options, name) not in ("none", False) and "points" in batch and "flip_points" not in batch:
            raise ConfigError(
                f"augment.{name}: these points do not tell which of them is which in a mirror image"
            )
    if is_on(options.mixup) and "masks" in batch and batch["masks"].ndim == 3:
        raise ConfigError("augment.mixup: a pixel has one class here, and not those of two pictures")
