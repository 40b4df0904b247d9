"""What each mode of the launcher does. Reads the flags that launch.py defines."""

from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from cnnjax import config
from cnnjax.config import ConfigError
from cnnjax.modes.clusters import LAUNCHER, check_launcher, launch
from cnnjax.modes.given import only_changes
from cnnjax.modes.looks import (
    mode_compare,
    mode_layers,
    mode_models,
    mode_preview,
    mode_slide,
    mode_summarize,
    mode_visualize,
)
from cnnjax.modes.measures import SPEED, mode_benchmark, print_names
from cnnjax.modes.runs import (
    mode_evaluate,
    mode_export,
    mode_export_weights,
    mode_import,
    mode_predict,
    mode_prepare,
    mode_search,
    mode_sweep,
    mode_train,
)

FLAGS = flags.FLAGS


class Mode(NamedTuple):
    """What a mode does, and which flags it reads: `flags` of the launcher, and of an experiment the fields that begin
    like one of `fields`. All others are refused."""

    run: Callable[[], None]
    flags: tuple[str, ...]
    fields: tuple[str, ...]


ALL = ("",)
PROCESSES = ("distributed", "coordinator", "num_processes", "process_id")
PREVIEWED = ("task", "data.", "augment.", "model.", "detection.", "train.seed")
FRAMING = ("data.image_size", "data.image_width", "data.resize", "data.interpolation")
RUN = ("workdir", "checkpoint")
SWEEP = ("sweep", "sweep.jobs", "yes")
SEARCH = ("search.trials", "search.storage", "search.study", "search.prune", "search.silence")

MODES: dict[str, Mode] = {
    "train": Mode(mode_train, ("experiment", "workdir", "mirror", "data_dir", *PROCESSES, *LAUNCHER), ALL),
    "evaluate": Mode(
        mode_evaluate,
        (*RUN, "votes", "data_dir", "output"),
        ("evaluate.", "data.name", "data.validation", "model.precision", "model.convolutions", *FRAMING),
    ),
    "predict": Mode(mode_predict, (*RUN, "votes", "inputs", "output", "predict.warp"), config.PREDICTABLE),
    "prepare": Mode(mode_prepare, ("experiment", "data_dir", "output"), ("data.",)),
    "summarize": Mode(
        mode_summarize, ("experiment", "workdir", "data_dir", "compiler", "device", "output"), ALL
    ),
    "models": Mode(mode_models, ("output",), ()),
    "compare": Mode(mode_compare, ("workdirs", "output"), ()),
    "preview": Mode(mode_preview, ("experiment", "workdir", "data_dir", "output"), PREVIEWED),
    "layers": Mode(mode_layers, RUN, ()),
    "slide": Mode(mode_slide, (*RUN, "experiment", "data_dir", "output"), ALL),
    "visualize": Mode(
        mode_visualize, (*RUN, "experiment", "data_dir", "inputs", "output", "weights", "classes"), ALL
    ),
    "import": Mode(mode_import, ("experiment", "workdir", "data_dir", "weights", "classes"), ALL),
    "export_weights": Mode(mode_export_weights, (*RUN, "output"), ()),
    "export": Mode(mode_export, (*RUN, "votes", "output"), ()),
    "sweep": Mode(
        mode_sweep,
        ("experiment", "workdir", "data_dir", "sweep.draws", "sweep.together", *SWEEP, *LAUNCHER),
        ALL,
    ),
    "search": Mode(mode_search, ("experiment", "workdir", "data_dir", *SWEEP, *SEARCH), ALL),
    "benchmark": Mode(
        mode_benchmark,
        (
            "experiment",
            "workdir",
            "data_dir",
            "benchmark.name",
            "benchmark.output",
            "benchmark.note",
            *SPEED,
            *PROCESSES,
        ),
        ALL,
    ),
}
# Of a mirrored run, by its URL: the modes that only look at it.
LOOKS_AT_RUNS = (
    "evaluate", "predict", "compare", "summarize", "preview", "layers", "slide", "visualize", "export_weights", "export",
)  # fmt: skip
PATHS = ("workdir", "workdirs", "inputs", "output", "predict.warp", "classes", "benchmark.output")


def check_flags() -> None:
    """Raises ConfigError for the first flag that the mode would not read, and for URLs where a path is read."""
    mode = MODES[FLAGS.mode]
    known = {name for one in MODES.values() for name in one.flags}
    if FLAGS.list:
        mode = Mode(mode.run, (), ())
    for name in sorted(known):
        if FLAGS[name].present and name not in mode.flags:
            users = [other for other, one in MODES.items() if name in one.flags]
            what = "--list" if FLAGS.list else f"mode={FLAGS.mode}"
            raise ConfigError(f"--{name} has no effect with {what}: it is for mode={', '.join(users)}")
    check_launcher()
    only_changes(*mode.fields)
    for name in PATHS:
        if name in ("workdir", "workdirs") and FLAGS.mode in LOOKS_AT_RUNS:
            continue
        values = FLAGS[name].value
        for value in [values] if isinstance(values, str) else values or ():
            for part in value.split(","):
                config.check_local(f"--{name}", part)


def run_mode() -> None:
    """What --mode asks for, here or as a job of a cluster; or the names with --list."""
    check_flags()
    if FLAGS.list:
        print_names()
    elif FLAGS.launcher:
        launch()
    else:
        MODES[FLAGS.mode].run()
