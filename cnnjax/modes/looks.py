"""Modes that look at experiments, data and networks."""

from pathlib import Path

from absl import flags

from cnnjax import config
from cnnjax.config import ConfigError
from cnnjax.modes.given import (
    chosen_experiment,
    command_line,
    existing_workdir,
    flag_changes,
    only_changes,
    optional_workdir,
    without,
)
from cnnjax.modes.runs import find_weights, import_weights

FLAGS = flags.FLAGS


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
    """What a training step of the experiment needs on --device; on this CPU, whose convolutions it has."""
    from cnnjax.runtime import compile_for

    here = FLAGS.device == "cpu"
    if not here:
        compile_for.start()
    from cnnjax.inspect import step_costs

    target = None if here else compile_for.find(FLAGS.device)
    training = step_costs.describe_training(chosen_experiment(optional_workdir()), FLAGS.data_dir)
    print(
        step_costs.compile_training(training, target)
        if target
        else step_costs.describe_convolutions(training)
    )


def mode_models() -> None:
    from cnnjax.inspect import models
    from cnnjax.runs.evaluated import as_csv
    from cnnjax.runs.workdir import write_atomically

    table = models.all_models()
    print(models.text_table(table))
    print("multiply-adds are of one image; --model.name=darknet:FILE.cfg is the network of such a file")
    if FLAGS.output:
        try:
            write_atomically(Path(FLAGS.output), as_csv(table))
        except OSError as error:
            raise ConfigError(f"{FLAGS.output} cannot be written: {error.strerror}") from error


def mode_compare() -> None:
    from cnnjax.runs import compare
    from cnnjax.runs.evaluated import cells

    folder = Path(FLAGS.output or "comparison")
    found = compare.write(compare.read_all(FLAGS.workdirs), folder, command_line())
    rows = [list(found.head), *cells(found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"page: {folder / 'comparison.html'}, beside it comparison.csv, curves.png")


def mode_preview() -> None:
    from cnnjax.inspect import preview

    workdir = optional_workdir()
    experiment = chosen_experiment(workdir)
    path = Path(FLAGS.output or f"preview_{experiment.name}.png")
    if workdir is not None and not FLAGS.output:
        path = workdir.path / "preview.png"
        workdir.path.mkdir(parents=True, exist_ok=True)
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
            import_weights(experiment, workdir, find_weights())
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
