"""Every benchmark at a tiny size; and that both sides of a comparison compute the same thing."""

import json
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import benchmarks, config
from cnnjax.benchmarks import detection, inputs, networks, speed_run, startup
from cnnjax.benchmarks.options import Measured, Options
from cnnjax.benchmarks.records import make_record
from cnnjax.benchmarks.steps import Steps
from cnnjax.benchmarks.timing import comparison, interleave
from cnnjax.benchmarks.workload import CPU_WORKLOADS, GPU_WORKLOADS, Workload
from cnnjax.config import ConfigError
from cnnjax.data.sources import load
from cnnjax.models import create_model

ONCE = Options(repetitions=2, calls=1, seeds=2)
RESNET = Workload("tiny_resnet", (32, 32, 3), 4)
GRID = Workload("grid8", (16, 16, 3), 4, 6, (2, 2))
BOTTLENECKS = Workload("tiny_resnet50", (32, 32, 3), 4)
MNIST = Workload("mnist_cnn", (28, 28, 1), 4)
RGB = Workload("softmax_regression", (8, 8, 3), 4)


def test_contestants_take_turns_after_a_warm_up():
    order = []
    seconds = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, calls=2)
    assert "".join(order) == "ab" + "aaabbb" * 2
    assert {name: len(series) for name, series in seconds.items()} == {"a": 2, "b": 2}
    values = comparison({"ours": [1.0, 2.0], "peer": [3.0, 3.0]})
    assert values["peer / ours"] == [3.0, 1.5] and values["ours, ms"] == [1000.0, 2000.0]


@pytest.mark.parametrize(
    "work", [*CPU_WORKLOADS.values(), *GPU_WORKLOADS.values(), RESNET, GRID, BOTTLENECKS]
)
def test_the_peer_has_the_parameters_of_our_network(work):
    pytest.importorskip("torch", reason="the peer is torch")
    from cnnjax.benchmarks.torch_networks import NETWORKS, with_variables

    model = create_model(work.model, work.num_outputs)
    image = jnp.zeros((1, *work.shape))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    variables = jax.tree.map(lambda a: np.ones(a.shape, np.float32), shapes)
    network = with_variables(NETWORKS[work.model](work.num_outputs), variables)
    assert sum(p.numel() for p in network.parameters()) == sum(
        a.size for a in jax.tree.leaves(shapes["params"])
    )
    output = jax.eval_shape(lambda v: model.apply(v, image), shapes)
    assert output.shape == (1, *work.grid, work.num_outputs) if work.dense_targets else (1, work.num_outputs)


@pytest.mark.parametrize("work", [RESNET, GRID, MNIST, BOTTLENECKS])
def test_both_sides_compute_the_same(work):
    pytest.importorskip("torch", reason="the peer is torch")
    from cnnjax.benchmarks.torch_steps import Steps as TorchSteps

    ours = Steps(work)
    before = ours.variables
    peer = TorchSteps(work, before)
    theirs = peer.infer().numpy()
    if work.dense_targets:
        theirs = theirs.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours.infer(), theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
    for _ in range(2):
        ours.train()
        peer.train()
    old, new = (np.asarray(v["params"]["output"]["kernel"]) for v in (before, ours.variables))
    theirs = peer.network.output.weight.detach().numpy()
    theirs = theirs.transpose(2, 3, 1, 0) if theirs.ndim == 4 else theirs.T
    moved = np.abs(new - old).max()
    assert moved > 1e-6 and np.abs(new - theirs).max() < 0.01 * moved


@pytest.mark.full
def test_records_of_networks():
    train, infer = networks.compare("tiny", MNIST, ONCE)
    assert "training step" in train.subject and "inference" in infer.subject
    assert train.values["compilation, s"][0] > 0 and len(train.values["cnnjax, ms"]) == 2
    if not train.note:
        assert len(train.values["torch / cnnjax"]) == 2 and "torch" in train.peers
    found = networks.many_steps("tiny", MNIST, 2, ONCE)
    assert set(found.values) == {"2 steps in one call, ms", "2 calls, ms", "2 calls / 2 steps in one call"}


def test_without_torch_ours_is_measured_alone_and_it_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    train, _ = networks.compare("tiny", MNIST, ONCE)
    assert set(train.values) == {"cnnjax, ms", "compilation, s"}
    assert train.note == "Without its peer: torch is not installed." and not train.peers


def test_detection_finds_the_boxes_that_torch_finds():
    pytest.importorskip("torch", reason="the peer is torch")
    from cnnjax.benchmarks.torch_detection import Detector
    from cnnjax.detection.detect import detect
    from cnnjax.detection.grid import Grid

    grid = Grid(4, 4, 32, 32, num_classes=3, anchors=detection.ANCHORS)
    model = create_model("grid8", grid.num_outputs)
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(1), images)
    ours = detect(grid, model.apply(variables, images), "anchors", 0.1, 0.4, 20)
    detector = Detector(Workload("grid8", (32, 32, 3), 3, grid.num_outputs), variables, grid, images)
    theirs = detector.detect(0.1, 0.4, 20)
    assert int(ours.counts.sum()) > 10
    for i, (boxes, scores, classes) in enumerate(theirs):
        count = int(ours.counts[i])
        assert count == len(boxes)
        np.testing.assert_allclose(
            ours.boxes[i, :count], boxes.numpy(), atol=3e-5 * np.abs(boxes.numpy()).max()
        )
        np.testing.assert_allclose(ours.scores[i, :count], scores.numpy(), atol=1e-5)
        np.testing.assert_array_equal(ours.classes[i, :count], classes.numpy())


def test_suppression_in_torch_by_hand():
    torch = pytest.importorskip("torch", reason="the peer is torch")
    from cnnjax.benchmarks.torch_detection import batched_nms

    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 10.0]])
    scores, classes = torch.tensor([0.5, 0.9, 0.7, 0.6]), torch.tensor([0, 0, 0, 1])
    assert batched_nms(boxes, scores, classes, 0.5).tolist() == [1, 2, 3]
    assert batched_nms(boxes[:0], scores[:0], classes[:0], 0.5).tolist() == []


@pytest.mark.full
def test_records_of_detection_and_input():
    found = detection.compare("grid8", (32, 32), 8, 2, ONCE)
    assert len(found.values["cnnjax, ms"]) == 2 and found.values["boxes per image"][0] >= 0
    found = inputs.share("tiny", RGB, ONCE)
    assert len(found.values["share of the step, %"]) == 2
    found = inputs.pipelines(64, 8, 2, ONCE)
    assert ("grain / cnnjax" in found.values) == (not found.note)


@pytest.mark.full
def test_start_of_a_run_and_compilation(tmp_path):
    flags = ("--model.name=softmax_regression", "--data.limit=50", "--data.batch_size=10")
    began = time.monotonic()
    assert 0 < startup.seconds_to_first_step(tmp_path, 1, flags) < time.monotonic() - began
    with pytest.raises(ConfigError, match="the run ended before its first step"):
        startup.seconds_to_first_step(tmp_path, 2, ("--model.name=nothing",))
    found = startup.compile_times("tiny", MNIST, 1)
    assert found.values["initialization, s"][0] > 0 and found.values["training step, s"][0] > 0


def test_speed_runs_on_a_small_set():
    from experiments.cifar10 import cifar10_airbench, cifar10_airbench96
    from experiments.mnist import mnist_speedrun

    digits = load(config.Data(name="digits", image_size=28, limit=200))
    experiment = config.replace(
        mnist_speedrun(),
        {"data.batch_size": 50, "evaluate.batch_size": 100, "model.name": "softmax_regression"},
    )
    found = speed_run.time_to(experiment, 0.99, ONCE, digits)
    assert len(found.values["test accuracy"]) == 2 and found.note.startswith(
        "The mean accuracy misses 99 %. Differs from"
    )
    a, b = (speed_run.SpeedRun(experiment, digits) for _ in range(2))
    assert a(3)[1] == b(3)[1]  # the accuracy is a function of the seed

    for make in (cifar10_airbench, cifar10_airbench96):
        assert speed_run.time_to(make(), 0.94, ONCE).skipped == "there is no accelerator"
    assert "--benchmark.hiverge" in speed_run.peer_script("hiverge", None, "--benchmark.hiverge=PATH").skipped


def test_a_peer_s_table_is_read(tmp_path):
    script = tmp_path / "peer.py"
    script.write_text(
        textwrap.dedent("""
        print("|  run     |  epoch  |  train_acc  |  val_acc  |  tta_val_acc  |  time_seconds  |")
        for run, seconds in (("warmup", 40.0), ("     1", 2.5), ("      ", 2.6)):
            print("|  %s  |      0  |     0.5000  |   0.5000  |               |        0.3000  |" % run)
            print("|  %s  |   eval  |     0.9866  |   0.9317  |       0.9399  |        %.4f  |" % (run, seconds))
        """)
    )
    found = speed_run.peer_script("peer", str(script), "--flag")
    assert found.values == {"run with evaluation, s": [2.5, 2.6], "test accuracy": [0.9399, 0.9399]}
    script.write_text("raise SystemExit('no GPU here')")
    assert speed_run.peer_script("peer", str(script), "--flag").skipped == "it failed: no GPU here"
    with pytest.raises(ConfigError, match="is not a file"):
        speed_run.peer_script("peer", str(tmp_path / "absent.py"), "--flag")


def test_the_command_records_and_skips(launch, tmp_path, monkeypatch):
    table = {
        "fast": lambda options: [
            Measured("speed", "tiny", {"cnnjax, ms": [1.0, 2.0]}, note="Tiny.", peers={"torch": "9.9"})
        ],
        "absent": lambda options: [Measured("speed", "big", skipped="there is no accelerator")],
    }
    monkeypatch.setattr(benchmarks, "BENCHMARKS", table)
    monkeypatch.setattr(benchmarks, "GROUPS", {"both": ("fast", "absent")})
    output = tmp_path / "records.jsonl"
    result = launch("--mode=benchmark", "--benchmark.name=both", f"--benchmark.output={output}")
    assert result.code == 0, result.err
    assert "tiny: cnnjax, ms 1.5 +- 0.71" in result.out
    assert "skipped: speed, big: there is no accelerator" in result.out
    (record,) = map(json.loads, output.read_text().splitlines())
    assert record["values"] == {"cnnjax, ms": [1.0, 2.0]} and record["peers"] == {"torch": "9.9"}
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| tiny | cnnjax, ms | 1.5 | 0.7071 | 2 |" in page and "torch 9.9" in page and "Tiny." in page
    wrong = launch("--mode=benchmark", "--benchmark.name=fasst")
    assert wrong.code == 1 and "did you mean fast" in wrong.err


def test_a_recorded_command_names_no_folder_of_this_machine():
    told = "python launch.py --data.name=coco:/a/b/coco128 --workdir=/x/y,/z/w --peer=/opt/v/bin/python '--f=/a/b c/d'"
    kept = "python launch.py --data.name=coco:coco128 --workdir=y,w --peer=python '--f=b c/d'"
    assert make_record("speed", "it", {}, told)["command"] == kept
    for same in (
        "--weights=https://host/a/b.pth --to=runs/a",
        "--mirror=s3://bucket/runs",
        "--inputs=photos/a.png",
    ):
        assert make_record("speed", "it", {}, same)["command"] == same


def test_parts_resume_and_end_in_time(launch, tmp_path, monkeypatch):
    """What the file has from this commit and device is left out; what would begin too late is told."""
    asked = []

    def part(name):
        return lambda options: asked.append(name) or [Measured("speed", name, {"ms": [1.0]})]

    monkeypatch.setattr(benchmarks, "BENCHMARKS", {name: part(name) for name in "abc"})
    monkeypatch.setattr(benchmarks, "GROUPS", {"all": ("a", "b", "c")})
    output = tmp_path / "records.jsonl"
    flags = ("--mode=benchmark", f"--benchmark.output={output}", "--benchmark.resume")
    assert launch(*flags, "--benchmark.name=b").code == 0
    result = launch(*flags, "--benchmark.name=all", "--benchmark.minutes=0.0000001")
    assert asked == ["b"] and "b: recorded already" in result.out
    assert "a: not begun after 1e-07 minutes; the same command with --benchmark.resume goes on" in result.out
    assert launch(*flags, "--benchmark.name=all").code == 0 and asked == ["b", "a", "c"]
    changed = output.read_text().replace('"commit": "', '"commit": "other')
    output.write_text(changed)
    assert launch(*flags, "--benchmark.name=a").code == 0 and asked[-1] == "a" and len(asked) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in benchmarks.GROUPS["accelerator"] if n not in ("airbench94_muon", "hiverge")]
)
def test_what_is_for_accelerators_is_tried_on_a_cpu_in_a_tiny_form(name):
    if not name.startswith(("cifar", "mnist", "steps")):
        pytest.importorskip("torch", reason="the peer is torch")
    tiny = Options(repetitions=1, calls=1, seeds=1, tiny=True)
    (function,) = benchmarks.chosen([name]).values()
    for found in function(tiny):
        assert not found.skipped and found.values


def test_list_of_benchmarks(launch):
    result = launch("--mode=benchmark", "--list")
    assert result.code == 0
    for name in (*benchmarks.BENCHMARKS, *benchmarks.GROUPS):
        assert name in result.out
