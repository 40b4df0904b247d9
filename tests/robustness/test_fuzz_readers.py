"""Random and mutated bytes: readers return what they promise or raise ConfigError, and nothing else."""

import io
import json
import tarfile
import time

import numpy as np
import pytest
from bad_annotations import VOC_TEXT, coco_tree
from bad_archives import IMAGES, tarred, zipped
from bad_weights import header
from case import PATTERN, encode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnjax import config
from cnnjax.config import ConfigError, Data, Experiment
from cnnjax.data import images
from cnnjax.data.detection_sources import read_splits
from cnnjax.data.formats import prepare
from cnnjax.data.formats.annotations import Annotations
from cnnjax.data.formats.coco import read_coco
from cnnjax.data.formats.voc import read_voc
from cnnjax.data.formats.yolo import read_yolo
from cnnjax.weights.files import read_tensors

# The same examples every time; time is measured below, for the processor may have other things to do.
COMMON = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
QUICK, LONG = 60, 3000
SLOWEST = 1.0  # seconds of processor time that some hundred bytes may take


@st.composite
def mutated(draw, seeds):
    """Valid content, up to four times cut, with a byte flipped, or with bytes put in; or bytes of no meaning."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["cut", "flip", "insert", "remove", "repeat"]))
        if kind == "cut":
            content = content[:at]
        elif kind == "flip" and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
        elif kind == "insert":
            content = (
                content[:at]
                + draw(st.binary(min_size=1, max_size=8) | st.sampled_from(TOKENS))
                + content[at:]
            )
        else:
            end = at + draw(st.integers(0, 16))
            content = content[:at] + content[at:end] * (2 if kind == "repeat" else 0) + content[end:]
    return content


TOKENS = [b"nan", b"-1", b"1e999", b"null", b"[", b"{", b'"', b"\x00", b"../", b"\\ud800", b"<!DOCTYPE a>", b"&x;",
          b"9" * 30, b"\xff\xff\xff\xff", b"\n", b"true", b"<?xml version='1.1' encoding='latin-1'?>"]  # fmt: skip


def picture_seeds():
    formats = ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM"]
    seeds = [encode(PATTERN, format) for format in formats]
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds += [encode(PATTERN, "JPEG", exif=exif), encode(Image.fromarray(PATTERN).quantize(4))]
    seeds += [encode(np.full((4, 4), 9, np.uint16)), encode(Image.new("CMYK", (4, 4)), "JPEG")]
    seeds += [encode(PATTERN, "TIFF", compression="tiff_lzw"), encode(Image.new("LA", (4, 4)))]
    return seeds


def picture(content):
    images.check_header(content, "fuzzed")
    image = images.decode(content, "fuzzed", Data(), 3)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3


def annotated(found):
    assert isinstance(found, Annotations)
    for image in found.images:
        boxes = image.truth.boxes
        assert np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
        assert (boxes <= [image.width, image.height] * 2).all()
        assert ((0 <= image.truth.classes) & (image.truth.classes < len(found.classes))).all()
        assert np.isfinite(image.truth.area).all() and ".." not in image.path.split("/")


def coco(content, folder):
    (folder / "a.json").write_bytes(content)
    annotated(read_coco(folder / "a.json", folder))


def voc(content, folder):
    for path, text in (("Annotations/1.xml", content), ("JPEGImages/1.png", b"")):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(text)
    annotated(read_voc(folder))


def yolo(content, folder):
    for path, text in (("images/1.png", encode(PATTERN)), ("labels/1.txt", content)):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(text)
    annotated(read_yolo(folder / "images", folder / "labels", ["cat", "dog"]))


def data_yaml(content, folder):
    for path, text in (
        ("images/train/1.png", encode(PATTERN)),
        ("images/val/1.png", encode(PATTERN)),
        ("labels/train/1.txt", YOLO_TEXT),
        ("labels/val/1.txt", YOLO_TEXT),
        ("data.yaml", content),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text)
    for split in read_splits(Data(name=f"yolo:{folder}")).splits.values():
        annotated(split)


def archive(name):
    def read(content, folder):
        (folder / name).write_bytes(content)
        with prepare._archive(folder / name) as (names, read_member):
            train, test, classes = prepare._split_names(names, name)
            assert len(classes) > 1
            for files in (train, test):
                for _, found in prepare._labelled(files, read_member, "").files:
                    assert isinstance(found, bytes)
        assert [path.name for path in folder.iterdir()] == [name]

    return read


def weights(name):
    def read(content, folder):
        (folder / name).write_bytes(content)
        for tensor in read_tensors(folder / name).values():
            assert tensor.dtype == np.float32

    return read


def experiment(content, folder):
    assert isinstance(config.from_json(content.decode(errors="replace")), Experiment)


def npz():
    content = io.BytesIO()
    np.savez(content, a=np.ones((2, 3), np.float32), b=np.ones(3))
    return content.getvalue()


def safetensors():
    about = {"a": {"dtype": "F32", "shape": [200], "data_offsets": [0, 800]}, "__metadata__": {"x": "y"}}
    return header(json.dumps(about).encode()) + bytes(800)


YOLO_TEXT = b"0 .35 .375 .3 .5\n1 0.5 0.5 1 1\n"
YAML_TEXT = b"path: .\ntrain: images/train\nval: [../images/val]\nnc: 2\nnames: {0: cat, 1: &a dog}\n"
SMALL = dict(list(IMAGES.items())[1:5])
READERS = {
    "images": (lambda content, folder: picture(content), picture_seeds),
    "coco": (coco, lambda: [json.dumps(coco_tree()).encode()]),
    "voc": (voc, lambda: [VOC_TEXT.format("").encode()]),
    "yolo": (yolo, lambda: [YOLO_TEXT]),
    "data.yaml": (data_yaml, lambda: [YAML_TEXT]),
    "zip": (archive("a.zip"), lambda: [zipped(SMALL), zipped(SMALL, compression=14)]),
    "tar": (archive("a.tar"), lambda: [tarred(SMALL), tarred(SMALL, "w:gz"), tarred({"a/x.png": (tarfile.SYMTYPE, "b")})]),
    "safetensors": (weights("a.safetensors"), lambda: [safetensors()]),
    "npz": (weights("a.npz"), lambda: [npz()]),
    "config": (experiment, lambda: [config.to_json(Experiment()).encode()]),
}  # fmt: skip


def fuzz(name, examples, tmp_path):
    reader, seeds = READERS[name][0], READERS[name][1]()
    reader(seeds[0], tmp_path)  # imports what it needs
    outcomes = {"read": 0, "refused": 0}

    def tried(content):
        began = time.process_time()
        try:
            reader(content, tmp_path)
            outcome = "read"
        except ConfigError:
            outcome = "refused"
        return outcome, time.process_time() - began

    @settings(max_examples=examples, **COMMON)
    @given(mutated(seeds))
    def check(content):
        outcome, spent = tried(content)
        outcomes[outcome] += 1
        if spent > SLOWEST:  # other threads of this process, such as those of tests before, count too
            _, spent = tried(content)
        assert spent < SLOWEST

    check()
    assert min(outcomes.values()) > 0, outcomes  # neither were all mutations harmless nor all fatal
    return outcomes


@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_mutated_bytes_returns_or_refuses(name, tmp_path):
    fuzz(name, QUICK, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_thousands_of_mutated_bytes_returns_or_refuses(name, tmp_path):
    fuzz(name, LONG, tmp_path)
