"""What a user types, and what is left behind; mistakes are in robustness/."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax import config, modes

ROOT = Path(__file__).parent.parent
QUICK = (
    "--experiment=digits_lenet", "--model.name=softmax_regression", "--data.limit=60", "--train.steps=3",
    "--data.batch_size=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    code = subprocess.run(
        [sys.executable, ROOT / "launch.py", *QUICK, f"--workdir={workdir}"], capture_output=True, cwd=workdir
    )
    assert code.returncode == 0, code.stderr.decode()
    return workdir


def test_a_run_leaves_everything_in_its_workdir(trained):
    found = {path.name for path in trained.iterdir()}
    assert {"config.json", "checkpoints", "metrics.jsonl", "plots", "report.html"} <= found
    page = (trained / "report.html").read_text()
    assert "accuracy" in page and "launch.py --experiment=digits_lenet" in page
    assert "http://" not in page and "https://" not in page and 'src="data:image/png' in page
    assert {"curves.png", "confusion.png", "mistakes.png"} <= {
        path.name for path in (trained / "plots").iterdir()
    }
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["split"] == "test" and last["step"] == 3


def test_predict_reads_what_it_can_and_names_the_rest(trained, tmp_path, launch):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, size in enumerate([(8, 8), (40, 20), (1, 1)]):
        Image.fromarray(np.full((*size, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no image")
    result = launch(
        "--mode=predict", f"--workdir={trained}", f"--inputs={folder}", f"--output={tmp_path / 'out'}"
    )
    assert result.code == 0
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [os.path.basename(e["file"]) for e in entries] == ["0.png", "1.png", "2.png"]
    for entry in entries:
        assert entry["class"] == entry["top"][0]["class"] in set("0123456789")
        assert 0.99 < sum(e["probability"] for e in entry["top"]) + 0.5 and len(entry["top"]) == 5
    assert "broken.png" in result.err
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.size[0] > 100


@pytest.mark.full
def test_looking_at_a_network_with_convolutions(launch, tmp_path):
    """Filters and feature maps in the report; layers and TensorBoard events on request."""
    flags = ("--data.limit=20", "--data.batch_size=10", "--train.steps=2", "--train.tensorboard=true")
    result = launch(*flags, f"--workdir={tmp_path}")
    assert result.code == 0, result.err
    assert {"filters.png", "feature_maps.png"} <= {path.name for path in (tmp_path / "plots").iterdir()}
    assert list((tmp_path / "tensorboard").glob("events*"))
    layers = launch("--mode=layers", f"--workdir={tmp_path}")
    assert layers.code == 0 and "conv1" in layers.out and "28x28x6" in layers.out
    gallery = launch(
        "--mode=visualize", f"--workdir={tmp_path}", "--visualize.pages=predictions,filters,maps"
    )
    assert gallery.code == 0, gallery.err
    assert "filters" in (tmp_path / "gallery" / "gallery.html").read_text()
    for arguments, message in [
        (("--visualize.layer=conv9",), "conv9"),
        (("--visualize.layer=conv1:99",), "99"),
        (("--visualize.pages=nothing",), "nothing"),
        (("--inputs=/nonexistent.png",), "/nonexistent.png"),
    ]:
        wrong = launch("--mode=visualize", f"--workdir={tmp_path}", *arguments)
        assert wrong.code == 1 and message in wrong.err and len(wrong.err.strip().splitlines()) == 1


def test_summarize_and_preview(launch, tmp_path):
    result = launch("--mode=summarize", "--experiment=imagenet_vgg16", f"--output={tmp_path / 'bars.png'}")
    assert result.code == 0, result.err
    assert "138,357,544" in result.out and "15,470,264,320" in result.out and "60.95 MB" in result.out
    assert (tmp_path / "bars.png").stat().st_size > 10_000
    result = launch("--mode=preview", "--data.limit=30", f"--output={tmp_path / 'batch.png'}")
    assert result.code == 0 and (tmp_path / "batch.png").stat().st_size > 10_000, result.err
    wrong = launch("--mode=summarize", "--experiment=imagenet_vgg16", "--data.image_size=16")
    assert wrong.code == 1 and "too small for this model" in wrong.err


def test_list_shows_every_experiment(launch):
    from experiments import EXPERIMENTS

    result = launch("--list")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()] == list(EXPERIMENTS)


def test_empty_folder_and_folder_without_images(launch, tmp_path):
    (tmp_path / "cats").mkdir()
    result = launch(f"--data.name=folder:{tmp_path}", f"--workdir={tmp_path / 'run'}")
    assert result.code == 1 and "cats" in result.err
    assert not (tmp_path / "run").exists()  # nothing was written, and nothing is left
    empty = tmp_path / "empty"
    empty.mkdir()
    result = launch(f"--data.name=folder:{empty}", f"--workdir={tmp_path / 'run2'}")
    assert result.code == 1 and str(empty) in result.err


def test_workdir_in_use_is_refused(launch, tmp_path):
    from cnnjax.runs.workdir import Workdir

    with Workdir(tmp_path).claim():
        result = launch(*QUICK, f"--workdir={tmp_path}")
    assert result.code == 1 and "in use by another process" in result.err


def test_divergence_stops_with_step_and_advice(launch, tmp_path):
    result = launch(
        "--model.name=lenet5", "--data.limit=40", "--data.batch_size=20", "--train.steps=40", "--optimizer.name=sgd",
        "--optimizer.learning_rate=1e8", "--optimizer.warmup=0", f"--workdir={tmp_path}",
    )  # fmt: skip
    assert result.code == 1
    assert "not finite at step" in result.err and "--optimizer.learning_rate" in result.err


@pytest.mark.full
def test_killed_at_any_moment_and_launched_again_ends_the_same(tmp_path):
    """kill -9 twice during the run; the last launch must end with the bits of an undisturbed run."""
    flags = [
        *QUICK[:3], "--train.steps=200", "--data.batch_size=20", "--train.checkpoint_every=2", "--train.log_every=50",
        "--train.evaluate_every=0",
    ]  # fmt: skip
    command = [sys.executable, str(ROOT / "launch.py"), *flags]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*command, f"--workdir={whole}"], check=True, capture_output=True)
    rng = np.random.default_rng(0)
    for step in (12, 90):  # after whose checkpoint
        with (
            open(tmp_path / "said", "w+") as said,
            subprocess.Popen([*command, f"--workdir={broken}"], stdout=said, stderr=said) as process,
        ):
            while newest(broken / "checkpoints") < step:
                assert process.poll() is None, (tmp_path / "said").read_text()
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    result = subprocess.run([*command, f"--workdir={broken}"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    from cnnjax.runs.run import restore
    from cnnjax.runs.workdir import Workdir

    for a, b in zip(*(map(np.asarray, _leaves(restore(Workdir(w)))) for w in (whole, broken)), strict=True):
        np.testing.assert_array_equal(a, b)


def newest(checkpoints: Path) -> int:
    """The last step of which there is a checkpoint."""
    return max([int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()], default=0)


def _leaves(run):
    import jax

    assert run.step == 200
    return jax.tree.leaves((run.state.params, run.state.opt_state))


def test_every_flag_of_the_launcher_is_read_by_a_mode_and_refused_by_the_others(launch, tmp_path):
    import launch as launcher

    fields = {name for name, _, _ in config.fields(config.Experiment())}
    own = launcher.FLAGS.get_flags_for_module("cnnjax.__main__")
    own = {flag.name for flag in own} - fields - {"mode", "list", "deterministic"}
    assert own == {name for mode in modes.MODES.values() for name in mode.flags}
    tried = 0
    for flag in own - set(modes.PROCESSES):
        for name in set(modes.MODES) - {mode for mode, one in modes.MODES.items() if flag in one.flags}:
            value = {"compiler": "", "launcher": "=slurm"}.get(flag, "=1")
            result = launch(f"--mode={name}", f"--{flag}{value}")
            assert result.code == 1 and f"--{flag} has no effect with mode={name}" in result.err
            tried += 1
    assert tried > 60


def test_names_of_files_with_commas_and_those_that_a_shell_expanded(trained, tmp_path, launch, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.png", "c.png", "d.png"):
        Image.new("L", (8, 8)).save(name)
    flags = ("--mode=predict", f"--workdir={trained}", "--output=out")

    def predicted(*inputs):
        result = launch(*flags, *inputs)
        assert result.code == 0, result.err
        return [entry["file"] for entry in json.loads(Path("out/predictions.json").read_text())]

    assert predicted("--inputs=a,b.png") == ["a,b.png"]
    assert predicted("--inputs=c.png,a,b.png,d.png") == ["c.png", "a,b.png", "d.png"]
    assert predicted("--inputs", "a,b.png", "c.png", "d.png", "--checkpoint=last") == [
        "a,b.png",
        "c.png",
        "d.png",
    ]
    missing = launch(*flags, "--inputs=c.png,gone.png")
    assert missing.code == 1 and missing.err == "error: no such file or folder: gone.png\n"


@pytest.mark.parametrize("flags", ["--helpshort", "--list", "--helpfull"])
def test_whoever_stops_reading_is_no_error(flags):
    command = f"{sys.executable} {ROOT / 'launch.py'} {flags} | head -1"
    found = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout and not found.stderr


def test_warnings_are_one_plain_line_each():
    code = """
import logging, warnings
from absl import app
from cnnjax.runtime import hush
hush.speak_plainly()
def main(_):
    logging.getLogger("cnnjax.x").warning("one %s", "thing")
    warnings.warn("two\\nlines")
app.run(main)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stderr.splitlines() == ["warning: one thing", "warning: two lines"]
