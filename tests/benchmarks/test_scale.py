"""The benchmark that compiles for many devices: what it makes of a count, and what it says where it cannot count."""

import subprocess

import pytest

from cnnjax.benchmarks import scale
from cnnjax.config import ConfigError
from cnnjax.runtime import compile_for


def test_a_row_says_how_many_workers_a_host_needs(monkeypatch):
    out = '{"chips": 64, "images a second, each host": 3000.0}'
    done = subprocess.CompletedProcess((), 0, stdout=f"said before\n{out}\n", stderr="")
    monkeypatch.setattr(scale.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(scale, "decoded_a_second", lambda: 150.0)
    row = scale.scaled("imagenet_resnet50", "v5e:8x8", 128)
    assert row.subject == "imagenet_resnet50, v5e:8x8" and row.values["such workers, each host"] == [20.0]


def test_what_cannot_be_compiled_is_left_out_with_the_reason(monkeypatch):
    done = subprocess.CompletedProcess((), 1, stdout="", stderr="Traceback\nConfigError: no compiler\n")
    monkeypatch.setattr(scale.subprocess, "run", lambda *_, **__: done)
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
