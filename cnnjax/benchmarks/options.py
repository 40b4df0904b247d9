"""What every named benchmark takes and gives."""

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Options:
    """How long to measure, and where peers are that cannot be installed."""

    repetitions: int = 10  # turns of each contestant
    calls: int = 3  # timed calls in a turn
    seeds: int = 50  # runs, where whole runs are measured
    tiny: bool = False  # so small that a CPU can try the parts that are for accelerators
    data_dir: str | None = None
    airbench: str | None = None  # airbench94_muon.py of KellerJordan/cifar10-airbench
    hiverge: str | None = None  # cifar10_speedrun.py of hiverge/cifar10-speedrun
    faces: str | None = None  # mtcnn/ with pnet.pt, rnet.pt, onet.pt and multiface.jpg, and face_api/
    traditional: str | None = None  # a run of faces_shape_model with a cascade
    torchvision: str | None = None  # a Python that has torch and torchvision


@dataclasses.dataclass(frozen=True)
class Measured:
    """One result, or the reason why there is none."""

    benchmark: str  # the table of RESULTS.md
    subject: str  # the row
    values: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    note: str = ""
    skipped: str = ""
    peers: Mapping[str, str] = dataclasses.field(default_factory=dict)  # their versions


def missing(package: str) -> str:
    """Empty if a peer can be imported, else what a reader of the result must know."""
    return "" if importlib.util.find_spec(package) else f"Without its peer: {package} is not installed."


def version(package: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package)}
