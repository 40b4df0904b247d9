"""Runs that are there, recorded."""

import json

import pytest

import cnnjax as cj

_SHORT = (
    "--experiment=digits_localization",
    "--train.steps=2",
    "--train.evaluate_every=0",
    "--data.limit=16",
    "--data.batch_size=8",
    "--evaluate.batch_size=8",
)


@pytest.mark.full
def test_runs_that_are_no_classifiers_are_recorded_beside_each_other(launch, tmp_path):
    output, runs = tmp_path / "records.jsonl", [tmp_path / name for name in ("one", "two", "other")]
    for seed, path in zip((3, 4, 4), runs, strict=True):
        other = ("--optimizer.learning_rate=1e-4",) if path.name == "other" else ()
        trained = launch(*_SHORT, *other, f"--train.seed={seed}", f"--workdir={path}")
        assert trained.code == 0, trained.err
    record = ("--mode=benchmark", f"--benchmark.output={output}")
    done = launch(*record, f"--workdir={runs[0]},{runs[1]}")
    assert done.code == 0, done.err
    found = json.loads(output.read_text())
    assert (found["benchmark"], found["subject"], found["seeds"]) == (
        "accuracy",
        "digits_localization",
        [3, 4],
    )
    assert found["values"]["iou"] == pytest.approx(
        [cj.load_run(p).metrics["iou"] for p in runs[:2]], abs=1e-6
    )
    assert "| digits_localization | **" in (tmp_path / "RESULTS.md").read_text()
    alone = launch(*record, f"--workdir={runs[2]}")
    assert alone.code == 0, alone.err
    assert json.loads(output.read_text().splitlines()[-1])["seeds"] == [4]
    refused = launch(*record, f"--workdir={runs[1]},{runs[2]}")
    assert refused.code == 1 and "differ in more than their seeds" in refused.err
