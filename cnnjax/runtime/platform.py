"""What must be set before JAX starts: the CPU flag that matters, the compilation cache, several processes."""

import importlib.metadata
import os
import sys
from pathlib import Path

# XLA:CPU otherwise sends convolutions through fusions whose backward pass is 2 to 10 times slower. An unknown
# flag aborts the process, so it is given only to the versions that are known to have it.
_CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
_CPU_FLAG_SINCE, _CPU_FLAG_BEFORE = (0, 10), (0, 13)


def configure() -> None:
    """Sets the environment of this process. Call before the first `import jax`; a user's own settings win."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "ynn_fusion_type" not in flags and _CPU_FLAG_SINCE <= _jaxlib_version() < _CPU_FLAG_BEFORE:
        os.environ["XLA_FLAGS"] = f"{flags} {_CPU_FLAG}".strip()
    if _can_be_written(cache_dir() / "xla"):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    # XLA's own chatter; errors still show.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def ask_for_huge_pages() -> None:
    """Starts this program anew with its memory in huge pages, on a Linux that gives them to those who ask.

    XLA:CPU takes new memory for each call; in pages of 4 KiB their faults are a quarter of a ResNet-20 step. The
    C library reads the setting only when a process starts. GLIBC_TUNABLES, if it is set, stays as it is.
    """
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if "GLIBC_TUNABLES" not in os.environ and switch.exists() and "[madvise]" in switch.read_text():
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def make_deterministic() -> None:
    """Makes XLA choose only kernels for GPUs that give the same bits each time. Call before JAX computes anything.

    Slower, for it also leaves out the measurements by which XLA picks the fastest kernel. CPUs and TPUs need it not.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def cache_dir() -> Path:
    """Where cnnjax keeps what can be made again; CNNJAX_CACHE moves it."""
    return Path(os.environ.get("CNNJAX_CACHE") or Path.home() / ".cache" / "cnnjax")


def _can_be_written(folder: Path) -> bool:
    """Makes the folder if it is missing; JAX would complain of one that cannot be written at each compilation."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def versions() -> dict[str, str]:
    """Versions of what decides the numbers of a run."""
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}


def _jaxlib_version() -> tuple[int, int]:
    major, minor, *_ = importlib.metadata.version("jaxlib").split(".")
    return int(major), int(minor)
