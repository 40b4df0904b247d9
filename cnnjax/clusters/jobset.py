"""A run as a JobSet of Kubernetes (jobset.x-k8s.io/v1alpha2): a container on each machine, or on each host of a TPU
slice of GKE.

A run whose container is asked to end saves and ends with status 75, for which the JobSet begins anew as often as it
comes; for other failures a few times. https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2
"""

import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from cnnjax.clusters.job import Job, Machines
from cnnjax.config import ConfigError, Stopped, did_you_mean

_PORT = 61_440
_SECONDS_TO_SAVE = 120
_OTHER_FAILURES = 3
_JOB = "workers"
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
# Of GKE: what a node with such chips is called. https://cloud.google.com/kubernetes-engine/docs/concepts/tpus
_TPUS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
_CHIPS_OF_HOST = 4


def manifest(job: Job, machines: Machines) -> str:
    """The YAML for `kubectl apply -f`. Raises ConfigError for what is missing or cannot be meant.

    The command is that of the launcher in the container; its workdir must lie on the volume.
    """
    import yaml

    _check(job, machines)
    name = object_name(job.name)
    tpu = _tpu(machines.tpu) if machines.tpu else None
    count = tpu[2] if tpu else machines.nodes
    claim, mount = _volume(machines)
    resources: dict[str, Any] = {}
    if machines.cpus:
        resources["requests"] = {"cpu": machines.cpus}
    if tpu or machines.gpus:
        resources["limits"] = {"google.com/tpu": tpu[3]} if tpu else {"nvidia.com/gpu": machines.gpus}
    joining, environment = _joining(name, count, bool(tpu))
    container = {
        "name": "cnnjax",
        "image": machines.image,
        "command": [*job.command, *joining],
        **({"env": environment} if environment else {}),
        "resources": resources,
        "volumeMounts": [
            {"name": "runs", "mountPath": mount},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # between the processes that decode
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _SECONDS_TO_SAVE,
        **({"nodeSelector": _selector(tpu)} if tpu else {}),
        "containers": [container],
        "volumes": [
            {"name": "runs", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    tree = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, **({"annotations": exclusive} if tpu else {})},
        "spec": {
            "failurePolicy": {
                "maxRestarts": _OTHER_FAILURES,
                "rules": [
                    {
                        "name": "moreToDo",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [{"name": _JOB, "replicas": 1, "template": {"spec": _job(pod, count)}}],
        },
    }
    return f"# kubectl apply -f {name}.yaml\n{yaml.safe_dump(tree, sort_keys=False, width=1000)}"


def object_name(name: str) -> str:
    """As Kubernetes wants names, short enough for those of the pods."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-") or "run"


def _job(pod: dict[str, Any], count: int) -> dict[str, Any]:
    fails = [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [Stopped.status]}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    return {
        "parallelism": count,
        "completions": count,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # all begin anew, or none
        "podFailurePolicy": {"rules": fails},
        "template": {"spec": pod},
    }


def _joining(name: str, count: int, tpu: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Flags and variables by which the processes find each other; a slice of TPUs tells it."""
    if count == 1:
        return [], []
    if tpu:
        return ["--distributed"], []
    first = f"{name}-{_JOB}-0-0.{name}"
    index = {"name": "PROCESS", "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}}
    return [f"--coordinator={first}:{_PORT}", f"--num_processes={count}", "--process_id=$(PROCESS)"], [index]


def _selector(tpu: Sequence[Any]) -> dict[str, str]:
    return {"cloud.google.com/gke-tpu-accelerator": tpu[0], "cloud.google.com/gke-tpu-topology": tpu[1]}


def _tpu(text: str) -> tuple[str, str, int, int]:
    """The kind of node, the topology, the hosts and the chips of each: v5e:4x4 has four hosts of four chips."""
    kind, _, grid = text.partition(":")
    if kind not in _TPUS:
        hint = did_you_mean(kind, _TPUS, f"known are {', '.join(_TPUS)}")
        raise ConfigError(f"--launcher.tpu={text}: {hint}")
    sides = 3 if kind in ("v4", "v5p") else 2
    if not re.fullmatch("x".join([r"[1-9]\d*"] * sides), grid):
        raise ConfigError(
            f"--launcher.tpu={text}: expected a topology such as {kind}:{'x'.join('2' * sides)}"
        )
    chips = math.prod(map(int, grid.split("x")))
    if chips > 1 and chips % _CHIPS_OF_HOST:
        raise ConfigError(f"--launcher.tpu={text}: {chips} chips are no whole hosts of {_CHIPS_OF_HOST}")
    return _TPUS[kind], grid, max(1, chips // _CHIPS_OF_HOST), min(chips, _CHIPS_OF_HOST)


def _volume(machines: Machines) -> tuple[str, str]:
    claim, _, mount = machines.volume.partition(":")
    if not claim or not mount.startswith("/"):
        raise ConfigError(
            "--launcher=jobset needs --launcher.volume=CLAIM:/PATH, a volume that all containers see, for --workdir"
        )
    return claim, mount


def _check(job: Job, machines: Machines) -> None:
    if not machines.image:
        raise ConfigError("--launcher=jobset needs --launcher.image=IMAGE, a container that has cnnjax")
    if machines.tpu and (machines.gpus or machines.nodes > 1):
        raise ConfigError(f"--launcher.tpu={machines.tpu} says how many machines and chips there are")
    _, mount = _volume(machines)
    if not PurePosixPath(job.workdir).is_relative_to(mount):
        raise ConfigError(f"workdir {job.workdir} is not on the volume: it must lie below {mount}")
