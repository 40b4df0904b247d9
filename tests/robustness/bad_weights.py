"""Files of published weights: code in pickles, wrong shapes, cut files, numbers that are none."""

import functools
import json
import os
import pickle
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from case import Case, write

from cnnjax.models import create_model

SIZE = 224  # what published weights of a VGG are given
IMPORT = "--mode=import --experiment=imagenet_vgg16 --model.name=tiny_vgg --classes=classes.txt --workdir=new --weights"


class Exploit:
    """Would make a file named `executed` where it is unpickled as any other pickle is."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@functools.cache
def good():
    """Tensors with torchvision's names that fit a small VGG of three classes."""
    import jax
    import jax.numpy as jnp
    from safetensors.numpy import load, save

    from cnnjax.weights.convert import save_torchvision

    model = create_model("tiny_vgg", 3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), shapes)
    with tempfile.TemporaryDirectory() as folder:
        save_torchvision(f"{folder}/a.safetensors", "tiny_vgg", variables)
        with open(f"{folder}/a.safetensors", "rb") as file:
            return load(file.read()), save


def weights(name, content):
    """The file `content` makes, given the good tensors and where to write; and three class names."""

    def make(folder):
        write(folder / "classes.txt", "cat\ndog\nbird\n")
        if callable(content):
            made = content(folder / name)
            if isinstance(made, bytes):
                write(folder / name, made)
        else:
            write(folder / name, content)

    return make


def safetensors(change=lambda tensors: None):
    def make(path):
        tensors, save = good()
        tensors = dict(tensors)
        change(tensors)
        return save(tensors)

    return make


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


def torch_file(make_content, **options):
    def make(path):
        torch = pytest.importorskip("torch")
        torch.save(make_content(torch), path, **options)

    return make


def for_torch(make):
    """Content that torch is given to read, where it is installed."""

    def made(path):
        pytest.importorskip("torch")
        return make(path)

    return made


def keras(fill):
    def make(path):
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            fill(file)

    return make


def cut(make, share=0.5):
    def half(path):
        content = make(path) or path.read_bytes()
        path.unlink(missing_ok=True)
        return content[: int(len(content) * share)]

    return half


def header(text, size=None):
    """safetensors begin with the size of a header of JSON, which says where in the rest each tensor is."""
    return struct.pack("<Q", len(text) if size is None else size) + text


MODELS = {".npz": "tiny_squeezenet", ".pb": "inception5h"}  # those that have published files of a kind


def case(name, file, expect, content):
    flags = IMPORT.replace("tiny_vgg", MODELS.get(Path(file).suffix, "tiny_vgg"))
    return Case(name, f"{flags}={file}", expect, weights(file, content))


def imported(folder, result):
    assert json.loads((folder / "new/config.json").read_text())["model"]["name"] == "tiny_vgg"


FIRST = "features.0.weight"
ST, NO_ST = "w.safetensors", "w.safetensors: not a safetensors file"
NO_TORCH = "w.pth: torch refuses to read it as plain weights"
CASES = [
    Case("torch_code", f"{IMPORT}=w.pth", NO_TORCH, weights("w.pth", torch_file(lambda torch: {"a": Exploit()}))),
    case("torch_code_in_a_legacy_file", "w.pth", NO_TORCH, torch_file(lambda torch: {"a": Exploit()}, _use_new_zipfile_serialization=False)),
    case("torch_bare_pickle", "w.pth", NO_TORCH, for_torch(lambda path: pickle.dumps(Exploit()))),
    case("torch_code_in_nested_pickle", "w.pth", NO_TORCH, torch_file(lambda torch: {"state_dict": {"a": [Exploit()]}})),
    case("torch_cut", "w.pth", NO_TORCH, cut(torch_file(lambda torch: {"a": torch.zeros(999)}))),
    case("torch_text", "w.pth", NO_TORCH, for_torch(lambda path: b"weights")),
    case("torch_empty", "w.pth", NO_TORCH, for_torch(lambda path: b"")),
    case("torch_without_tensors", "w.pth", "holds no state dict", torch_file(lambda torch: {"epoch": 3})),
    case("torch_of_a_list", "w.pth", "holds no state dict", torch_file(lambda torch: [torch.zeros(3)])),
    case("torch_names_that_are_numbers", "w.pth", "holds no state dict", torch_file(lambda torch: {1: torch.zeros(3)})),
    case("torch_sparse", "w.pth", "w.pth: ", torch_file(lambda torch: {"a": torch.eye(3).to_sparse()})),
    case("torch_complex", "w.pth", "w.pth: a holds torch.complex64", torch_file(lambda torch: {"a": torch.zeros(3, dtype=torch.complex64)})),
    case("safetensors_good", ST, imported, safetensors()),
    case("safetensors_cut", ST, NO_ST, cut(safetensors())),
    case("safetensors_cut_in_the_header", ST, NO_ST, cut(safetensors(), 0.001)),
    case("safetensors_empty", ST, NO_ST, b""),
    case("safetensors_huge_header", ST, NO_ST, header(b"{}", 2**40)),
    case("safetensors_header_of_no_size", ST, NO_ST, header(b"", 2**64 - 1)),
    case("safetensors_header_of_text", ST, NO_ST, header(b"not json at all!")),
    case("safetensors_tensor_behind_the_end", ST, NO_ST, header(json.dumps(
        {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode())),
    case("safetensors_negative_shape", ST, NO_ST, header(json.dumps(
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}).encode()) + bytes(4)),
    case("safetensors_unknown_type", ST, NO_ST, header(json.dumps(
        {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}).encode()) + bytes(4)),
    case("safetensors_of_8_bits", ST, "w.safetensors: ", header(json.dumps(
        {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()) + bytes(4)),
    case("tensor_missing", ST, f"has no tensor {FIRST}", safetensors(lambda t: t.pop(FIRST))),
    case("tensor_too_many", ST, "has a tensor features.99.weight, which", safetensors(lambda t: t.update({"features.99.weight": np.zeros(3)}))),
    case("tensor_of_another_shape", ST, f"{FIRST} has shape (3, 3)", safetensors(lambda t: t.update({FIRST: np.zeros((3, 3))}))),
    case("tensor_of_other_channels", ST, f"{FIRST} has shape", safetensors(lambda t: t.update({FIRST: t[FIRST][:, :2].copy()}))),
    case("tensor_of_one_class_more", ST, "has shape (4,", safetensors(
        lambda t: t.update({k: np.repeat(v, 2, 0)[:4] for k, v in t.items() if len(v) == 3 and v.ndim < 3}))),
    case("tensor_of_nan", ST, f"{FIRST} holds values that are not finite", safetensors(
        lambda t: t.update({FIRST: np.full_like(t[FIRST], np.nan)}))),
    case("tensor_with_one_infinity", ST, "holds values that are not finite", safetensors(
        lambda t: t.update({"features.0.bias": np.array([np.inf, *t["features.0.bias"][1:]], np.float32)}))),
    case("no_tensors", ST, "has no tensor", safetensors(lambda t: t.clear())),
    case("npz_with_code", "w.npz", "w.npz: not an npz file of plain arrays", npz(a=np.array([Exploit()], dtype=object))),
    case("npz_cut", "w.npz", "w.npz: not an npz file", cut(npz(a=np.zeros(999)))),
    case("npz_of_text", "w.npz", "w.npz: not an npz file", b"text"),
    case("npz_with_texts", "w.npz", "w.npz: a holds <U1", npz(a=np.array(["x", "y"]))),
    case("npz_with_dates", "w.npz", "w.npz: a holds datetime64", npz(a=np.array(["2020-01-01"], "M8[D]"))),
    Case("npz_of_another_model", f"{IMPORT}=w.npz", "no caffe weights of tiny_vgg", weights("w.npz", npz(a=np.zeros(3)))),
    case("keras_cut", "w.h5", "w.h5: not an HDF5 file", cut(keras(lambda file: file.create_dataset("a", data=np.zeros(9999))))),
    case("keras_of_text", "w.h5", "w.h5: not an HDF5 file", b"text"),
    case("keras_empty", "w.h5", "w.h5: not an HDF5 file", b""),
    case("keras_with_texts", "w.h5", "w.h5: ", keras(lambda file: file.create_dataset("a/a/kernel:0", data="text"))),
    case("keras_without_weights", "w.h5", "has no tensor", keras(lambda file: None)),
    case("keras_bomb", "w.h5", "w.h5: ", keras(lambda file: file.create_dataset("a/a/kernel:0", (2**22, 2**22), "f4", chunks=(64, 64)))),
    case("keras_link_to_another_file", "w.h5", "has no tensor", keras(
        lambda file: file.__setitem__("a", __import__("h5py").ExternalLink("/etc/passwd", "/")))),
    case("frozen_graph_cut", "w.pb", "w.pb: not a frozen TensorFlow graph", b"\x0a\x7f\x0a\x05conv1"),
    case("other_suffix", "w.caffemodel", "weights are read from files ending in .safetensors", b"x"),
    case("no_suffix", "w", "weights are read from files ending in .safetensors", b"x"),
    case("safetensors_called_pth", "w.pth", NO_TORCH, for_torch(safetensors())),
    case("torch_called_safetensors", ST, NO_ST, torch_file(lambda torch: {"a": torch.zeros(3)})),
    Case("missing_file", f"{IMPORT}=gone.pth", "gone.pth: no such file of weights", weights("w", b"")),
    Case("folder_of_weights", f"{IMPORT}=w.pth", "w.pth: a folder without model.safetensors",
         lambda folder: (weights("w", b"")(folder), (folder / "w.pth").mkdir())),
    Case("classes_missing", f"{IMPORT}=w.safetensors", "classes.txt: cannot be read", lambda folder: write(folder / ST, b"")),
    Case("classes_empty", f"{IMPORT}=w.safetensors", "classes.txt holds no class names",
         lambda folder: write(folder / "classes.txt", "\n")),
    Case("classes_not_text", f"{IMPORT}=w.safetensors", "classes.txt: cannot be read",
         lambda folder: write(folder / "classes.txt", b"\xff\xfe")),
    Case("classes_of_another_number", f"{IMPORT}=w.safetensors", "has shape (3",
         lambda folder: (weights(ST, safetensors())(folder), write(folder / "classes.txt", "cat\ndog\n"))),
]  # fmt: skip
