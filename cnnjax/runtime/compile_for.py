"""Programs for devices that are not here: XLA needs a description of a GPU or TPU to compile for it, no card."""

import contextlib
import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Generator
from typing import Any

from cnnjax.config import ConfigError, did_you_mean

CUDA_WHEELS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
TPU_WHEEL = "libtpu"
_GIB = 2**30
# Registers, threads and block sizes are the same from compute capability 8.0 to 9.0; the rest differs.
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {optin}
  core_count: {cores} fpus_per_core: {units} clock_rate_ghz: {clock} l2_cache_size: {cache}
  memory_bandwidth: {bandwidth} device_memory_size: {memory} cuda_compute_capability {{ major: {major} }}
}}
platform_name: "CUDA" device_description_str: "{description}"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }} runtime_version {{ major: 12 minor: 8 patch: 0 }}
"""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device by its data sheet, and for a GPU what XLA has to be told of it.

    bandwidth in bytes a second; half and single: operations a second of dense products of bfloat16 or float16, and
    of float32 as JAX computes it by default, in TF32 on GPUs and in passes of bfloat16 on TPUs.
    """

    bandwidth: float
    half: float
    single: float
    memory: int
    gpu: str = ""  # fields of a GPU's description
    grid: str = ""  # of TPUs: the smallest topology that JAX makes


def _hopper(description: str, bandwidth: float, memory: int) -> Chip:
    about = _GPU.format(
        description=description, shared=233472, optin=232448, cores=132, units=128, clock=1.98, cache=50 * 2**20,
        bandwidth=int(bandwidth), memory=memory, major=9,
    )  # fmt: skip
    return Chip(bandwidth, 989e12, 494e12, memory, gpu=about)


_A100 = _GPU.format(
    description="NVIDIA A100-SXM4-80GB", shared=167936, optin=166912, cores=108, units=64, clock=1.41,
    cache=40 * 2**20, bandwidth=2_039_000_000_000, memory=80 * _GIB, major=8,
)  # fmt: skip

# NVIDIA's data sheets of the SXM modules (dense, not sparse), Google's pages "TPU v5e", "v5p" and "v6e".
CHIPS = {
    "a100": Chip(2.039e12, 312e12, 156e12, 80 * _GIB, gpu=_A100),
    "h100": _hopper("NVIDIA H100 80GB HBM3", 3.35e12, 80 * _GIB),
    "h200": _hopper("NVIDIA H200", 4.8e12, 141 * _GIB),
    "v5e": Chip(819e9, 197e12, 197e12, 16 * _GIB, grid="2x2"),
    "v5p": Chip(2765e9, 459e12, 459e12, 95 * _GIB, grid="2x2x1"),
    "v6e": Chip(1640e9, 918e12, 918e12, 32 * _GIB, grid="2x2"),
}
_FORMS = "one such as h200, h200x8, v5e or v5e:2x2"


@dataclasses.dataclass(frozen=True)
class Target:
    """What a program is compiled for: so many chips of one kind."""

    name: str
    chip: Chip
    devices: tuple[Any, ...]

    @property
    def is_tpu(self) -> bool:
        return not self.chip.gpu


class DoesNotFit(ConfigError):
    """A program needs more bytes of a device's memory than there are."""

    def __init__(self, target: Target, needed: float, room: float, hint: str = ""):
        super().__init__(
            f"device={target.name}: the program needs {needed / 1e9:.3g} GB of memory, of which there are "
            f"{room / 1e9:.3g} GB{hint}"
        )
        self.needed, self.room = needed, room


def start() -> None:
    """Starts JAX in this process for a device elsewhere: on the CPU, and without what plugins say of cards that they miss.

    Call before JAX computes anything, best before it is imported.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    quiet = {
        # libtpu otherwise asks Google's metadata server what machine this is, and allows one process at a time.
        "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3",
    }  # fmt: skip
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    with _silent():
        import jax

        jax.config.update("jax_platforms", "cpu")  # where it was imported before
        jax.local_devices()


def find(name: str) -> Target:
    """The devices that a name means: a chip, "h200x8" for several GPUs, "v5e:4x4" for a slice of TPUs.

    Raises ConfigError for other names, and where JAX's compiler for the chip is not installed.
    """
    match = re.fullmatch(r"([a-z]\w*?)(?:x([1-9]\d{0,3})|:(\d+(?:x\d+)+))?", name.lower())
    kind, count, grid = match.groups() if match else (name, None, None)
    if kind not in CHIPS:
        hint = did_you_mean(kind.lower(), CHIPS, f"known are {', '.join(CHIPS)}", most=2, cutoff=0.5)
        raise ConfigError(f"device={name!r}: unknown, {hint} ({_FORMS})")
    chip = CHIPS[kind]
    if chip.gpu:
        if grid:
            raise ConfigError(f"device={name!r}: several GPUs are {kind}x8, not {kind}:{grid}")
        return Target(name, chip, _gpus(kind, chip, int(count or 1)))
    if count:
        raise ConfigError(f"device={name!r}: several TPUs are a grid, such as {kind}:{chip.grid}")
    return Target(name, chip, _tpus(name, f"{kind}:{grid or chip.grid}")[: None if grid else 1])


def compile_step(function: Any, target: Target, *arguments: Any) -> Any:
    """A jitted function compiled for abstract arguments whose shardings are of a mesh over the target's devices.

    Raises DoesNotFit if the compiler says that its program does not fit the memory of a device.
    """
    import jax

    # Without a card there is nothing to measure kernels on.
    options = {"xla_gpu_autotune_level": "0"} if target.chip.gpu else {}
    # The cache would ask these devices for a name that they do not have.
    enabled = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        lowered = function.lower(*arguments)
        with _silent():  # of compilers that are slow on a busy machine
            return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        sizes = re.search(r"([\d.]+)G\)? (?:of|exceeds[^(]*\() ?([\d.]+)G", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not sizes:
            raise
        raise DoesNotFit(target, float(sizes[1]) * _GIB, float(sizes[2]) * _GIB) from error
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)


def _gpus(kind: str, chip: Chip, count: int) -> tuple[Any, ...]:
    if not any(_is_installed(name) for name in CUDA_WHEELS):
        raise ConfigError(_missing(kind, "jax-cuda12-plugin and jax-cuda12-pjrt"))
    per_host = min(count, 8)
    if count % per_host:
        raise ConfigError(f"device={kind}x{count}: more than 8 GPUs are a multiple of 8")
    from jax.experimental import topologies

    shape = f"1x{count // per_host}x{per_host}"
    return tuple(
        topologies.get_topology_desc(platform="cuda", target_config=chip.gpu, topology=shape).devices
    )


def _tpus(name: str, topology: str) -> tuple[Any, ...]:
    if not _is_installed(TPU_WHEEL):
        raise ConfigError(_missing(name, "libtpu"))
    import jax
    from jax.experimental import topologies

    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise ConfigError(f"device={name!r}: {str(error).splitlines()[0]}") from error


def _missing(name: str, wheels: str) -> str:
    return (
        f"device={name} needs {wheels}, JAX's compiler for it: pip install 'cnnjax[devices]', in an "
        "environment of its own, for JAX complains at each start of a plugin without its card"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextlib.contextmanager
def _silent() -> Generator[None, None, None]:
    """Nothing reaches stderr, not even from libraries in C, which heed no setting of this process."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
