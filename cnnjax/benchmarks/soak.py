"""A long run: whether its memory and the time of its steps stay what they were."""

import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax.benchmarks import launched
from cnnjax.benchmarks.options import Measured, Options
from cnnjax.config import ConfigError
from cnnjax.runs.workdir import Workdir

_EPOCHS_BETWEEN = 20  # checkpoints and evaluations, so that these are soaked too
_FLAGS = (
    "--experiment=digits_lenet", "--train.steps=100000000", "--optimizer.schedule=constant", "--train.log_every=50",
    f"--train.checkpoint_every={_EPOCHS_BETWEEN}", f"--train.evaluate_every={_EPOCHS_BETWEEN}",
)  # fmt: skip


def long_run(options: Options) -> list[Measured]:
    """Trains LeNet-5 for --benchmark.repetitions minutes with checkpoints and evaluations: memory and step time, first and last."""
    with tempfile.TemporaryDirectory() as folder:
        return [soaked(Path(folder) / "run", 60 * options.repetitions)]


def soaked(workdir: Path, seconds: float, flags: Sequence[str] = _FLAGS, settle: float = 0.1) -> Measured:
    """One run that is stopped by SIGTERM after so many seconds of training.

    Start-up and the first `settle` share of the time count for nothing: caches fill, and the allocator finds its size.
    """
    process = launched.start(workdir, *flags)
    try:
        while not Workdir(workdir).read_metrics():
            if process.poll() is not None:
                launched.finish(process)
            time.sleep(0.1)
        with launched.watched(process, seconds=min(5.0, seconds / 100)) as series:
            time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    finally:
        process.kill()
    if "stopped by a signal" not in err:
        raise ConfigError(f"training ended with status {process.returncode}: {err.strip()[-500:]}")
    series = [sample for sample in series if sample.seconds > settle * seconds]
    at = np.asarray([sample.seconds for sample in series])
    size = np.asarray([sample.own_memory for sample in series]) / 1e6
    cpu = np.asarray([sample.cpu_seconds for sample in series])
    metrics = Workdir(workdir).read_metrics()
    lines = [line for line in metrics if line["split"] == "train"]
    times = np.asarray([line["seconds"] for line in lines])
    done = np.interp(at, times - times[0], [line["step"] for line in lines])
    batch_size = Workdir(workdir).read_config().data.batch_size
    milliseconds = np.asarray([1e3 * batch_size / line["images_per_second"] for line in lines])
    milliseconds = milliseconds[times > settle * seconds]
    quarter, part = max(1, len(milliseconds) // 4), max(1, len(size) // 10)
    spans = {"first": slice(None, len(at) // 4), "last": slice(-(len(at) // 4), None)}
    windows = {"first": milliseconds[:quarter], "last": milliseconds[-quarter:]}
    values: dict[str, list[float]] = {
        "minutes": [seconds / 60],
        "steps": [lines[-1]["step"]],
        "evaluations, each with a checkpoint": [len(metrics) - len(lines)],
        "memory in the first tenth, MB": [float(np.mean(size[:part]))],
        "memory in the last tenth, MB": [float(np.mean(size[-part:]))],
        "memory, slope of a line through it, MB per hour": [np.polyfit(at / 3600, size, 1)[0]],
        **{
            f"processor time of a step in the {name} quarter, ms": [
                1e3 * np.ptp(cpu[span]) / np.ptp(done[span])
            ]
            for name, span in spans.items()
        },
        **{
            f"time of a step in the {name} quarter, {share:.0%} quantile, ms": [np.quantile(window, share)]
            for share in (0.1, 0.5, 0.9)
            for name, window in windows.items()
        },
    }
    note = (
        f"Times are means over up to {lines[0]['step']} steps, with their checkpoints; memory is that of no file; "
        f"the first {settle:.0%} of the time is left out."
    )
    return Measured("reliability", "soak, LeNet-5 on digits", values, note=note)
