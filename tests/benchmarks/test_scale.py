"""The benchmarks of scale: what they make of counts and speeds, and what they say where they cannot have any."""

import json
import os
import subprocess

import pytest

from cnnjax.benchmarks import joined, scale
from cnnjax.benchmarks.options import Options
from cnnjax.config import ConfigError
from cnnjax.runtime import compile_for


def test_a_row_says_how_many_workers_a_host_needs(monkeypatch):
    out = '{"chips": 64, "images a second, each host": 3000.0}'
    done = subprocess.CompletedProcess((), 0, stdout=f"said before\n{out}\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(scale, "decoded_a_second", lambda: 150.0)
    row = scale.scaled("imagenet_resnet50", "v5e:8x8", 128)
    assert row.subject == "imagenet_resnet50, v5e:8x8" and row.values["such workers, each host"] == [20.0]


def test_what_cannot_be_compiled_is_left_out_with_the_reason(monkeypatch):
    done = subprocess.CompletedProcess((), 1, stdout="", stderr="Traceback\nConfigError: no compiler\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    row = scale.scaled("imagenet_resnet50", "v5e:8x8", 128)
    assert row.skipped == "ConfigError: no compiler" and not row.values


def test_a_worker_decodes_photographs():
    scale.decoded_a_second.cache_clear()
    assert scale.decoded_a_second(0.1) > 1
    scale.decoded_a_second.cache_clear()


@pytest.mark.slow
def test_a_step_for_eight_gpus_exchanges_its_gradients():
    try:
        compile_for.find("h200x8")
    except ConfigError as error:
        pytest.skip(str(error))
    row = scale.scaled("cifar10_resnet20", "h200x8", 16)
    assert not row.skipped, row.skipped
    values = {name: series[0] for name, series in row.values.items()}
    assert values["chips"] == 8 and values["global batch"] == 128
    assert values["all-reduce, MB"] > 2 * 0.27  # bfloat16 gradients of 0.27 million parameters
    assert values["images a second, each host"] == 0  # the images are on the devices


def test_shares_of_the_machine_collectives_and_input_by_hand(monkeypatch, tmp_path):
    speeds = {"alone": 100.0, "apart": 90.0, "joined": 150.0}  # of each process, of the joined all together

    def train(runs):
        side = runs[0][1].parent.name.rstrip("-01")
        assert [core for core, _, _ in runs] == ([5] if side == "alone" else [5, 7])
        batch = f"--data.batch_size={128 if side == 'joined' else 64}"
        for _, workdir, flags in runs:
            assert batch in flags
            workdir.mkdir(exist_ok=True)
            rates = (1.0, speeds[side], speeds[side])  # the first has the start in it
            lines = [{"step": i, "split": "train", "images_per_second": rate} for i, rate in enumerate(rates)]
            (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(joined, "_train", train)
    monkeypatch.setattr(joined, "_decoded", lambda cores: 80.0 if len(cores) == 1 else 120.0)
    row = joined.joined(tmp_path, "resnet20", (5, 7), 2)
    assert row.subject == "resnet20, 2 processes"
    assert row.values == {
        "joined / alone, each process": [0.75, 0.75],
        "apart / alone, each process: the machine": [0.9, 0.9],
        "joined / apart: collectives": pytest.approx([150 / 180] * 2),
        "decoding at once / alone, each process: input": [0.75, 0.75],
        "alone, images/s": [100.0, 100.0],
        "joined, images/s": [150.0, 150.0],
    }


def test_processes_without_a_core_each_are_not_measured(monkeypatch):
    monkeypatch.setattr(joined.os, "sched_getaffinity", lambda pid: {3})
    rows = list(joined.several_processes(Options()))
    assert len(rows) == 4
    assert {row.skipped for row in rows} == {"each process needs a core of its own, here are 1"}


@pytest.mark.slow
def test_two_processes_train_on_a_core_each_and_joined(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core")
    row = joined.joined(tmp_path, "lenet5", cores[:2], 1)
    assert all(len(series) == 1 and 0 < series[0] for series in row.values.values())
