"""Trains, evaluates and applies convolutional networks: flags in, a run in a folder out.

  python launch.py                                    trains on embedded data, with pictures
  python launch.py --list                             shows every experiment
  python launch.py --experiment=NAME --workdir=DIR    trains, or goes on with what is in DIR
  python launch.py --mode=evaluate --workdir=DIR      evaluates what was trained there; tables and a page in DIR/evaluation
  python launch.py --mode=evaluate --workdir=DIR --data.name=folder:PHOTOS --evaluate.augment=ten_crop
  python launch.py --mode=evaluate --workdir=A,B,C    members and their committee on the same examples; of a sweep all
                                                      of its runs
  python launch.py --mode=compare --workdirs=A,B,C    any number of runs in one table and one figure
  python launch.py --mode=predict --workdir=DIR --inputs=photo.png,folder/
  python launch.py --mode=predict --workdir=DIR --inputs=clip.mp4     or camera:0: annotated.mp4 and JSON lines
  python launch.py --mode=predict --workdir=DIR --inputs=faces/ --predict.warp=photo.png   or mean: faces warped, and gifs
  python launch.py --mode=visualize --workdir=DIR     pictures of what the network learned, gallery.html
  python launch.py --mode=visualize --experiment=NAME --weights=FILE --inputs=FOLDER    of published weights
  python launch.py --mode=layers --workdir=DIR        names and shapes of its layers
  python launch.py --mode=slide                       a classifier slides over a large image in one pass
  python launch.py --mode=summarize --experiment=NAME per-layer shapes, parameters, memory, multiply-adds
  python launch.py --mode=summarize --experiment=NAME --compiler --device=h200   a training step compiled for one
  python launch.py --mode=models                      every model: parameters, multiply-adds, input, published weights
  python launch.py --mode=preview --experiment=NAME   the first training batch after augmentation; into --workdir, if given
  python launch.py --mode=prepare --data.name=folder:DIR --output=NEW   array_record that can be streamed
  python launch.py --mode=import --experiment=NAME --weights=FILE --workdir=DIR     published weights as a run
  python launch.py --mode=import --weights=hf:timm/resnet50.a1_in1k --workdir=DIR   of the Hugging Face hub
  python launch.py --mode=export_weights --workdir=DIR --output=FILE.safetensors   or a FOLDER as the hub has them
  python launch.py --mode=export --workdir=DIR        one file, pixels to answer, that needs only JAX
  python launch.py --mode=sweep --data.validation=0.1 --sweep=optimizer.learning_rate=0.001,0.003 --sweep=train.seed=0:3
  python launch.py --experiment=NAME --launcher=slurm --launcher.nodes=2 --dry_run   the same as a job of a cluster
  python launch.py --mode=search --data.validation=0.1 --sweep=optimizer.learning_rate=1e-4..1e-1:log --search.trials=30
  python launch.py --mode=benchmark --experiment=NAME records its result in RESULTS.md
  python launch.py --mode=benchmark --workdir=A,B,C   records runs that are there, or a sweep's
  python launch.py --mode=benchmark --benchmark.name=cpu   speed against peers, recorded too; --list shows the names

Every field of an experiment is a flag: see --helpshort. Where cnnjax is installed, `cnnjax` does what launch.py does.
"""

import contextlib
import errno
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.modes import MODES, run_mode
from cnnjax.runtime import hush, platform, processes, signals, slurm

platform.configure()  # before anything imports jax

FLAGS = flags.FLAGS
FLAGS.set_gnu_getopt(True)  # flags may stand behind the files that a shell expanded
flags.DEFINE_string(
    "experiment",
    None,
    "Name of an experiment; --list shows them. Default: that of --workdir, else digits_lenet.",
)
flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run. Default: runs/<experiment>. mode=evaluate, predict and export: of several, separated by commas, their committee.",
)
flags.DEFINE_list("workdirs", [], "mode=compare: folders of runs, separated by commas.")
flags.DEFINE_string(
    "mirror",
    None,
    "mode=train: URL, such as gs://BUCKET/RUN or s3://BUCKET/RUN, of a copy of --workdir, pushed after each checkpoint and at the end. An empty --workdir goes on from it; other modes take it as --workdir.",
)
flags.DEFINE_list(
    "votes", [], "Of several --workdir: how much each network counts, such as 2,1,1; default: all the same."
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Where datasets are, a folder or a URL. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.",
)
flags.DEFINE_multi_string(
    "inputs",
    [],
    "mode=predict and visualize: image files and folders, separated by commas or spaces, as a shell expands photos/*.png; mode=predict also one video, or camera:0.",
)
flags.DEFINE_string(
    "output",
    None,
    "mode=predict, evaluate, visualize, slide and compare: folder for the results, default <workdir>/predictions, evaluation, gallery or slide, or comparison; other modes: the file to write.",
)
flags.DEFINE_string(
    "predict.warp",
    None,
    "mode=predict with points: also warp the face on each photograph to the points of the one on this photograph, or to the mean shape of all --inputs (mean): a picture and a gif of each in OUTPUT/warped.",
)
flags.DEFINE_string(
    "weights",
    None,
    "mode=import and visualize: published weights: a file (.safetensors, .pth, .th, .h5, .npz, .pb, .weights), hf:OWNER/NAME[@REVISION] of the Hugging Face hub, a folder laid out as there, or a URL.",
)
flags.DEFINE_string(
    "classes",
    None,
    "mode=import and visualize: file with a class name per line. Default: those of the dataset.",
)
flags.DEFINE_string(
    "checkpoint",
    "",
    "Which checkpoint of --workdir to use: last, best or a step. Default: last, with train.patience best.",
)
flags.DEFINE_string(
    "benchmark.output", None, "mode=benchmark: file of records. Default: results.jsonl of the project."
)
flags.DEFINE_list(
    "benchmark.name",
    [],
    "mode=benchmark: measurements of speed or reliability, by name or group (--mode=benchmark --list); else the experiment's result.",
)
flags.DEFINE_integer(
    "benchmark.repetitions",
    10,
    "Turns of each contestant, A B A B. Of faults: kills; of soak: minutes; of streaming: gigabytes; of prediction: hundreds of photographs.",
    lower_bound=1,
)
flags.DEFINE_integer("benchmark.seeds", 50, "Runs of the benchmarks that measure whole runs.", lower_bound=1)
flags.DEFINE_string(
    "benchmark.airbench", None, "A peer: airbench94_muon.py of KellerJordan/cifar10-airbench."
)
flags.DEFINE_string("benchmark.hiverge", None, "A peer: cifar10_speedrun.py of hiverge/cifar10-speedrun.")
flags.DEFINE_string(
    "benchmark.torchvision",
    None,
    "A peer, of decoding and two_stage: a Python that has torch and torchvision.",
)
flags.DEFINE_bool("benchmark.tiny", False, "Try what is for accelerators in a tiny form, also on a CPU.")
flags.DEFINE_bool(
    "benchmark.resume", False, "Leave out what the file of records has already from this commit and device."
)
flags.DEFINE_float("benchmark.minutes", 0.0, "Begin nothing more after so long; 0: no limit.", lower_bound=0)
flags.DEFINE_string(
    "benchmark.faces",
    None,
    "Of faces: a folder with mtcnn/ (pnet.pt, rnet.pt, onet.pt, multiface.jpg) and face_api/.",
)
flags.DEFINE_string(
    "benchmark.traditional", None, "Of faces: a run of faces_shape_model with a cascade, beside the deep way."
)
flags.DEFINE_string("benchmark.note", None, "mode=benchmark: what a reader of the result must know.")
flags.DEFINE_bool(
    "compiler", False, "mode=summarize: also compile the model and show what the compiler counts."
)
flags.DEFINE_string(
    "device",
    None,
    "With --compiler: what a training step would need on such a device, which need not be here: h200, h200x8, v5e:2x2; cpu: which convolutions of it this CPU computes with oneDNN, and which with XLA.",
)
flags.DEFINE_multi_string(
    "sweep",
    [],
    "mode=sweep and search, once for each setting: optimizer.learning_rate=0.05,0.1; train.seed=0:5; 1e-4..1:log, in a sweep with --sweep.draws; settings that change together are joined by ;. Without it the one in --workdir goes on.",
)
flags.DEFINE_integer(
    "sweep.jobs", 1, "Runs at a time, as processes; 0: only the page, of what is there.", lower_bound=0
)
flags.DEFINE_integer(
    "sweep.draws",
    0,
    "Random draws from the ranges of --sweep, each with all values of the others.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "sweep.together",
    0,
    "At most so many runs in one program: of a classifier, if they differ only in seeds and in numbers such as rates, decay, momentum, smoothing and strengths of augmentation.",
    lower_bound=0,
)
flags.DEFINE_bool("yes", False, "mode=sweep and search: more than a thousand runs are meant.")
flags.DEFINE_integer("search.trials", 30, "Settings that Optuna tries, all workers together.", lower_bound=1)
flags.DEFINE_string(
    "search.storage",
    None,
    "Where the workers of a search meet: the URL of a database, such as postgresql://USER@HOST/NAME, or journal:FILE on a shared disk. Default: search.db in --workdir.",
)
flags.DEFINE_string("search.study", None, "Name of the study there. Default: that of the experiment.")
flags.DEFINE_bool(
    "search.prune", True, "End runs that are below the median of the others at the same evaluation."
)
flags.DEFINE_float(
    "search.silence", 60.0, "Seconds without a sign of its worker after which another takes a trial up.",
    lower_bound=1.0,
)  # fmt: skip
flags.DEFINE_bool(
    "distributed",
    False,
    "mode=train and benchmark: join the processes that Slurm, Kubernetes or the TPU started.",
)
flags.DEFINE_string(
    "coordinator", None, "Instead of --distributed: HOST:PORT of process 0, the same for all processes."
)
flags.DEFINE_integer(
    "num_processes", None, "With --coordinator: how many processes there are; Slurm tells it."
)
flags.DEFINE_integer(
    "process_id", None, "With --coordinator: the number of this process, from 0; Slurm tells it."
)
flags.DEFINE_enum(
    "launcher",
    None,
    ["slurm", "jobset"],
    "mode=train and sweep: instead of training here, write a script of Slurm and submit it, or write a JobSet of Kubernetes (train only). Launched again, a run goes on.",
)
flags.DEFINE_bool("dry_run", False, "With --launcher: show what would be written, and do nothing.")
flags.DEFINE_integer("launcher.nodes", 1, "Machines for each run.", lower_bound=1)
flags.DEFINE_integer("launcher.gpus", 0, "GPUs of each machine.", lower_bound=0)
flags.DEFINE_integer("launcher.cpus", 0, "Cores of each machine, which decode images.", lower_bound=0)
flags.DEFINE_string(
    "launcher.time", "", "launcher=slurm: limit of time, such as 4:00:00; a run saves before."
)
flags.DEFINE_string("launcher.partition", "", "launcher=slurm: where the jobs go.")
flags.DEFINE_string("launcher.account", "", "launcher=slurm: who pays.")
flags.DEFINE_multi_string(
    "launcher.line", [], "launcher=slurm, once for each: other options of sbatch, such as --mem=64G."
)
flags.DEFINE_string("launcher.image", "", "launcher=jobset: the container, which has cnnjax.")
flags.DEFINE_string("launcher.volume", "", "launcher=jobset: CLAIM:/PATH, the volume that holds --workdir.")
flags.DEFINE_string("launcher.tpu", "", "launcher=jobset: a slice of TPUs, such as v5e:4x4.")
flags.DEFINE_bool(
    "deterministic",
    False,
    "On GPUs: only operations that give the same bits each time; slower. CPUs and TPUs always do.",
)
flags.DEFINE_bool("list", False, "List all experiments, or with mode=benchmark all benchmarks, and exit.")

# What the system refuses, in its own words: full disks and quotas, missing permissions, paths that lead nowhere.
DENIED = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM,
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip

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


flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
define_flags(Experiment())


def join_processes() -> None:
    """With --distributed or --coordinator: joins the other processes of this run."""
    given = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if FLAGS.launcher:  # others will run
        return
    if not FLAGS.distributed and given == (None, None, None):
        if FLAGS.mode == "train" and (count := slurm.num_tasks()) > 1:
            logging.warning(
                "this is one of %d tasks of Slurm, and trains alone: did you mean --distributed?", count
            )
        return
    if FLAGS.mode not in ("train", "benchmark"):
        raise ConfigError(f"mode={FLAGS.mode} runs in one process: --distributed is for train and benchmark")
    processes.start(*given)


def _leaving_on_signal() -> contextlib.AbstractContextManager[None]:
    if FLAGS.mode != "train":
        return contextlib.nullcontext()
    return signals.leave_on_signal("error: stopped by a signal; launch again to go on")


def parse_flags(argv: list[str]) -> list[str]:
    """What is left of the command line; a wrong flag ends the program with one line."""
    try:
        return FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {one_line(str(error))}")


def one_line(text: str) -> str:
    """Without line breaks and what else moves a terminal's cursor: names in the text are not ours."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def main(argv: list[str]) -> None:
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries tell their life story otherwise
    try:
        if FLAGS["inputs"].present:
            FLAGS["inputs"].value = [*FLAGS.inputs, *argv[1:]]
        elif len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}: flags look like --name=value")
        if FLAGS.deterministic:
            platform.make_deterministic()
        with _leaving_on_signal():
            join_processes()
            run_mode()
            processes.end()
    except ConfigError as error:
        processes.fail(f"error: {one_line(str(error))}", error.status)
    except BrokenPipeError:
        raise  # `program` knows what to do
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if processes.is_loss_of_another(error):
            processes.fail(f"error: {processes.LOST}")
        if isinstance(error, OSError) and error.errno in DENIED:
            name = f": {error.filename}" if error.filename else ""
            processes.fail(f"error: {one_line(os.strerror(error.errno) + name)}")
        processes.crash()
        raise


def program() -> None:
    """The launcher as a process of its own."""
    _be_the_main_module()
    platform.ask_for_huge_pages()
    hush.hush_libraries()
    hush.speak_plainly()
    try:
        try:
            app.run(main, flags_parser=parse_flags)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _be_the_main_module() -> None:
    """Whatever file the process was started from: absl shows the docstring and the flags of that one as help."""
    sys.modules["__main__"].__doc__ = __doc__
    for flag in FLAGS.get_flags_for_module(__name__):
        FLAGS.register_key_flag_for_module(sys.argv[0], flag)


if __name__ == "__main__":
    program()
