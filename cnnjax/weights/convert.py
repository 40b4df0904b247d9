"""Published weights: torchvision, timm, Keras, Caffe and TensorFlow files into this project's variables, and back."""

import dataclasses
import functools
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from cnnjax.config import ConfigError
from cnnjax.models import MODELS, Model, create_model
from cnnjax.models.parts import shapes_of
from cnnjax.network import Preprocessing
from cnnjax.weights.files import CAFFE, KERAS, TENSORFLOW, TORCH, Tensors, convention, read_tensors
from cnnjax.weights.names import (
    Names,
    caffe_names,
    flattened_grids,
    is_pointwise_in_torch,
    keras_names,
    renamed_since,
    tensorflow_names,
    torch_names,
)

Variables = Mapping[str, Any]
Leaf = tuple[str, ...]
Grid = tuple[int, int]

# What a file calls the leaves of a layer. Keras calls the bias of a normalization beta.
LEAVES = {
    TORCH: {"kernel": "weight", "scale": "weight", "alpha": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
    KERAS: {"kernel": "kernel", "scale": "gamma", "bias": "bias", "mean": "moving_mean", "var": "moving_variance"},
    CAFFE: {"kernel": "w", "bias": "b"},
    TENSORFLOW: {"kernel": "w", "bias": "b"},
}  # fmt: skip
KERAS_EPSILON = 1.001e-5  # of keras.applications' ResNets; the models here have 1e-5


UNIT = (1 / 255, 1 / 255, 1 / 255)  # the weights expect values from 0 to 255
CROP = Preprocessing(image_size=224, resize_short=256, resize="crop")  # of the central square
IMAGENET = dataclasses.replace(CROP, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# torchvision's GoogLeNet was trained in TensorFlow; its `transform_input` undoes ImageNet's mean and std.
MINUS_ONE_TO_ONE = dataclasses.replace(CROP, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
INCEPTION5H = dataclasses.replace(CROP, mean=(117 / 255, 117 / 255, 117 / 255), std=UNIT)
KERAS_BGR = dataclasses.replace(
    CROP, mean=(103.939 / 255, 116.779 / 255, 123.68 / 255), std=UNIT, channel_order="bgr"
)
CAFFE_BGR = dataclasses.replace(
    CROP, mean=(104 / 255, 117 / 255, 123 / 255), std=UNIT, channel_order="bgr", image_size=227
)
FACE_API = Preprocessing(
    mean=(122.782 / 255, 117.001 / 255, 104.298 / 255), std=(1.0, 1.0, 1.0), image_size=112
)
CIFAR = dataclasses.replace(IMAGENET, image_size=32, resize_short=32)


def preprocessing(path: str | os.PathLike, model_name: str) -> Preprocessing:
    """What the published weights of a model in this kind of file expect of their images."""
    kind = convention(path)
    if kind in (KERAS, CAFFE):
        return KERAS_BGR if kind == KERAS else CAFFE_BGR
    if model_name.startswith("face_landmarks68"):
        return FACE_API
    if model_name.startswith("inception5h"):
        return INCEPTION5H
    if model_name.startswith("googlenet"):
        return MINUS_ONE_TO_ONE
    is_cifar = re.fullmatch(r"resnet(20|32|44|56|110)(_b)?|.*_cifar", model_name)
    return CIFAR if is_cifar else IMAGENET


def load_weights(path: str | os.PathLike, model_name: str, variables: Variables) -> dict[str, Any]:
    """`variables` with every parameter and statistic taken from a published file, float32.

    `variables` gives the structure, as arrays or shapes. The file's names are torchvision's or timm's
    (.safetensors, .pth, .pt, .th), Keras's (.h5: VGG16, VGG19, and ResNets as resnet50_v1), Caffe's (.npz:
    squeezenet1_0_caffe), those of Google's frozen graph (.pb: inception5h) or face-api.js's (.json:
    face_landmarks68). Counters of batches and the auxiliary heads of a GoogLeNet that has none here are passed over.
    Raises ConfigError naming a tensor that is missing, superfluous, of the wrong shape or not finite.
    """
    model = create_model(model_name)
    template = flax.traverse_util.flatten_dict(dict(variables))
    found = read_weights(path, model, model_name, template)

    hint = functools.partial(fitting, path, model_name)
    if found.missing:
        raise ConfigError(f"{path} has no tensor {_some(found.missing)}, which {model_name} needs{hint()}")
    if found.superfluous:
        raise ConfigError(
            f"{path} has a tensor {_some(found.superfluous)}, which {model_name} has no place for{hint()}"
        )
    for leaf, value in found.values.items():
        if value.shape != template[leaf].shape:
            raise ConfigError(
                f"{path}: {found.keys[leaf]} has shape {found.shapes[leaf]}, which does not fit "
                f"{'/'.join(leaf[1:])} {template[leaf].shape}{hint()}"
            )
    return flax.traverse_util.unflatten_dict({leaf: jnp.asarray(v) for leaf, v in found.values.items()})


class Found(NamedTuple):
    """What a file of published weights has of a model, in the layout used here."""

    values: dict[Leaf, np.ndarray]  # by the leaf of the model, ("params", "conv1", "kernel"); of any shape
    keys: dict[Leaf, str]  # what the file calls each leaf of the model
    shapes: dict[Leaf, tuple[int, ...]]  # of the values, as the file has them
    missing: list[str]  # names that the model looks for
    superfluous: list[str]  # names that it has no place for


def read_weights(
    path: str | os.PathLike, model: Model, model_name: str, template: Mapping[Leaf, Any]
) -> Found:
    """The values of a file by the leaves of a model, whose shapes need not be those of `template`.

    Raises ConfigError if the file cannot be read, if its names would be a guess, and for values that are not finite.
    """
    kind = convention(path)
    try:
        keys = _file_keys(kind, model, model_name, template)
    except ConfigError as error:
        if kind != TORCH or not Path(path).is_file():
            raise
        raise ConfigError(f"{error}{_fitting(read_tensors(path), kind, model_name)}") from error
    tensors = _prepare(read_tensors(path), kind, model, keys.values())
    grids = flattened_grids(model) if kind != KERAS else {}
    values = {}
    for leaf, key in keys.items():
        if key in tensors:
            grid = grids.get("/".join(leaf[1:-1]))
            values[leaf] = _from_file(tensors[key], leaf, len(template[leaf].shape), kind, grid)
            if not np.isfinite(values[leaf]).all():
                raise ConfigError(f"{path}: {key} holds values that are not finite")
    return Found(
        values,
        keys,
        {leaf: tuple(tensors[keys[leaf]].shape) for leaf in values},
        [key for key in keys.values() if key not in tensors],
        sorted(set(tensors) - set(keys.values())),
    )


def fitting(path: str | os.PathLike, model_name: str) -> str:
    """A hint, "; it has the names of ...", at models of the same family that a file does fit; or ""."""
    kind = convention(path)
    return _fitting(read_tensors(path), kind, model_name) if kind == TORCH else ""


def save_torchvision(path: str | os.PathLike, model_name: str, variables: Variables) -> None:
    """Writes safetensors with torchvision's names and layout, for `load_state_dict` in torch.

    Raises ConfigError if torch knows no such model, or the file cannot be written.
    """
    import safetensors
    import safetensors.numpy

    model = create_model(model_name)
    leaves = flax.traverse_util.flatten_dict(dict(variables))
    keys = _file_keys(TORCH, model, model_name, leaves)
    grids = flattened_grids(model)
    tensors = {}
    for leaf, key in keys.items():
        layer = "/".join(leaf[1:-1])
        value = _to_torch(np.asarray(leaves[leaf], np.float32), leaf, grids.get(layer))
        if leaf[-1] == "kernel" and is_pointwise_in_torch(model, layer):
            value = value[:, :, None, None]
        tensors[key] = np.ascontiguousarray(value)
    partial = Path(path).with_name(Path(path).name + ".partial")
    try:
        safetensors.numpy.save_file(tensors, partial)
        partial.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be written ({error})") from error


def _file_keys(kind: str, model: Model, model_name: str, template: Mapping[Leaf, Any]) -> dict[Leaf, str]:
    """The name in the file of each leaf: ("params", "conv1", "kernel") -> "conv1.weight"."""
    layers = dict.fromkeys("/".join(leaf[1:-1]) for leaf in template)
    table = {TORCH: torch_names, KERAS: keras_names, CAFFE: caffe_names, TENSORFLOW: tensorflow_names}[kind]
    names: Names | None = table(model, layers)
    if names is None:
        raise ConfigError(
            f"no {kind} weights of {model_name} are known: their names of layers would be a guess"
        )
    norms = {leaf[1:-1] for leaf in template if leaf[-1] == "scale"}
    keys = {}
    for leaf in template:
        name = LEAVES[kind][leaf[-1]]
        if kind == KERAS and name == "bias" and leaf[1:-1] in norms:
            name = "beta"
        keys[leaf] = f"{names['/'.join(leaf[1:-1])]}.{name}"
    return keys


def _fitting(tensors: Tensors, kind: str, model_name: str) -> str:
    """A hint at other models of the same family whose names and shapes are those of a torch file; or ""."""
    family = re.match(r"[a-z]+", model_name)
    if kind != TORCH or family is None:
        return ""
    fit = []
    for name in MODELS:
        if name == model_name or not name.startswith(family[0]):
            continue
        model = create_model(name)
        template = flax.traverse_util.flatten_dict(dict(shapes_of(model, (224, 224, 3))))
        try:
            keys = _file_keys(kind, model, name, template)
        except ConfigError:
            continue
        sizes = {key: template[leaf].size for leaf, key in keys.items()}
        inner = {key: value.size for key, value in _prepare(tensors, kind, model, ()).items()}
        # The number of classes may be another.
        if sizes.keys() == inner.keys() and sum(sizes[key] != inner[key] for key in sizes) <= 6:
            fit.append(name)
    return f"; it has the names of {' and '.join(fit)}" if fit else ""


# What Keras 3 calls the variables of a layer, in its order.
_KERAS3 = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def _named_by_order(tensors: Tensors, keys: Collection[str]) -> Tensors:
    """Keras 3 numbers the layers of each kind in the order in which a network has them; names them by that."""
    layers = sorted({key.rpartition(".")[0] for key in keys}, key=_keras_order)
    of_kind: dict[str, list[str]] = {kind: [] for kind in _KERAS3}
    for layer in layers:
        kind = "batch_normalization" if layer.endswith("_bn") else "conv2d" if "conv" in layer else "dense"
        of_kind[kind].append(layer)
    named = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"(\D+?|conv2d)(?:_(\d+))?\.(\d)", name)
        if match is None or match[1] not in _KERAS3:
            return tensors
        same, number, variable = of_kind[match[1]], int(match[2] or 0), int(match[3])
        leaves = _KERAS3[match[1]]
        if number >= len(same) or variable >= len(leaves):
            return tensors
        named[f"{same[number]}.{leaves[variable]}"] = value
    return named


def _keras_order(layer: str) -> list[float]:
    """conv2_block1_0_conv, the shortcut, stands between conv2_block1_2_conv and conv2_block1_3_conv."""
    numbers = [float(number) for number in re.findall(r"\d+", layer)]
    shortcut = re.search(r"_0_(conv|bn)$", layer)
    stage = [0.0] if "conv" in layer else [1.0]
    return stage + (numbers[:-1] + [2.5] if shortcut else numbers or [99.0])


def _prepare(tensors: Tensors, kind: str, model: Model, keys: Collection[str]) -> Tensors:
    """Takes out what no model here has, and brings old or foreign forms to one; `keys` are the names looked for."""
    if kind == KERAS:
        return _fold_keras_convolutions(_named_by_order(tensors, keys))
    renamed = {}
    for name, value in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        if hasattr(model, "aux") and not model.aux and re.match(r"aux\d\.|(head|nn|softmax)[01]", name):
            continue
        # DenseNets of torchvision before 0.3 ("norm.1"), VGGs of timm ("pre_logits.fc1").
        name = re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name)
        name = name.replace("pre_logits.fc1.", "classifier.0.").replace("pre_logits.fc2.", "classifier.3.")
        name = name.replace("head.fc.", "classifier.6.")
        renamed[renamed_since(model, name)] = value
    return renamed


def _fold_keras_convolutions(tensors: Tensors) -> Tensors:
    """Takes the biases before a normalization into its mean, and its other epsilon into its variance.

    The function stays the same to the last bit or so: scale * (x + bias - mean) / sqrt(var + epsilon) + beta.
    """
    folded = dict(tensors)
    for name in tensors:
        if not name.endswith("_bn.moving_mean"):
            continue
        layer = name.removesuffix("_bn.moving_mean")
        bias = folded.pop(f"{layer}_conv.bias", None)
        if bias is not None:
            folded[name] = folded[name] - bias
        folded[f"{layer}_bn.moving_variance"] = tensors[f"{layer}_bn.moving_variance"] + np.float32(
            KERAS_EPSILON - 1e-5
        )
    return folded


def _from_file(value: np.ndarray, leaf: Leaf, rank: int, kind: str, grid: Grid | None) -> np.ndarray:
    """A tensor of a file in the layout used here, which has `rank` dimensions."""
    if leaf[-1] != "kernel" or kind in (KERAS, TENSORFLOW) or value.ndim < 2:
        return value
    if rank == 4:  # out, in, height, width -> height, width, in, out
        return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    rows = value.reshape(len(value), -1)
    if grid and rows.shape[1] % np.prod(grid) == 0:  # in: channels, height, width -> height, width, channels
        rows = rows.reshape(len(rows), -1, *grid).transpose(0, 2, 3, 1).reshape(rows.shape)
    return rows.T


def _to_torch(value: np.ndarray, leaf: Leaf, grid: Grid | None) -> np.ndarray:
    """The inverse of `_from_file`."""
    if leaf[-1] != "kernel":
        return value
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    rows = value.T
    if grid:
        rows = rows.reshape(len(rows), *grid, -1).transpose(0, 3, 1, 2).reshape(rows.shape)
    return rows


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more: {', '.join(names[1:4])})"
