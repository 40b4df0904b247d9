"""Modes that make runs and use them."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.modes.given import (
    chosen_experiment,
    command_line,
    committee,
    existing_workdir,
    flag_changes,
    is_fitted,
    mirror_of,
    only_changes,
    optional_workdir,
    without,
)

FLAGS = flags.FLAGS


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


def mode_train() -> None:
    from cnnjax.faces.fitted import FITTED
    from cnnjax.runs.workdir import Workdir

    workdir = optional_workdir()
    if FLAGS.mirror and workdir is None:
        workdir = Workdir(Path("runs") / chosen_experiment(None).name)
    with mirror_of(workdir) as saved:
        experiment = chosen_experiment(workdir)
        workdir = workdir or Workdir(Path("runs") / experiment.name)
        if experiment.task in FITTED:
            from cnnjax.runs import fitted

            evaluation = fitted.fit_run(experiment, workdir, FLAGS.data_dir, command_line())
        else:
            from cnnjax.runs import train

            evaluation = train.train_run(
                experiment, workdir, FLAGS.data_dir, command_line(), said=flag_changes(), saved=saved
            )
    print_table(evaluation)
    print(f"report: {workdir.path / 'report.html'}\npictures: {workdir.plots}")


def mode_evaluate() -> None:
    from cnnjax.runs import run

    if together := committee():
        evaluate_committee(together)
        return
    workdir = existing_workdir()
    folder = Path(FLAGS.output or workdir.path / "evaluation")
    if is_fitted(workdir):
        evaluate_fitted(workdir, folder)
        return
    restored = run.restore(workdir, FLAGS.checkpoint)
    seen = restored.evaluated(flag_changes(), FLAGS.data_dir)
    evaluation = seen.evaluation()
    print_table(evaluation)
    about = {"workdir": str(workdir.path), "checkpoint": restored.step, "protocol": seen.protocol}
    write_evaluation(
        folder, restored.experiment.name, seen.run.recipe.task, seen.split, evaluation.table, evaluation.predictions,
        about, evaluation.notes,
    )  # fmt: skip


def evaluate_committee(together: Any) -> None:
    comparison = together.evaluate(flag_changes(), FLAGS.data_dir)
    print_comparison(comparison)
    sweep = Path(FLAGS.workdir)
    if not FLAGS.output and not sweep.is_dir():  # several folders, of which none is the place for it
        print("give --output=DIR for tables, predictions and a page")
        return
    folder = Path(FLAGS.output or sweep / "evaluation")
    rows = {row.name: row.metrics for row in (*comparison.members, comparison.committee)}
    about = {"workdir": FLAGS.workdir, "members": list(together.names), "p_value": comparison.p_value}
    about["protocol"] = comparison.protocol
    write_evaluation(
        folder, "a committee", together.task, comparison.split, rows, comparison.predictions,
        about, comparison.notes,
    )  # fmt: skip


def evaluate_fitted(workdir: Any, folder: Path) -> None:
    from cnnjax.runs import evaluated, fitted

    changes = only_changes("evaluate.", "data.name")
    evaluation, pictures = fitted.evaluate_run(workdir, changes, FLAGS.data_dir)
    print_table(evaluation)
    experiment = workdir.read_config()
    about = {
        "workdir": str(workdir.path),
        "protocol": {"data": changes.get("data.name", experiment.data.name)},
        "command": command_line(),
    }
    title = f"Evaluation of {experiment.name}"
    found = evaluated.Findings(title, evaluation.table, about, pictures, {}, evaluation.notes)
    with run_is_judged_anyway():
        print_files(folder, evaluated.write(folder, found))


def write_evaluation(
    folder: Path, name: str, task: Any, split: Any, columns: Any, predictions: Any, about: Any, notes: Any
) -> None:
    """The files of an evaluation; of several processes one writes."""
    from cnnjax.runs import evaluated
    from cnnjax.runtime import processes

    if not processes.is_first():
        return
    tables, pictures = evaluated.of_task(task, split, predictions)
    about = {**evaluated.interval(split, predictions), **about, "command": command_line()}
    found = evaluated.Findings(f"Evaluation of {name}", columns, about, pictures, tables, notes)
    with run_is_judged_anyway():
        names = evaluated.write(folder, found)
        if "predictions" not in tables:
            names += evaluated.write_predictions(folder, task, split, predictions)
        print_files(folder, names)


@contextlib.contextmanager
def run_is_judged_anyway() -> Iterator[None]:
    """Of a run in a folder that may not be written the numbers are enough, unless --output says where files go."""
    from cnnjax.runs.evaluated import Unwritable

    try:
        yield
    except Unwritable as error:
        if FLAGS.output:
            raise
        print(f"without files: {error}", file=sys.stderr)


def print_files(folder: Path, names: list[str]) -> None:
    print(f"report: {folder / 'report.html'}, beside it {', '.join(n for n in names if n != 'report.html')}")


def mode_predict() -> None:
    from cnnjax.predict import predict, video
    from cnnjax.runs import fitted, run

    warp = FLAGS["predict.warp"].value
    if name := video.only_video(FLAGS.inputs):
        if warp:
            raise ConfigError("predict.warp is for photographs, not for a video")
        predict_video(name)
        return
    paths = predict.find_images(FLAGS.inputs)
    if together := committee(flag_changes()):
        if not FLAGS.output:
            raise ConfigError("mode=predict with several --workdir needs --output=DIR")
        output, ask = Path(FLAGS.output), functools.partial(predict.predictions, together)
    else:
        workdir = existing_workdir()
        output = Path(FLAGS.output or workdir.path / "predictions")
        if is_fitted(workdir):
            only_changes()
            ask = functools.partial(fitted.predictions, fitted.restore(workdir))
        else:
            restored = run.restore(workdir, FLAGS.checkpoint, flag_changes()).for_images(len(paths))
            ask = functools.partial(predict.predictions, restored)
    count, problems = predict_and_warp(ask, paths, output, warp)
    part = f", of the first {predict.SHOWN}" if count > predict.SHOWN else ""
    print(f"{count:,} images: {output / 'predictions.json'} and {output / 'contact_sheet.png'}{part}")
    for line in problems:
        print(f"not read: {line}", file=sys.stderr)


def predict_and_warp(
    ask: Callable[[list[Path]], Any], paths: list[Path], output: Path, warp: str | None
) -> tuple[int, list[str]]:
    """What predict.write_predictions does and returns; with `warp` also the warped faces."""
    from cnnjax.predict import predict, warping

    if not warp:
        return predict.write_predictions(ask(paths), output)
    points: dict[Path, Any] = {}
    target = None if warp == warping.MEAN else warping.points_of(warp, ask(predict.find_images([warp])[:1]))
    told = predict.write_predictions(warping.remembering(ask(paths), points), output)
    target = warping.mean_shape(points) if target is None else target
    warped = warping.write_warped(points, target, output / "warped")
    print(f"{warped:,} faces warped: {output / 'warped'}")
    return told


def predict_video(name: str) -> None:
    from cnnjax.predict import video
    from cnnjax.runs import fitted, run

    together = committee(flag_changes())
    if together and not FLAGS.output:
        raise ConfigError("mode=predict with several --workdir needs --output=DIR")
    workdir: Any = None if together else existing_workdir()
    output = Path(FLAGS.output or workdir.path / "predictions")
    if workdir is not None and is_fitted(workdir):
        only_changes()
        model = fitted.restore(workdir)
        answers, at_once = (lambda frames: [model.result(frame) for frame in frames]), 8
    else:
        many = 1000  # frames, of which it is not known how many there are
        restored = together or run.restore(workdir, FLAGS.checkpoint, flag_changes()).for_images(many)
        answers, at_once = video.answers_of(restored)
    count = video.predict_video(name, answers, at_once, output)
    print(f"{count:,} frames: {output / 'predictions.jsonl'} and {output / 'annotated.mp4'}")


def mode_prepare() -> None:
    from cnnjax.data.formats import prepare

    if not FLAGS.output:
        raise ConfigError("mode=prepare needs --data.name=folder:PATH and --output=DIR, a new folder")
    counts = prepare.prepare(chosen_experiment(None).data, Path(FLAGS.output), FLAGS.data_dir)
    print(f"{' and '.join(f'{count:,} {name}' for name, count in counts.items())} images: {FLAGS.output}")
    print(f"train on it with --data.name=records:{FLAGS.output}, and --data.stream if memory is short")


def mode_import() -> None:
    from cnnjax.runs.beginning import short
    from cnnjax.runs.workdir import Workdir

    if not FLAGS.weights or not FLAGS.workdir:
        raise ConfigError("mode=import needs --weights=FILE, --experiment=NAME and --workdir=DIR")
    without("train.seeds", "mode=import: published weights are one network")
    published = find_weights()
    data = import_weights(experiment_for(published), Workdir(FLAGS.workdir), published).data
    shown = ("image_size", "resize", "resize_short", "interpolation", "channel_order", "mean", "std")
    said = [name for name in shown if f"data.{name}" in flag_changes()]
    print(f"preprocessing: {', '.join(f'{name}={short(getattr(data, name))}' for name in shown)}")
    print(f"of these as you said, the others as the weights need them: {', '.join(said) or 'none'}")
    print(f"{FLAGS.weights} is now the run in {FLAGS.workdir}: evaluate, predict or visualize it")


def find_weights() -> Any:
    """What --weights names: a network of the hub or of a folder laid out as there, or the path of a file, of a URL in the cache."""
    from cnnjax.weights import hub

    if config.is_url(FLAGS.weights):
        from cnnjax.remote import fetch

        return str(fetch.file(FLAGS.weights))
    return hub.find(FLAGS.weights) or FLAGS.weights


def experiment_for(weights: Any) -> Experiment:
    """The experiment of the flags. Without --experiment, for a network that says itself what it is, one for ImageNet."""
    from cnnjax.weights.hub import Published

    if not isinstance(weights, Published):
        return chosen_experiment(None)
    experiment, said = chosen_experiment(None, default="imagenet_resnet50"), flag_changes()
    if FLAGS.experiment is None and "model.name" not in said:
        named = {"name": f"imported_{weights.model}", "model.name": weights.model}
        experiment = config.replace(experiment, named)
    if experiment.model.name != weights.model:
        raise ConfigError(
            f"{weights.name} holds {weights.model}, the experiment asks for model.name={experiment.model.name}"
        )
    options = {} if "model.options" in said else {"model.options": weights.options}
    return config.replace(experiment, options)


def import_weights(experiment: Experiment, workdir: Any, weights: Any) -> Experiment:
    from cnnjax.data import sources
    from cnnjax.models import create_model
    from cnnjax.runs import transfer
    from cnnjax.weights.hub import Published

    if FLAGS.classes:
        classes = transfer.read_classes(FLAGS.classes)
    elif isinstance(weights, Published):
        names = sources.class_names(experiment.data, FLAGS.data_dir, weights.num_classes)
        classes = weights.classes or names
    else:
        model = create_model(experiment.model.name, options=experiment.model.options)
        count = getattr(model, "num_classes", model.num_outputs)
        classes = sources.class_names(experiment.data, FLAGS.data_dir, count)
    if not isinstance(weights, Published) and not Path(weights).is_file():
        raise ConfigError(f"{weights}: no such file of weights")
    return transfer.import_weights(experiment, weights, workdir, classes, flag_changes())


def mode_export_weights() -> None:
    from cnnjax.runs import publish, run, transfer
    from cnnjax.weights.files import FORMATS

    if not FLAGS.output:
        raise ConfigError(
            "mode=export_weights needs --output=FILE.safetensors, of a darknet model FILE.weights, or --output=FOLDER"
        )
    output, restored = Path(FLAGS.output), run.restore(existing_workdir(), FLAGS.checkpoint)
    if output.suffix in (".safetensors", ".weights"):
        transfer.export_weights(restored, output)
        form = "darknet's form" if output.suffix == ".weights" else "torchvision's names"
        print(f"weights with {form}: {output}")
        return
    if output.suffix in FORMATS:
        raise ConfigError(f"--output={output}: weights are written as .safetensors, .weights or a folder")
    publish.publish(restored, output)
    print(f"weights, config.json and a model card, as the Hugging Face hub has them: {output}")


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


def mode_sweep() -> None:
    from cnnjax.sweeps import space, sweep

    one = chosen_sweep(space.parse(FLAGS.sweep) if FLAGS.sweep else None)
    sweep.run_sweep(
        one, FLAGS["sweep.jobs"].value or 0, FLAGS.yes, command_line(), FLAGS["sweep.together"].value or 0
    )
    print(f"page: {one.path / 'sweep.html'}")


def mode_search() -> None:
    from cnnjax.sweeps import search, space

    one = search.Search(
        chosen_sweep(space.parse(FLAGS.sweep) if FLAGS.sweep else None),
        FLAGS["search.trials"].value or 1,
        FLAGS["search.storage"].value or "",
        FLAGS["search.study"].value or "",
        bool(FLAGS["search.prune"].value),
        FLAGS["search.silence"].value or 1.0,
    )
    search.run_search(one, FLAGS["sweep.jobs"].value or 0, FLAGS.yes, command_line())
    print(f"page: {one.sweep.path / 'search.html'}")


def chosen_sweep(varied: Any) -> Any:
    """The sweep of the flags, or what a search varies; without --sweep, that in --workdir."""
    from cnnjax.sweeps import sweep

    if varied is None:
        found = sweep.read_sweep(existing_workdir().path, FLAGS.data_dir, FLAGS.mode)
        only_changes()
        for name in ("experiment", "sweep.draws"):
            without(name, f"the {FLAGS.mode} that goes on in --workdir")
        return found
    changes = flag_changes()
    for name in varied.names:
        if name in changes:
            raise ConfigError(f"--{name} has no effect beside --sweep={name}=...")
    experiment = chosen_experiment(None)
    path = Path(FLAGS.workdir or Path("runs") / f"{FLAGS.mode}_{experiment.name}")
    return sweep.Sweep(path, experiment, varied, FLAGS["sweep.draws"].value or 0, FLAGS.data_dir)
