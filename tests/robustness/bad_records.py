"""Prepared data sets that were cut, changed or made by someone else."""

import zlib

import numpy as np
from case import PREPARE, Case, among_others, colour, edit_json, write

from cnnjax.config import Data
from cnnjax.data.formats.prepare import prepare

TRAIN = "--data.name=records:set --data.image_size=8 --train.steps=1 --workdir=new"
STREAM = f"{TRAIN} --data.stream --data.workers=0"
ABOUT = "set/dataset.json"


def prepared(change):
    def make(folder):
        among_others(colour(99))(folder)
        prepare(Data(name=f"folder:{folder / 'in'}"), folder / "set")
        change(folder)

    return make


def about(change):
    return prepared(lambda folder: edit_json(folder / ABOUT, change))


def rewritten(name, change):
    return prepared(lambda folder: write(folder / "set" / name, change((folder / "set" / name).read_bytes())))


def targets(**arrays):
    """The targets of the training split, with a checksum that fits."""

    def change(folder):
        path = folder / "set/train.npz"
        with np.load(path) as file:
            np.savez(path, **(dict(file) | arrays))
        sums = zlib.crc32(path.read_bytes())
        edit_json(folder / ABOUT, lambda tree: tree["splits"]["train"].update(targets_crc32=sums))

    return prepared(change)


def flip_middle(content):
    content = bytearray(content)
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


RECORDS = "train-00000.array_record"
DAMAGED = "set/dataset.json: damaged"
CASES = [
    Case("no_folder", TRAIN, "set holds no prepared data set"),
    Case("description_missing", TRAIN, "dataset.json is missing", prepared(lambda folder: (folder / ABOUT).unlink())),
    Case("description_cut", TRAIN, DAMAGED, rewritten("dataset.json", lambda text: text[:50])),
    Case("description_empty", TRAIN, DAMAGED, rewritten("dataset.json", lambda text: b"")),
    Case("description_not_text", TRAIN, DAMAGED, rewritten("dataset.json", lambda text: b"\xff" + text)),
    Case("description_nested", TRAIN, DAMAGED, rewritten("dataset.json", lambda text: b"[" * 10**5)),
    Case("description_of_another_type", TRAIN, DAMAGED, rewritten("dataset.json", lambda text: b"[3]")),
    Case("other_version", TRAIN, "format 9, this version reads ", about(lambda tree: tree.update(format=9))),
    Case("other_kind", TRAIN, DAMAGED, about(lambda tree: tree.update(kind="sound"))),
    Case("other_channels", TRAIN, DAMAGED, about(lambda tree: tree.update(channels=4))),
    Case("classes_missing", TRAIN, DAMAGED, about(lambda tree: tree.pop("classes"))),
    Case("classes_of_another_type", TRAIN, DAMAGED, about(lambda tree: tree.update(classes=[1, 2]))),
    Case("test_split_missing", TRAIN, DAMAGED, about(lambda tree: tree["splits"].pop("test"))),
    Case("count_missing", TRAIN, DAMAGED, about(lambda tree: tree["splits"]["train"].pop("count"))),
    Case("no_files", TRAIN, DAMAGED, about(lambda tree: tree["splits"]["train"].update(files=[]))),
    Case("files_above", TRAIN, DAMAGED, about(lambda tree: tree["splits"]["train"].update(files=["../x"]))),
    Case("files_absolute", TRAIN, DAMAGED, about(lambda tree: tree["splits"]["train"].update(files=["/etc/passwd"]))),
    Case("file_of_half_a_letter", TRAIN, "records of train cannot be read",
         about(lambda tree: tree["splits"]["train"].update(files=["\ud800"]))),
    Case("other_count", TRAIN, "3 records of train, dataset.json says 7",
         about(lambda tree: tree["splits"]["train"].update(count=7))),
    Case("boxes_that_are_none", TRAIN, "train.npz: damaged", about(lambda tree: tree.update(kind="boxes"))),
    Case("targets_missing", TRAIN, "train.npz: damaged", prepared(lambda folder: (folder / "set/train.npz").unlink())),
    Case("targets_cut", TRAIN, "train.npz: damaged", rewritten("train.npz", lambda content: content[:99])),
    Case("targets_flipped", TRAIN, "train.npz: damaged", rewritten("train.npz", flip_middle)),
    Case("targets_with_objects", TRAIN, "train.npz: damaged", targets(label=np.array([[], 1, None], dtype=object))),
    Case("label_of_no_class", TRAIN, "set: damaged", targets(label=np.array([0, 1, 2], np.int32))),
    Case("label_below_0", TRAIN, "set: damaged", targets(label=np.array([0, 1, -1], np.int32))),
    Case("label_of_texts", TRAIN, "set: damaged", targets(label=np.array(["a", "b", "a"]))),
    Case("records_missing", TRAIN, "records of train cannot be read", prepared(lambda folder: (folder / "set" / RECORDS).unlink())),
    Case("records_empty", TRAIN, "set: ", rewritten(RECORDS, lambda content: b"")),
    Case("records_of_text", TRAIN, "set: ", rewritten(RECORDS, lambda content: b"text" * 99)),
    Case("records_cut", TRAIN, "set: ", rewritten(RECORDS, lambda content: content[:-100])),
    Case("records_cut_short", TRAIN, "set", rewritten(RECORDS, lambda content: content[:200])),
    Case("records_flipped", TRAIN, "records of train cannot be read: Corrupted", rewritten(RECORDS, flip_middle)),
    Case("records_flipped_streamed", STREAM, "records of train cannot be read: Corrupted", rewritten(RECORDS, flip_middle)),
    Case("streamed_without_preparing", STREAM.replace("records:set", "folder:in"), "data.stream reads what --mode=prepare wrote",
         among_others(colour(99))),
    Case("prepared_twice", PREPARE, "out exists already", lambda folder: (among_others(colour(9))(folder), (folder / "out").mkdir())),
    Case("prepared_into_a_file", PREPARE.replace("=out", "=file/out"), "Not a directory: file/",
         lambda folder: (among_others(colour(9))(folder), write(folder / "file", b"x"))),
    Case("prepared_nowhere", PREPARE.replace("--output=out", ""), "mode=prepare needs", among_others(colour(9))),
    Case("prepared_from_records", "--mode=prepare --data.name=records:set --output=out", "cannot be prepared"),
]  # fmt: skip
