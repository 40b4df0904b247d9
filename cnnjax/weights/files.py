"""Reads the formats of published weights into named numpy arrays. No reader runs code from a file."""

import os
import re
from pathlib import Path

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.weights import frozen_graph, shards

TORCH, KERAS, CAFFE, TENSORFLOW = "torch", "keras", "caffe", "tensorflow"
FORMATS = {
    ".safetensors": TORCH, ".pth": TORCH, ".pt": TORCH, ".th": TORCH, ".bin": TORCH, ".ckpt": TORCH, ".h5": KERAS, ".npz": CAFFE,
    ".pb": TENSORFLOW, ".json": TENSORFLOW,
}  # fmt: skip

Tensors = dict[str, np.ndarray]
_WRAPPERS = re.compile(r"^(?:module\.|model\.|_orig_mod\.)+")


def convention(path: str | os.PathLike) -> str:
    """Whose names and memory layout a file has, by its ending: "torch", "keras", "caffe" or "tensorflow".

    Raises ConfigError for an unknown ending.
    """
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        raise ConfigError(f"{path}: weights are read from files ending in {', '.join(FORMATS)}")
    return FORMATS[suffix]


def read_tensors(path: str | os.PathLike) -> Tensors:
    """All tensors of a file as float32, by name.

    safetensors; torch checkpoints (needs torch, which is told to refuse anything but tensors); Keras .h5
    (needs h5py), named layer.leaf; .npz without pickled objects; constants of frozen
    TensorFlow graphs (.pb) named layer_w and layer_b, and TensorFlow.js's manifest with its shards beside it (.json),
    as layer.w and layer.b. A checkpoint's {"state_dict": ...}, as of
    Lightning, and the prefixes of wrappers ("module." of parallel training, "model." of Lightning, "_orig_mod." of
    torch.compile) are taken off. Keras 3 files (.weights.h5) know no names of layers: "conv2d_1.0" is variable 0 of
    the second convolution. Raises ConfigError if the file cannot be read or
    holds something else.
    """
    path = Path(path)
    kind = convention(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of weights")
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix == ".npz":
        tensors = _read_npz(path)
    elif path.suffix == ".pb":
        tensors = _read_frozen_graph(path)
    elif path.suffix == ".json":
        tensors = _read_shards(path)
    else:
        tensors = _read_keras(path) if kind == KERAS else _read_torch(path)
    return {_WRAPPERS.sub("", name): _numbers(path, name, value) for name, value in tensors.items()}


def _numbers(path: Path, name: str, value: np.ndarray) -> np.ndarray:
    kind = np.asarray(value).dtype
    if kind.kind not in "fiub" and "float" not in kind.name:  # bfloat16 is a kind of its own
        raise ConfigError(f"{path}: {name} holds {kind}, no numbers that weights could be")
    return np.asarray(value, np.float32)


def _read_safetensors(path: Path) -> Tensors:
    import ml_dtypes  # noqa: F401  (numpy knows bfloat16 through it)
    import safetensors
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # SafetensorError, or what numpy says of a type it lacks
        raise ConfigError(f"{path}: not a safetensors file ({_first_line(error)})") from error


def _read_npz(path: Path) -> Tensors:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ConfigError(f"{path}: not an npz file of plain arrays ({_first_line(error)})") from error


def _read_frozen_graph(path: Path) -> Tensors:
    try:
        constants = frozen_graph.read_constants(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path}: not a frozen TensorFlow graph ({_first_line(error)})") from error
    weights = {name: value for name, value in constants.items() if name.endswith(("_w", "_b"))}
    if not weights:
        raise ConfigError(f"{path}: a TensorFlow graph without constants named like weights (..._w, ..._b)")
    return {f"{name[:-2]}.{name[-1]}": value for name, value in weights.items()}


def _read_shards(path: Path) -> Tensors:
    try:
        return shards.named_by_layer(shards.read_shards(path))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: not TensorFlow.js's weights ({_first_line(error)})") from error


def _read_torch(path: Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"{path}: reading {path.suffix} needs torch; install it, or convert the file to .safetensors"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, ...: torch has no common base
        raise ConfigError(
            f"{path}: torch refuses to read it as plain weights ({_first_line(error)})"
        ) from error
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise ConfigError(f"{path}: holds no state dict, that is a table from names to tensors")
    for name, value in content.items():
        if value.is_complex() or value.layout != torch.strided or value.is_meta:
            raise ConfigError(f"{path}: {name} holds {value.dtype} ({value.layout}), no plain numbers")
    return {name: value.detach().float().numpy() for name, value in content.items()}


def _read_keras(path: Path) -> Tensors:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(f"{path}: reading .h5 needs h5py: pip install h5py") from error
    tensors: Tensors = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            layer, *inner, leaf = name.split("/")
            if layer == "layers" and inner[1:] == ["vars"]:  # Keras 3
                tensors[f"{inner[0]}.{leaf}"] = item[()]
                return
            tensors[f"{layer}.{_keras_leaf(leaf, layer)}"] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.get("model_weights", file).visititems(visit)
    except Exception as error:
        # damage makes h5py raise almost anything, sizes that cannot be meant MemoryError
        raise ConfigError(f"{path}: not an HDF5 file of weights ({_first_line(error)})") from error
    return tensors


def _keras_leaf(leaf: str, layer: str) -> str:
    """The old "block1_conv1_W_1:0" and the newer "kernel:0" are both "kernel"."""
    leaf = re.sub(r"(_\d+)?:0$", "", leaf.removeprefix(f"{layer}_"))
    return {"W": "kernel", "b": "bias"}.get(leaf, leaf)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
