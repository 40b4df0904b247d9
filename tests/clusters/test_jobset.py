"""JobSets as their definition wants them: an excerpt of the schema that JobSet installs in a cluster (v1alpha2)."""

import json
from pathlib import Path

import pytest
import yaml

SCHEMA = json.loads((Path(__file__).parent / "jobset_schema.json").read_text())
KINDS = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
ASKED = ("--launcher=jobset", "--launcher.image=me/cnnjax:1", "--launcher.volume=claim:/runs", "--dry_run")
RUN = ("--experiment=digits_lenet", "--train.steps=10", "--workdir=/runs/My_run")


def problems(schema: dict, value, where: str = "") -> list[str]:
    """What a value has against the few words of JSON schemas that the excerpt has."""
    if "anyOf" in schema:
        return (
            [] if any(not problems(one, value, where) for one in schema["anyOf"]) else [f"{where}: {value}"]
        )
    if not isinstance(value, KINDS.get(schema.get("type"), object)):
        return [f"{where}: {value!r} is no {schema['type']}"]
    found = [f"{where}: {value}"] if value not in schema.get("enum", [value]) else []
    if isinstance(value, list):
        return found + [text for one in value for text in problems(schema["items"], one, f"{where}[]")]
    if isinstance(value, dict):
        found += [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        others = schema.get("additionalProperties", {})
        for name, one in value.items():
            part = schema.get("properties", {}).get(name, others)
            found += (
                [f"{where}.{name} is unknown"] if part is False else problems(part, one, f"{where}.{name}")
            )
    return found


@pytest.fixture
def manifest(launch):
    def make(*flags: str) -> dict:
        result = launch(*RUN, *ASKED, *flags)
        assert result.code == 0, result.err
        return yaml.safe_load(result.out)

    return make


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--launcher.nodes=2", "--launcher.gpus=8", "--launcher.cpus=32"),
        ("--launcher.tpu=v5e:4x4",),
        ("--launcher.tpu=v5p:2x2x4",),
    ],
)
def test_the_schema_takes_what_is_written(manifest, flags):
    assert problems(SCHEMA, manifest(*flags)) == []


def test_the_schema_refuses_what_is_wrong(manifest):
    tree = manifest()
    (job,) = tree["spec"]["replicatedJobs"]
    job["template"]["spec"]["paralelism"] = 2
    job["template"]["spec"]["backoffLimit"] = "none"
    del job["name"]
    tree["spec"]["failurePolicy"]["rules"][0]["action"] = "Restart"
    assert len(problems(SCHEMA, tree)) == 4


def test_machines_find_each_other_and_begin_anew_when_there_is_more_to_do(manifest):
    tree = manifest("--launcher.nodes=3", "--launcher.gpus=8")
    assert tree["metadata"]["name"] == "my-run"
    spec = tree["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 3
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"] == {"operator": "In", "values": [75]}
    (rule,) = tree["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    (container,) = spec["template"]["spec"]["containers"]
    command = container["command"]
    assert command[:3] == ["python", "-m", "cnnjax"] and set(RUN) < set(command)
    # Names of pods: jobset-job-replica-index.jobset
    assert command[-3:] == [
        "--coordinator=my-run-workers-0-0.my-run:61440",
        "--num_processes=3",
        "--process_id=$(PROCESS)",
    ]
    assert [one["name"] for one in container["env"]] == ["PROCESS"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}


@pytest.mark.parametrize(
    ("tpu", "hosts", "chips", "node"),
    [
        ("v5e:1x1", 1, 1, "tpu-v5-lite-podslice"),
        ("v5e:16x16", 64, 4, "tpu-v5-lite-podslice"),
        ("v5p:2x2x4", 4, 4, "tpu-v5p-slice"),
        ("v6e:4x4", 4, 4, "tpu-v6e-slice"),  # JobSet's own example for this slice
    ],
)
def test_slices_of_tpus(manifest, tpu, hosts, chips, node):
    spec = manifest(f"--launcher.tpu={tpu}")["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = spec["template"]["spec"]
    assert spec["parallelism"] == hosts
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == node
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == tpu.partition(":")[2]
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"google.com/tpu": chips}}
    assert ("--distributed" in container["command"]) == (hosts > 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--launcher.image=",), "needs --launcher.image=IMAGE"),
        (("--launcher.volume=claim",), "needs --launcher.volume=CLAIM:/PATH"),
        (("--workdir=/elsewhere/run",), "is not on the volume: it must lie below /runs"),
        (("--launcher.tpu=v5f:4x4",), "did you mean v5"),
        (("--launcher.tpu=v5e",), "expected a topology such as v5e:2x2"),
        (("--launcher.tpu=v5p:4x4",), "expected a topology such as v5p:2x2x2"),
        (("--launcher.tpu=v5e:1x3",), "3 chips are no whole hosts of 4"),
        (("--launcher.tpu=v5e:4x4", "--launcher.gpus=8"), "says how many machines"),
        (("--launcher.partition=gpu",), "--launcher.partition has no effect with --launcher=jobset"),
        (("--mode=sweep", "--sweep=train.seed=0:2", "--data.validation=0.1"), "is for one run"),
    ],
)
def test_what_cannot_be_meant_is_one_line(launch, flags, message):
    result = launch(*RUN, *ASKED, *flags)
    assert result.code == 1 and message in result.err and len(result.err.splitlines()) == 1


def test_the_file_is_written_where_one_is(launch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = launch(*RUN, *ASKED[:-1])
    assert result.out == "my-run.yaml: kubectl apply -f my-run.yaml\n"
    assert yaml.safe_load((tmp_path / "my-run.yaml").read_text())["kind"] == "JobSet"
