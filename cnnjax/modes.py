"""What each mode of the launcher does. Reads the flags that launch.py defines."""

import shlex
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.runtime import processes

FLAGS = flags.FLAGS


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
    if refused and FLAGS.list:
        raise ConfigError(f"--{refused[0]} has no effect with --list")
    if refused:
        raise ConfigError(
            f"--{refused[0]} cannot be changed by mode={FLAGS.mode}, which reads "
            f"{', '.join(sorted(allowed)) or 'none of an experiment'}"
        )
    return changes


def chosen_experiment(workdir: Any, default: str = "digits_lenet") -> Experiment:
    """The experiment of the flags: the named one, else that of the workdir, else the default, then the changes."""
    from cnnjax import experiments

    if FLAGS.experiment is None and workdir is not None and workdir.has_run():
        experiment = workdir.read_config()
    else:
        name = default if FLAGS.experiment is None else FLAGS.experiment
        experiment = experiments.named(name)
    changes = flag_changes()
    experiment = config.changed(experiment, changes)
    if FLAGS.mode not in ("import", "prepare"):  # weights bring what is missing; what is prepared has no task
        from cnnjax.runs.refusals import refuse_without_effect

        refuse_without_effect(experiment, changes)
    return experiment


def optional_workdir() -> Any:
    from cnnjax.runs.workdir import Workdir

    return Workdir(FLAGS.workdir) if FLAGS.workdir else None


def existing_workdir() -> Any:
    from cnnjax.runs.workdir import Workdir

    if not FLAGS.workdir:
        raise ConfigError(f"mode={FLAGS.mode} needs --workdir=DIR, the folder of a trained run")
    return Workdir(FLAGS.workdir)


def committee(changes: Mapping[str, Any] | None = None) -> Any:
    """That of several runs in --workdir; None for one."""
    paths = (FLAGS.workdir or "").split(",")
    if len(paths) < 2 or Path(FLAGS.workdir).exists():
        if FLAGS.votes:
            raise ConfigError("--votes are for several runs: --workdir=A,B,C")
        return None
    from cnnjax.runs.committee import restore_all

    try:
        votes = tuple(map(float, FLAGS.votes))
    except ValueError as error:
        raise ConfigError(f"--votes={','.join(FLAGS.votes)}: expected numbers separated by commas") from error
    return restore_all(paths, FLAGS.checkpoint, votes, changes)


def print_comparison(comparison: Any) -> None:
    """Members, committee, and how sure one can be of their difference."""
    rows = (*comparison.members, comparison.committee)
    width = max(len(row.name) for row in rows)
    names = [name for name in comparison.committee.metrics if name != "accuracy"]
    right = comparison.committee.right is not None
    head = f"{'accuracy %':>12}{'wrong':>8}{'95 % interval':>20}" if right else ""
    print(f"{'member':<{width}}{'n':>10}{head}" + "".join(f"{name:>12}" for name in names))
    for row in rows:
        line = f"{row.name:<{width}}{row.count:>10,}"
        if right:
            low, high = row.interval
            wrong = row.count - int(row.right.sum())
            interval = f"{100 * low:.2f} - {100 * high:.2f}"
            line += f"{100 * row.metrics['accuracy']:>12.2f}{wrong:>8,}{interval:>20}"
        print(line + "".join(f"{row.metrics[name]:>12.4f}" for name in names))
    if right:
        print(
            f"committee against {comparison.best.name}, the best member: p = {comparison.p_value:.3g} (McNemar, exact)"
        )
    for text in comparison.notes:
        print(f"note: {text}")


def is_fitted(workdir: Any) -> bool:
    """Whether the run is of a model that is fitted in one go, of which there is one only."""
    from cnnjax.runs import fitted

    task = workdir.read_config().task if workdir.has_run() else ""
    if task in fitted.FITTED:
        without("checkpoint", f"task={task}, which has one model")
    return task in fitted.FITTED


def without(name: str, other: str) -> None:
    """Raises ConfigError if the flag is given, which has no effect beside the other."""
    if FLAGS[name].present:
        raise ConfigError(f"--{name} has no effect with {other}")


def command_line() -> str:
    return shlex.join(["python", *sys.argv])


def print_table(evaluation: Any) -> None:
    from cnnjax.runs.logs import format_metric

    table = evaluation.table
    print(f"{'metric':<12}" + "".join(f"{column:>12}" for column in table))
    for name in evaluation.mean:
        print(
            f"{name:<12}" + "".join(f"{format_metric(name, column[name]):>12}" for column in table.values())
        )
    for text in evaluation.notes:
        print(f"note: {text}")


def print_names() -> None:
    """Experiments, or with mode=benchmark the measurements of speed, with their docstrings."""
    if FLAGS.mode == "benchmark":
        from cnnjax.benchmarks import BENCHMARKS, GROUPS

        for name, members in GROUPS.items():
            print(f"{name}: {', '.join(members)}")
        print_table_of(BENCHMARKS)
    else:
        from cnnjax import experiments

        print_table_of(experiments.EXPERIMENTS)


def print_table_of(functions: Mapping[str, Callable[..., Any]]) -> None:
    width = max(map(len, functions))
    for name, function in functions.items():
        title, *rest = [line.strip() for line in (function.__doc__ or "").splitlines() if line.strip()]
        expected = " ".join(line for line in rest if not line.startswith("python "))
        print(f"{name:<{width}}  {title} {expected}")


def mode_train() -> None:
    from cnnjax.runs import fitted, train
    from cnnjax.runs.workdir import Workdir

    workdir = optional_workdir()
    experiment = chosen_experiment(workdir)
    workdir = workdir or Workdir(Path("runs") / experiment.name)
    if experiment.task in fitted.FITTED:
        evaluation = fitted.fit_run(experiment, workdir, FLAGS.data_dir, command_line())
    else:
        evaluation = train.train_run(experiment, workdir, FLAGS.data_dir, command_line(), said=flag_changes())
    print_table(evaluation)
    print(f"report: {workdir.path / 'report.html'}\npictures: {workdir.plots}")


def mode_evaluate() -> None:
    from cnnjax.runs import fitted, run

    if together := committee():
        print_comparison(together.evaluate(flag_changes(), FLAGS.data_dir))
        return
    workdir = existing_workdir()
    if is_fitted(workdir):
        print_table(fitted.evaluate_run(workdir, flag_changes(), FLAGS.data_dir))
        return
    evaluation = run.restore(workdir, FLAGS.checkpoint).evaluate(flag_changes(), FLAGS.data_dir)
    print_table(evaluation)


def mode_predict() -> None:
    from cnnjax.predict import predict
    from cnnjax.runs import fitted, run

    paths = predict.find_images(FLAGS.inputs)
    if together := committee(flag_changes()):
        if not FLAGS.output:
            raise ConfigError("mode=predict with several --workdir needs --output=DIR")
        output, said = Path(FLAGS.output), predict.predictions(together, paths)
    else:
        workdir = existing_workdir()
        output = Path(FLAGS.output or workdir.path / "predictions")
        if is_fitted(workdir):
            only_changes()
            said = fitted.predictions(fitted.restore(workdir), paths)
        else:
            said = predict.predictions(run.restore(workdir, FLAGS.checkpoint, flag_changes()), paths)
    count, problems = predict.write_predictions(said, output)
    print(f"{count:,} images: {output / 'predictions.json'} and {output / 'contact_sheet.png'}")
    for line in problems:
        print(f"not read: {line}", file=sys.stderr)


def mode_prepare() -> None:
    from cnnjax.data.formats import prepare

    if not FLAGS.output:
        raise ConfigError("mode=prepare needs --data.name=folder:PATH and --output=DIR, a new folder")
    counts = prepare.prepare(chosen_experiment(None).data, Path(FLAGS.output), FLAGS.data_dir)
    print(f"{' and '.join(f'{count:,} {name}' for name, count in counts.items())} images: {FLAGS.output}")
    print(f"train on it with --data.name=records:{FLAGS.output}, and --data.stream if memory is short")


def mode_summarize() -> None:
    if FLAGS.device:
        without("output", "--device")
        if not FLAGS.compiler:
            raise ConfigError(f"--device={FLAGS.device} says what the compiler counts: give --compiler, too")
        summarize_device()
        return
    only_changes("model.", "data.")
    from cnnjax.inspect import summary

    print(
        summary.summarize_experiment(
            chosen_experiment(optional_workdir()), FLAGS.data_dir, FLAGS.compiler, FLAGS.output
        )
    )


def summarize_device() -> None:
    """What a training step of the experiment needs on --device."""
    from cnnjax.runtime import compile_for

    compile_for.start()
    from cnnjax.inspect import step_costs

    target = compile_for.find(FLAGS.device)
    training = step_costs.describe_training(chosen_experiment(optional_workdir()), FLAGS.data_dir)
    print(step_costs.describe(step_costs.compile_training(training, target), training.experiment))


def mode_preview() -> None:
    from cnnjax.inspect import preview

    experiment = chosen_experiment(optional_workdir())
    path = FLAGS.output or f"preview_{experiment.name}.png"
    preview.preview(experiment, FLAGS.data_dir, path)
    print(f"the first training batch after augmentation: {path}")


def mode_layers() -> None:
    from cnnjax.inspect import summary
    from cnnjax.runs import run

    print(summary.list_layers(run.restore(existing_workdir(), FLAGS.checkpoint).first))


def mode_visualize() -> None:
    """Looks at the run in --workdir; for a named experiment that has none yet, imports --weights or trains first."""
    from cnnjax.inspect import gallery
    from cnnjax.runs import train
    from cnnjax.runs.workdir import Workdir

    if FLAGS.experiment is None:
        workdir = existing_workdir()
        changes = only_changes("visualize.")
        without("weights", "--workdir alone, whose run is shown")
        without("classes", "--workdir alone, whose run is shown")
        options = config.check(config.replace(workdir.read_config(), changes)).visualize
    else:
        experiment = chosen_experiment(None)
        options = experiment.visualize
        workdir = optional_workdir() or Workdir(Path("runs") / experiment.name)
        if options.train:
            train.train_run(experiment, workdir, FLAGS.data_dir, command_line(), said=flag_changes())
        elif not workdir.has_run():
            if not FLAGS.weights:
                raise ConfigError(
                    f"workdir {workdir.path} holds no run: give --weights=FILE of published weights, or train first"
                )
            import_weights(experiment, workdir)
    folder = Path(FLAGS.output) if FLAGS.output else workdir.path / "gallery"
    count = gallery.make_gallery(
        workdir, FLAGS.checkpoint, FLAGS.inputs, FLAGS.data_dir, options, folder, command_line()
    )
    print(f"{count} pictures: {folder / 'gallery.html'}")


def mode_slide() -> None:
    """Slides the classifier in --workdir over a large canvas; without one, trains digits_sliding first."""
    from cnnjax.data import sources
    from cnnjax.inspect import slide
    from cnnjax.runs import run, train
    from cnnjax.runs.workdir import Workdir

    workdir = optional_workdir()
    if workdir is None:
        experiment = chosen_experiment(None, default="digits_sliding")
        workdir = Workdir(Path("runs") / experiment.name)
        train.train_run(experiment, workdir, FLAGS.data_dir, command_line(), said=flag_changes())
    else:
        only_changes()
        without("experiment", "--workdir, whose run is shown")
    folder = Path(FLAGS.output) if FLAGS.output else workdir.path / "slide"
    restored = run.restore(workdir, FLAGS.checkpoint)
    images = sources.load(restored.experiment.data, FLAGS.data_dir).test["image"]
    print(slide.slide(restored, images, folder))
    print(f"heat maps: {folder / 'slide.png'}")


def mode_import() -> None:
    from cnnjax.runs.workdir import Workdir

    if not FLAGS.weights or not FLAGS.workdir:
        raise ConfigError("mode=import needs --weights=FILE, --experiment=NAME and --workdir=DIR")
    without("train.seeds", "mode=import: published weights are one network")
    data = import_weights(chosen_experiment(None), Workdir(FLAGS.workdir)).data
    shown = ("image_size", "resize", "resize_short", "channel_order", "mean", "std")
    said = [name for name in shown if f"data.{name}" in flag_changes()]
    print(f"preprocessing: {', '.join(f'{name}={getattr(data, name)}' for name in shown)}")
    print(f"of these as you said, the others as the weights need them: {', '.join(said) or 'none'}")
    print(f"{FLAGS.weights} is now the run in {FLAGS.workdir}: evaluate, predict or visualize it")


def import_weights(experiment: Experiment, workdir: Any) -> Experiment:
    from cnnjax.data import sources
    from cnnjax.models import create_model
    from cnnjax.runs import transfer

    if FLAGS.classes:
        classes = transfer.read_classes(FLAGS.classes)
    else:
        model = create_model(experiment.model.name, options=experiment.model.options)
        count = getattr(model, "num_classes", model.num_outputs)
        classes = sources.class_names(experiment.data, FLAGS.data_dir, count)
    if not Path(FLAGS.weights).is_file():
        raise ConfigError(f"{FLAGS.weights}: no such file of weights")
    return transfer.import_weights(experiment, FLAGS.weights, workdir, classes, flag_changes())


def mode_export_weights() -> None:
    from cnnjax.runs import run, transfer

    if not FLAGS.output:
        raise ConfigError(
            "mode=export_weights needs --output=FILE.safetensors, or of a darknet model FILE.weights"
        )
    transfer.export_weights(run.restore(existing_workdir(), FLAGS.checkpoint), FLAGS.output)
    form = "darknet's form" if FLAGS.output.endswith(".weights") else "torchvision's names"
    print(f"weights with {form}: {FLAGS.output}")


def mode_export() -> None:
    from cnnjax.runs import export, run

    together = committee()
    if together and not FLAGS.output:
        raise ConfigError("mode=export with several --workdir needs --output=FILE")
    path = Path(FLAGS.output) if FLAGS.output else existing_workdir().path / "network.stablehlo"
    if path.suffix == ".json":
        raise ConfigError(f"--output={path}: that name is for the description beside the exported file")
    about = (
        export.export_committee(together, path)
        if together
        else export.export_run(run.restore(existing_workdir(), FLAGS.checkpoint), path)
    )
    print(
        f"{path} and {path.with_suffix('.json').name}: {', '.join(about['outputs'])} of step {about['step']:,}"
    )


def mode_benchmark() -> None:
    from cnnjax.benchmarks import accuracy, records
    from cnnjax.runs.workdir import Workdir

    output = Path(FLAGS["benchmark.output"].value or records.RECORDS)
    if FLAGS["benchmark.name"].value:
        only_changes()
        without("experiment", "--benchmark.name")
        without("workdir", "--benchmark.name")
        benchmark_speed(output)
        return
    for name in SPEED:
        without(name, "mode=benchmark without --benchmark.name")
    experiment = chosen_experiment(None)
    workdir = Workdir(FLAGS.workdir or Path("runs") / f"benchmark_{experiment.name}")
    record = accuracy.benchmark_accuracy(
        experiment, workdir, FLAGS.data_dir, command_line(), FLAGS["benchmark.note"].value or ""
    )
    if processes.is_first():
        records.append(record, output)
    print(f"recorded in {output} and {output.parent / 'RESULTS.md'}")


def benchmark_speed(output: Path) -> None:
    from cnnjax import benchmarks
    from cnnjax.benchmarks import records

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
            record = records.make_record(
                found.benchmark, found.subject, found.values, command_line(), note=notes, peers=found.peers
            )
            records.append(record, output)
            print(records.describe(record))
    print(f"recorded in {output} and {output.parent / 'RESULTS.md'}")


def mode_sweep() -> None:
    from cnnjax.sweeps import space, sweep

    one = chosen_sweep(space.parse(FLAGS.sweep) if FLAGS.sweep else None)
    sweep.run_sweep(one, FLAGS["sweep.jobs"].value or 0, FLAGS.yes, command_line())
    print(f"page: {one.path / 'sweep.html'}")


def chosen_sweep(varied: Any) -> Any:
    """The sweep of the flags; without --sweep, that in --workdir."""
    from cnnjax.sweeps import sweep

    if varied is None:
        path = existing_workdir().path
        only_changes()
        for name in ("experiment", "sweep.draws"):
            without(name, "the sweep that goes on in --workdir")
        return sweep.read_sweep(path, FLAGS.data_dir)
    changes = flag_changes()
    for name in varied.names:
        if name in changes:
            raise ConfigError(f"--{name} has no effect beside --sweep={name}=...")
    experiment = chosen_experiment(None)
    path = Path(FLAGS.workdir or Path("runs") / f"{FLAGS.mode}_{experiment.name}")
    return sweep.Sweep(path, experiment, varied, FLAGS["sweep.draws"].value or 0, FLAGS.data_dir)


class Mode(NamedTuple):
    """What a mode does, and which flags it reads: `flags` of the launcher, and of an experiment the fields that begin
    like one of `fields`. All others are refused."""

    run: Callable[[], None]
    flags: tuple[str, ...]
    fields: tuple[str, ...]


ALL = ("",)
PROCESSES = ("distributed", "coordinator", "num_processes", "process_id")
SPEED = ("benchmark.repetitions", "benchmark.seeds", "benchmark.airbench", "benchmark.hiverge")
PREVIEWED = ("task", "data.", "augment.", "model.", "detection.", "train.seed")
RUN = ("workdir", "checkpoint")
SWEEP = ("sweep", "sweep.jobs", "sweep.draws")

MODES: dict[str, Mode] = {
    "train": Mode(mode_train, ("experiment", "workdir", "data_dir", *PROCESSES), ALL),
    "evaluate": Mode(mode_evaluate, (*RUN, "votes", "data_dir"), ("evaluate.", "data.name")),
    "predict": Mode(mode_predict, (*RUN, "votes", "inputs", "output"), config.PREDICTABLE),
    "prepare": Mode(mode_prepare, ("experiment", "data_dir", "output"), ("data.",)),
    "summarize": Mode(
        mode_summarize, ("experiment", "workdir", "data_dir", "compiler", "device", "output"), ALL
    ),
    "preview": Mode(mode_preview, ("experiment", "workdir", "data_dir", "output"), PREVIEWED),
    "layers": Mode(mode_layers, RUN, ()),
    "slide": Mode(mode_slide, (*RUN, "experiment", "data_dir", "output"), ALL),
    "visualize": Mode(
        mode_visualize, (*RUN, "experiment", "data_dir", "inputs", "output", "weights", "classes"), ALL
    ),
    "import": Mode(mode_import, ("experiment", "workdir", "data_dir", "weights", "classes"), ALL),
    "export_weights": Mode(mode_export_weights, (*RUN, "output"), ()),
    "export": Mode(mode_export, (*RUN, "votes", "output"), ()),
    "sweep": Mode(mode_sweep, ("experiment", "workdir", "data_dir", "yes", *SWEEP), ALL),
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
PATHS = ("workdir", "data_dir", "inputs", "output", "weights", "classes", "benchmark.output")


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
    only_changes(*mode.fields)
    for name in PATHS:
        values = FLAGS[name].value
        for value in [values] if isinstance(values, str) else values or ():
            for part in value.split(","):
                config.check_local(f"--{name}", part)


def run_mode() -> None:
    """What --mode asks for, or the names with --list."""
    check_flags()
    print_names() if FLAGS.list else MODES[FLAGS.mode].run()
