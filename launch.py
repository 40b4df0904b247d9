"""Trains, evaluates and applies convolutional networks: flags in, a run in a folder out.

  python launch.py                                    trains on embedded data, with pictures
  python launch.py --list                             shows every experiment
  python launch.py --experiment=NAME --workdir=DIR    trains, or goes on with what is in DIR
  python launch.py --mode=evaluate --workdir=DIR      evaluates what was trained there
  python launch.py --mode=evaluate --workdir=DIR --data.name=folder:PHOTOS --evaluate.augment=ten_crop
  python launch.py --mode=predict --workdir=DIR --inputs=photo.png,folder/
  python launch.py --mode=visualize --workdir=DIR     pictures of what the network learned, gallery.html
  python launch.py --mode=visualize --experiment=NAME --weights=FILE --inputs=FOLDER    of published weights
  python launch.py --mode=layers --workdir=DIR        names and shapes of its layers
  python launch.py --mode=slide                       a classifier slides over a large image in one pass
  python launch.py --mode=summarize --experiment=NAME per-layer shapes, parameters, memory, multiply-adds
  python launch.py --mode=preview --experiment=NAME   the first training batch after augmentation
  python launch.py --mode=prepare --data.name=folder:DIR --output=NEW   array_record that can be streamed
  python launch.py --mode=import --experiment=NAME --weights=FILE --workdir=DIR     published weights as a run
  python launch.py --mode=export_weights --workdir=DIR --output=FILE.safetensors
  python launch.py --mode=export --workdir=DIR        one file, pixels to answer, that needs only JAX
  python launch.py --mode=benchmark --experiment=NAME records its result in RESULTS.md
  python launch.py --mode=benchmark --benchmark.name=cpu   speed against peers, recorded too; --list shows the names

Every field of an experiment is a flag: see --helpshort.
"""

import difflib
import errno
import os
import shlex
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from cnnjax import config, platform, processes
from cnnjax.config import ConfigError, Experiment

platform.configure()  # before anything imports jax

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "experiment",
    None,
    "Name of an experiment; --list shows them. Default: that of --workdir, else digits_lenet.",
)
flags.DEFINE_string("workdir", None, "Folder of the run. Default: runs/<experiment>.")
flags.DEFINE_string(
    "data_dir", None, "Where datasets are. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."
)
flags.DEFINE_list("inputs", [], "mode=predict and visualize: image files and folders.")
flags.DEFINE_string(
    "output",
    None,
    "mode=predict, visualize and slide: folder for the results, default <workdir>/predictions, gallery or slide; other modes: the file to write.",
)
flags.DEFINE_string(
    "weights",
    None,
    "mode=import and visualize: file of published weights (.safetensors, .pth, .th, .h5, .npz, .pb).",
)
flags.DEFINE_string(
    "classes",
    None,
    "mode=import and visualize: file with a class name per line. Default: those of the dataset.",
)
flags.DEFINE_string("checkpoint", "last", "Which checkpoint of --workdir to use: last, best or a step.")
flags.DEFINE_string(
    "benchmark.output", None, "mode=benchmark: file of records. Default: results.jsonl of the project."
)
flags.DEFINE_list(
    "benchmark.name",
    [],
    "mode=benchmark: measurements of speed, by name or group (--mode=benchmark --list); else the experiment's result.",
)
flags.DEFINE_integer("benchmark.repetitions", 10, "Turns of each contestant, A B A B.", lower_bound=1)
flags.DEFINE_integer("benchmark.seeds", 50, "Runs of the benchmarks that measure whole runs.", lower_bound=1)
flags.DEFINE_string(
    "benchmark.airbench", None, "A peer: airbench94_muon.py of KellerJordan/cifar10-airbench."
)
flags.DEFINE_string("benchmark.hiverge", None, "A peer: cifar10_speedrun.py of hiverge/cifar10-speedrun.")
flags.DEFINE_string("benchmark.note", None, "mode=benchmark: what a reader of the result must know.")
flags.DEFINE_bool(
    "compiler", False, "mode=summarize: also compile the model and show what the compiler counts."
)
flags.DEFINE_bool(
    "distributed",
    False,
    "mode=train and benchmark: join the processes that Slurm, Kubernetes or the TPU started.",
)
flags.DEFINE_string(
    "coordinator", None, "Instead of --distributed: HOST:PORT of process 0, the same for all processes."
)
flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes there are.")
flags.DEFINE_integer("process_id", None, "With --coordinator: the number of this process, from 0.")
flags.DEFINE_bool("list", False, "List all experiments, or with mode=benchmark all benchmarks, and exit.")


DEFINE: dict[Any, Callable[..., Any]] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}


def define_flags(experiment: Experiment) -> None:
    """One typed flag for each field, such as --optimizer.learning_rate; unset by default."""
    for name, field, _ in config.fields(experiment):
        if name == "name":
            continue
        text, choices = field.metadata.get("help", name), field.metadata.get("choices", ())
        if isinstance(field.type, types.GenericAlias):
            flags.DEFINE_list(name, None, text)
        elif choices:
            flags.DEFINE_enum(name, None, choices, text)
        else:
            DEFINE[field.type](name, None, text)


def flag_changes() -> dict[str, Any]:
    """The fields of the experiment that the command line sets, with values of the right type."""
    changes: dict[str, Any] = {}
    for name, field, _ in config.fields(Experiment()):
        value = FLAGS[name].value if name in FLAGS else None
        if value is None:
            continue
        if isinstance(field.type, types.GenericAlias):
            kind = config.element_type(field.type)
            try:
                value = tuple(kind(item) for item in value)
            except ValueError as error:
                raise ConfigError(
                    f"--{name}={','.join(value)}: expected numbers separated by commas"
                ) from error
        changes[name] = value
    return changes


def only_changes(*allowed: str) -> dict[str, Any]:
    """The changes of the command line, of which only these fields, or parts such as "evaluate.", may be changed."""
    changes = flag_changes()
    refused = [name for name in changes if not name.startswith(allowed)]
    if refused:
        raise ConfigError(f"--{refused[0]} cannot be changed by mode={FLAGS.mode}: the checkpoint decides it")
    return changes


def chosen_experiment(workdir: Any, default: str = "digits_lenet") -> Experiment:
    """The experiment of the flags: the named one, else that of the workdir, else the default, then the changes."""
    from experiments import EXPERIMENTS

    if FLAGS.experiment is None and workdir is not None and workdir.has_run():
        experiment = workdir.read_config()
    else:
        name = FLAGS.experiment or default
        if name not in EXPERIMENTS:
            close = difflib.get_close_matches(name, EXPERIMENTS, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "--list shows all"
            raise ConfigError(f"unknown experiment {name!r}: {hint}")
        experiment = EXPERIMENTS[name]()
    changes = flag_changes()
    lengths = ("train.epochs", "train.steps", "train.examples")
    if any(name in changes for name in lengths):
        # A length given in one unit replaces the one that the experiment gives in another.
        changes = {"train.epochs": 0.0, "train.steps": 0, "train.examples": 0} | changes
    return config.check(config.replace(experiment, changes))


def mode_train() -> None:
    from cnnjax import run
    from cnnjax.workdir import Workdir

    workdir = optional_workdir()
    experiment = chosen_experiment(workdir)
    workdir = workdir or Workdir(Path("runs") / experiment.name)
    evaluation = run.train_run(experiment, workdir, FLAGS.data_dir, command_line())
    print_table(evaluation)
    print(f"report: {workdir.path / 'report.html'}\npictures: {workdir.plots}")


def mode_evaluate() -> None:
    from cnnjax import run

    workdir = existing_workdir()
    changes = only_changes("evaluate.", "data.name")
    print_table(run.evaluate_run(workdir, FLAGS.data_dir, FLAGS.checkpoint, changes))


def mode_predict() -> None:
    from cnnjax import predict, run

    workdir = existing_workdir()
    paths = predict.find_images(FLAGS.inputs)
    output = Path(FLAGS.output) if FLAGS.output else workdir.path / "predictions"
    count, problems = predict.predict_files(run.restore(workdir, FLAGS.checkpoint), paths, output)
    print(f"{count:,} images: {output / 'predictions.json'} and {output / 'contact_sheet.png'}")
    for line in problems:
        print(f"not read: {line}", file=sys.stderr)


def mode_prepare() -> None:
    from cnnjax.data import prepare

    if not FLAGS.output:
        raise ConfigError("mode=prepare needs --data.name=folder:PATH and --output=DIR, a new folder")
    counts = prepare.prepare(chosen_experiment(None).data, Path(FLAGS.output), FLAGS.data_dir)
    print(f"{' and '.join(f'{count:,} {name}' for name, count in counts.items())} images: {FLAGS.output}")
    print(f"train on it with --data.name=records:{FLAGS.output}, and --data.stream if memory is short")


def mode_summarize() -> None:
    from cnnjax import look

    print(
        look.summarize_experiment(
            chosen_experiment(optional_workdir()), FLAGS.data_dir, FLAGS.compiler, FLAGS.output
        )
    )


def mode_preview() -> None:
    from cnnjax import look

    experiment = chosen_experiment(optional_workdir())
    path = FLAGS.output or f"preview_{experiment.name}.png"
    look.preview(experiment, FLAGS.data_dir, path)
    print(f"the first training batch after augmentation: {path}")


def mode_layers() -> None:
    from cnnjax import look, run

    print(look.list_layers(run.restore(existing_workdir(), FLAGS.checkpoint)))


def mode_visualize() -> None:
    """Looks at the run in --workdir; for a named experiment that has none yet, imports --weights or trains first."""
    from cnnjax import look, run
    from cnnjax.workdir import Workdir

    if FLAGS.experiment is None:
        workdir = existing_workdir()
        changes = only_changes("visualize.")
        options = config.check(config.replace(workdir.read_config(), changes)).visualize
    else:
        experiment = chosen_experiment(None)
        options = experiment.visualize
        workdir = optional_workdir() or Workdir(Path("runs") / experiment.name)
        if options.train:
            run.train_run(experiment, workdir, FLAGS.data_dir, command_line())
        elif not workdir.has_run():
            if not FLAGS.weights:
                raise ConfigError(
                    f"workdir {workdir.path} holds no run: give --weights=FILE of published weights, or train first"
                )
            import_weights(experiment, workdir)
    folder = Path(FLAGS.output) if FLAGS.output else workdir.path / "gallery"
    count = look.make_gallery(
        workdir, FLAGS.checkpoint, FLAGS.inputs, FLAGS.data_dir, options, folder, command_line()
    )
    print(f"{count} pictures: {folder / 'gallery.html'}")


def mode_slide() -> None:
    """Slides the classifier in --workdir over a large canvas; without one, trains digits_sliding first."""
    from cnnjax import look, run
    from cnnjax.workdir import Workdir

    workdir = optional_workdir()
    if workdir is None:
        experiment = chosen_experiment(None, default="digits_sliding")
        workdir = Workdir(Path("runs") / experiment.name)
        run.train_run(experiment, workdir, FLAGS.data_dir, command_line())
    folder = Path(FLAGS.output) if FLAGS.output else workdir.path / "slide"
    print(look.slide_over_canvas(run.restore(workdir, FLAGS.checkpoint), FLAGS.data_dir, folder))
    print(f"heat maps: {folder / 'slide.png'}")


def mode_import() -> None:
    from cnnjax.workdir import Workdir

    if not FLAGS.weights or not FLAGS.workdir:
        raise ConfigError("mode=import needs --weights=FILE, --experiment=NAME and --workdir=DIR")
    import_weights(chosen_experiment(None), Workdir(FLAGS.workdir))
    print(f"{FLAGS.weights} is now the run in {FLAGS.workdir}: evaluate, predict or visualize it")


def import_weights(experiment: Experiment, workdir: Any) -> None:
    from cnnjax import transfer
    from cnnjax.data import sources
    from cnnjax.models import create_model

    if FLAGS.classes:
        classes = transfer.read_classes(FLAGS.classes)
    else:
        count = create_model(experiment.model.name).num_outputs
        classes = sources.class_names(experiment.data, FLAGS.data_dir, count)
    transfer.import_weights(experiment, FLAGS.weights, workdir, classes)


def mode_export_weights() -> None:
    from cnnjax import run, transfer

    if not FLAGS.output:
        raise ConfigError("mode=export_weights needs --output=FILE.safetensors")
    transfer.export_weights(run.restore(existing_workdir(), FLAGS.checkpoint), FLAGS.output)
    print(f"weights with torchvision's names: {FLAGS.output}")


def mode_export() -> None:
    from cnnjax import export, run

    workdir = existing_workdir()
    path = Path(FLAGS.output) if FLAGS.output else workdir.path / "network.stablehlo"
    if path.suffix == ".json":
        raise ConfigError(f"--output={path}: that name is for the description beside the exported file")
    about = export.export_run(run.restore(workdir, FLAGS.checkpoint), path)
    print(
        f"{path} and {path.with_suffix('.json').name}: {', '.join(about['outputs'])} of step {about['step']:,}"
    )


def mode_benchmark() -> None:
    from cnnjax import results, run
    from cnnjax.workdir import Workdir

    output = Path(FLAGS["benchmark.output"].value or results.RECORDS)
    if FLAGS["benchmark.name"].value:
        benchmark_speed(output)
        return
    experiment = chosen_experiment(None)
    workdir = Workdir(FLAGS.workdir or Path("runs") / f"benchmark_{experiment.name}")
    record = run.benchmark_accuracy(
        experiment, workdir, FLAGS.data_dir, command_line(), FLAGS["benchmark.note"].value or ""
    )
    if processes.is_first():
        results.append(record, output)
    print(f"recorded in {output} and {output.parent / 'RESULTS.md'}")


def benchmark_speed(output: Path) -> None:
    from cnnjax import benchmarks, results

    def flag(name: str) -> Any:
        return FLAGS[f"benchmark.{name}"].value

    options = benchmarks.Options(
        repetitions=flag("repetitions"),
        seeds=flag("seeds"),
        data_dir=FLAGS.data_dir,
        airbench=flag("airbench"),
        hiverge=flag("hiverge"),
    )
    note = flag("note") or ""
    for function in benchmarks.chosen(flag("name")).values():
        for found in function(options):
            if found.skipped:
                print(f"skipped: {found.benchmark}, {found.subject}: {found.skipped}")
                continue
            notes = " ".join(text for text in (found.note, note) if text)
            record = results.make_record(
                found.benchmark, found.subject, found.values, command_line(), note=notes, peers=found.peers
            )
            results.append(record, output)
            print(results.describe(record))
    print(f"recorded in {output} and {output.parent / 'RESULTS.md'}")


MODES: dict[str, Callable[[], None]] = {
    "train": mode_train,
    "evaluate": mode_evaluate,
    "predict": mode_predict,
    "prepare": mode_prepare,
    "summarize": mode_summarize,
    "preview": mode_preview,
    "layers": mode_layers,
    "slide": mode_slide,
    "visualize": mode_visualize,
    "import": mode_import,
    "export_weights": mode_export_weights,
    "export": mode_export,
    "benchmark": mode_benchmark,
}
flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
define_flags(Experiment())


def join_processes() -> None:
    """With --distributed or --coordinator: joins the other processes of this run."""
    given = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if not FLAGS.distributed and given == (None, None, None):
        return
    if FLAGS.mode not in ("train", "benchmark"):
        raise ConfigError(f"mode={FLAGS.mode} runs in one process: --distributed is for train and benchmark")
    processes.start(*given)


def optional_workdir() -> Any:
    from cnnjax.workdir import Workdir

    return Workdir(FLAGS.workdir) if FLAGS.workdir else None


def existing_workdir() -> Any:
    from cnnjax.workdir import Workdir

    if not FLAGS.workdir:
        raise ConfigError(f"mode={FLAGS.mode} needs --workdir=DIR, the folder of a trained run")
    return Workdir(FLAGS.workdir)


def command_line() -> str:
    return shlex.join(["python", *sys.argv])


def print_table(evaluation: Any) -> None:
    from cnnjax.run import format_metric

    table = evaluation.table
    print(f"{'metric':<12}" + "".join(f"{column:>12}" for column in table))
    for name in evaluation.mean:
        print(
            f"{name:<12}" + "".join(f"{format_metric(name, column[name]):>12}" for column in table.values())
        )


def print_names() -> None:
    """Experiments, or with mode=benchmark the measurements of speed, with their docstrings."""
    if FLAGS.mode == "benchmark":
        from cnnjax.benchmarks import BENCHMARKS, GROUPS

        for name, members in GROUPS.items():
            print(f"{name}: {', '.join(members)}")
        print_table_of(BENCHMARKS)
    else:
        from experiments import EXPERIMENTS

        print_table_of(EXPERIMENTS)


def print_table_of(functions: Mapping[str, Callable[..., Any]]) -> None:
    width = max(map(len, functions))
    for name, function in functions.items():
        title, *rest = [line.strip() for line in (function.__doc__ or "").splitlines() if line.strip()]
        expected = " ".join(line for line in rest if not line.startswith("python "))
        print(f"{name:<{width}}  {title} {expected}")


def main(argv: list[str]) -> None:
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries tell their life story otherwise
    try:
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}: flags look like --name=value")
        join_processes()
        print_names() if FLAGS.list else MODES[FLAGS.mode]()
        processes.end()
    except ConfigError as error:
        processes.fail(f"error: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        processes.fail(f"error: {os.strerror(error.errno)}{f': {error.filename}' if error.filename else ''}")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if processes.is_loss_of_another(error):
            processes.fail(f"error: {processes.LOST}")
        processes.crash()
        raise


if __name__ == "__main__":
    app.run(main)
