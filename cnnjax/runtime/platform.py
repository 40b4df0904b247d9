"""What must be set before JAX starts: the CPU flag that matters, the compilation cache, several processes."""

import importlib.metadata
import logging
import os
import sys
from pathlib import Path

# XLA:CPU otherwise sends convolutions through fusions whose backward pass is 2 to 10 times slower. An unknown
# flag aborts the process, so it is given only to the versions that are known to have it.
_CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
_CPU_FLAG_SINCE, _CPU_FLAG_BEFORE = (0, 10), (0, 13)
# Everything is kept in the compilation cache.
_CACHE = {"jax_persistent_cache_min_compile_time_secs": 0, "jax_persistent_cache_min_entry_size_bytes": -1}
log = logging.getLogger(__name__)


def configure() -> None:
    """Sets the environment of this process. Call before the first `import jax`; a user's own settings win."""
    if _lacks_cpu_flag():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_CPU_FLAG}".strip()
    if _can_be_written(cache_dir() / "xla"):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "xla"))
    for name, value in _CACHE.items():
        os.environ.setdefault(name.upper(), str(value))
    # XLA's own chatter; errors still show.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def configure_late() -> None:
    """The same in a program of somebody else, which has imported JAX already and may have computed with it.

    XLA reads its flags when JAX first looks for devices; after that the CPU flag comes too late, which is logged once.
    """
    import jax
    from jax._src import xla_bridge  # nothing public says whether devices were looked for

    late = _lacks_cpu_flag() and xla_bridge.backends_are_initialized()
    if late and jax.devices()[0].platform == "cpu":
        log.warning(
            "JAX has computed before: convolutions on this CPU will be up to 10 times slower than they could be. Call "
            "cnnjax before JAX, or set XLA_FLAGS=%s",
            _CPU_FLAG,
        )
    before = dict(os.environ)
    configure()
    for name in ("jax_compilation_cache_dir", *_CACHE):  # JAX has read the environment when it was imported
        if (value := os.environ.get(name.upper())) and name.upper() not in before:
            jax.config.update(name, _CACHE.get(name, value))


def _lacks_cpu_flag() -> bool:
    known = _CPU_FLAG_SINCE <= jaxlib_version() < _CPU_FLAG_BEFORE
    return known and "ynn_fusion_type" not in os.environ.get("XLA_FLAGS", "")


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


def jaxlib_version() -> tuple[int, int]:
    major, minor, *_ = importlib.metadata.version("jaxlib").split(".")
    return int(major), int(minor)
