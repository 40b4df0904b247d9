"""Runs whose config.json or checkpoints were cut, changed, or belong to another model."""

import json
import shutil

from case import Case, colour, edit_json, write

from cnnjax.runs.checkpoint import _checksum

LAYERS = "--mode=layers --workdir=run"
RESUME = "--workdir=run --train.steps=3"
EVALUATE = "--mode=evaluate --workdir=run"


def config(change):
    return lambda folder: edit_json(folder / "run/config.json", change)


def text(change):
    def make(folder):
        path = folder / "run/config.json"
        path.write_bytes(change(path.read_bytes()))

    return make


def setting(part, **fields):
    return config(lambda tree: tree[part].update(fields))


def case(name, flags, expect, make):
    return Case(name, flags, expect, make, run=True)


def config_case(name, message, make):
    return case(f"config_{name}", RESUME, f"run/config.json: ... {message}", make)


def goes_on(folder, result):
    assert "going on from step 2 of 3" in result.out


def is_read(folder, result):
    assert result.out.split() == ["logits", "10"] and result.err == ""


CONFIGS = [
    config_case("empty", "not valid JSON", text(lambda old: b"")),
    config_case("cut", "not valid JSON", text(lambda old: old[:300])),
    config_case("not_text", "", text(lambda old: b"\xff\xfe" + old)),
    config_case("nested", "not valid JSON", text(lambda old: b"[" * 10**5)),
    config_case("number_of_5000_digits", "not valid JSON", text(lambda old: old.replace(b'"steps": 2', b'"steps": ' + b"9" * 5000))),
    config_case("list", "the file is not an object", text(lambda old: b"[]")),
    config_case("null", "the file is not an object", text(lambda old: b"null")),
    config_case("unknown_field", "unknown field train.retries ... another version", setting("train", retries=3)),
    config_case("unknown_part", "unknown field privacy", config(lambda tree: tree.update(privacy={}))),
    config_case("part_of_another_type", "train. is not an object", config(lambda tree: tree.update(train=3))),
    config_case("text_for_a_number", "data.batch_size='many': expected int", setting("data", batch_size="many")),
    config_case("fraction_for_a_number", "data.batch_size=1.5: expected int", setting("data", batch_size=1.5)),
    config_case("truth_for_a_number", "data.batch_size=True: expected int", setting("data", batch_size=True)),
    config_case("null_for_a_number", "data.batch_size=None: expected int", setting("data", batch_size=None)),
    config_case("object_for_a_number", "data.batch_size={}: expected int", setting("data", batch_size={})),
    config_case("number_for_a_list", "data.mean=0.5: expected a list of float", setting("data", mean=0.5)),
    config_case("texts_in_a_list", "data.mean=('a',): expected float", setting("data", mean=["a"])),
    config_case("nan", "optimizer.learning_rate=nan: must be finite", setting("optimizer", learning_rate=float("nan"))),
    config_case("infinity", "train.evaluate_every=inf: must be finite", setting("train", evaluate_every=float("inf"))),
    config_case("nan_in_a_list", "data.std=(nan,): must be finite", setting("data", std=[float("nan")])),
    config_case("negative", "data.batch_size=-5", setting("data", batch_size=-5)),
    config_case("unknown_choice", "optimizer.name='sgdd': choose one of sgd", setting("optimizer", name="sgdd")),
    config_case("two_lengths", "give exactly one of", setting("train", epochs=2.0)),
    config_case("name_above", "name='../../x'", config(lambda tree: tree.update(name="../../x"))),
    config_case("name_of_another_type", "name=7: expected str", config(lambda tree: tree.update(name=7))),
    case("config_unknown_model", RESUME, "'lenet55': did you mean lenet5", setting("model", name="lenet55")),
    case("config_unknown_task", RESUME, "task ... choose one of classification", config(lambda tree: tree.update(task="x"))),
    case("config_missing", "--mode=evaluate --workdir=run", "holds no run: config.json is missing",
         lambda folder: (folder / "run/config.json").unlink()),
    case("config_is_a_folder", RESUME, "Is a directory: run/config.json",
         lambda folder: ((folder / "run/config.json").unlink(), (folder / "run/config.json").mkdir())),
    case("config_older_with_fewer_fields", LAYERS, is_read, config(lambda tree: tree["visualize"].clear())),
    case("config_byte_order_mark", LAYERS, is_read, text(lambda old: b"\xef\xbb\xbf" + old)),
]  # fmt: skip

STEP = "run/checkpoints/{}"


def damaged(change, steps=(1, 2)):
    def make(folder):
        for step in steps:
            change(folder / STEP.format(step))

    return make


def largest(folder):
    return max(
        (path for path in (folder / "state").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )


def cut(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(folder):
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def metadata(change):
    """What is known of a checkpoint, changed, with a checksum that fits."""

    def make(folder):
        for path in folder.rglob("*"):
            if path.name == "_CHECKPOINT_METADATA":
                tree = json.loads(path.read_text())
                change(tree["custom_metadata"])
                tree["custom_metadata"]["checksum"] = _checksum(tree["custom_metadata"])
                path.write_text(json.dumps(tree))

    return make


def rewrite(pattern, content):
    def make(folder):
        (found,) = folder.rglob(pattern)
        found.write_bytes(content)

    return make


def goes_on_from_the_one_before(folder, result):
    assert "going on from step 1 of 3" in result.out and "trying the one before it" in result.err


def read_from_the_one_before(folder, result):
    assert result.out.split() == ["logits", "10"]
    (line,) = result.err.splitlines()
    assert line.startswith("checkpoint run/checkpoints/2 ") and line.endswith("; trying the one before it")


def of_another_model(folder):
    edit_json(folder / "run/config.json", lambda tree: tree["model"].update(name="mlp"))


CHECKPOINTS = [
    case("newest_cut", LAYERS, read_from_the_one_before, damaged(cut, [2])),
    case("newest_flipped", LAYERS, read_from_the_one_before, damaged(flip, [2])),
    case("newest_without_arrays", LAYERS, read_from_the_one_before, damaged(lambda f: shutil.rmtree(f / "state/d"), [2])),
    case("newest_with_metadata_of_text", LAYERS, read_from_the_one_before,
         damaged(rewrite("_CHECKPOINT_METADATA", b"text"), [2])),
    case("newest_resumed_from_the_one_before", RESUME, goes_on_from_the_one_before,
         damaged(cut, [2])),
    case("all_cut", LAYERS, "checkpoint run/checkpoints/", damaged(cut)),
    case("all_flipped", LAYERS, "checkpoint run/checkpoints/", damaged(flip)),
    case("all_without_arrays", LAYERS, "checkpoint run/checkpoints/", damaged(lambda f: shutil.rmtree(f / "state/d"))),
    case("chosen_one_cut", f"{LAYERS} --checkpoint=1", "checkpoint run/checkpoints/1 ", damaged(cut)),
    case("chosen_one_flipped", f"{LAYERS} --checkpoint=1", "checkpoint run/checkpoints/1 ", damaged(flip)),
    case("folder_missing", LAYERS, "has no checkpoint yet", lambda folder: shutil.rmtree(folder / "run/checkpoints")),
    case("folder_empty", LAYERS, "has no checkpoint yet",
         lambda folder: [shutil.rmtree(folder / STEP.format(step)) for step in (1, 2)]),
    case("strange_files_beside", LAYERS, is_read,
         lambda folder: (write(folder / "run/checkpoints/notes.txt", "x"), (folder / "run/checkpoints/best").mkdir())),
    case("unknown_step", f"{LAYERS} --checkpoint=7", "checkpoint='7': choose last, best or one of 1, 2", lambda folder: None),
    case("step_above", f"{LAYERS} --checkpoint=../../x", "checkpoint='../../x': choose last", lambda folder: None),
    case("negative_step", f"{LAYERS} --checkpoint=-1", "checkpoint='-1': choose last", lambda folder: None),
    case("step_in_other_digits", f"{LAYERS} --checkpoint=²", "checkpoint='²': choose last", lambda folder: None),
    case("of_another_model", RESUME, "does not fit this model", of_another_model),
    case("more_steps_than_asked_for", "--workdir=run --train.steps=1", "run has 2 steps; the experiment asks for 1", lambda folder: None),
    case("metadata_of_text", f"{LAYERS} --checkpoint=1", "checkpoint run/checkpoints/1 cannot be read",
         damaged(rewrite("_CHECKPOINT_METADATA", b"text"))),
    case("metadata_cut", f"{LAYERS} --checkpoint=1", "checkpoint run/checkpoints/1 cannot be read",
         damaged(rewrite("_CHECKPOINT_METADATA", b'{"custom_metadata": {'))),
    case("metadata_without_experiment", LAYERS, "the file is not an object",
         damaged(metadata(lambda tree: tree.pop("experiment")))),
    case("metadata_with_unknown_field", LAYERS, "unknown field train.retries",
         damaged(metadata(lambda tree: tree["experiment"]["train"].update(retries=3)))),
    case("metadata_of_huge_images", LAYERS, "does not fit this model",
         damaged(metadata(lambda tree: tree.update(image_shape=[10**6, 10**6, 1])))),
    case("metadata_with_text_for_the_shape", LAYERS, "checkpoint in run/checkpoints ... image_shape are damaged",
         damaged(metadata(lambda tree: tree.update(image_shape="huge")))),
    case("metadata_without_classes", LAYERS, "checkpoint in run/checkpoints ... classes or",
         damaged(metadata(lambda tree: tree.update(classes=[])))),
    case("resumed_on_other_classes", RESUME, "data.name='digits' has other classes ... trained on: new: '9'; gone: 'pear'",
         damaged(metadata(lambda tree: tree["classes"].__setitem__(9, "pear")))),
    case("resumed_on_more_classes", RESUME, "data.name='digits' has other classes ... trained on: new: '9'. Name",
         damaged(metadata(lambda tree: tree["classes"].pop()))),
    case("evaluated_on_other_classes", EVALUATE, "data.name='digits' has other classes ... trained on: new: '9'; gone: 'pear'",
         damaged(metadata(lambda tree: tree["classes"].__setitem__(9, "pear")))),
    case("resumed_on_classes_in_another_order", RESUME, goes_on,
         damaged(metadata(lambda tree: tree["classes"].reverse()))),
    case("metadata_without_checksums", LAYERS, "checkpoint run/checkpoints/2 ",
         damaged(metadata(lambda tree: tree.pop("checksums")))),
    case("metadata_with_checksums_of_another_type", LAYERS, "checkpoint run/checkpoints/2 ",
         damaged(metadata(lambda tree: tree.update(checksums=[1])))),
    case("metrics_cut", RESUME, goes_on, lambda folder: write(
        folder / "run/metrics.jsonl", (folder / "run/metrics.jsonl").read_bytes()[:-9])),
    case("metrics_of_another_type", RESUME, goes_on, lambda folder: write(folder / "run/metrics.jsonl", "3\n[]\n{}\n")),
    case("metrics_not_text", RESUME, goes_on, lambda folder: write(folder / "run/metrics.jsonl", b"\xff\xfe\n")),
    case("workdir_is_a_file", RESUME.replace("=run", "=file"), "workdir file cannot be written", lambda folder: write(folder / "file", b"x")),
    case("evaluated_on_images_of_other_classes", f"{EVALUATE} --data.name=folder:in", "the network has no class 'cat'",
         lambda folder: [write(folder / f"in/{name}/1.png", colour(9)) for name in ("cat", "dog")]),
    case("evaluated_with_another_model", f"{EVALUATE} --model.name=mlp", "--model.name cannot be changed by mode=evaluate",
         lambda folder: None),
    case("predicted_nothing", "--mode=predict --workdir=run", "nothing to predict", lambda folder: None),
    case("predicted_missing_file", "--mode=predict --workdir=run --inputs=gone.png", "no such file or folder: gone.png", lambda folder: None),
    case("predicted_empty_folder", "--mode=predict --workdir=run --inputs=plain", "no image files in folder plain",
         lambda folder: (folder / "plain").mkdir()),
    case("predicted_into_a_file", "--mode=predict --workdir=run --inputs=1.png --output=file", "file",
         lambda folder: (write(folder / "1.png", colour(9)), write(folder / "file", b"x"))),
    case("exported_into_a_missing_folder_of_a_file", "--mode=export --workdir=run --output=file/x", "file",
         lambda folder: write(folder / "file", b"x")),
    case("exported_onto_its_description", "--mode=export --workdir=run --output=x.json", "that name is for the description", lambda folder: None),
    case("weights_exported_of_a_model_torch_lacks", "--mode=export_weights --workdir=run --output=x.safetensors",
         "no torch weights of softmax_regression", lambda folder: None),
]  # fmt: skip
