"""README, docs/ and the docstrings of experiments: what is typed there is what the launcher takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl.testing import flagsaver

import launch as launcher
from cnnjax import benchmarks, modes
from cnnjax.modes.given import chosen_experiment
from experiments import EXPERIMENTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
_COMMAND = re.compile(r"\bpython launch\.py((?:[^\n`#&|;\\]|\\\n)*)")
_FLAG = re.compile(r"(?<![\w=-])--([a-z]\w*(?:\.\w+)*)(?:=([\w,.]+))?")
OTHERS = {
    "help",
    "helpshort",
    "strict",
    "user",
    "gres",
    "nodes",
    "ntasks",
    "requeue",
    "signal",
}  # flags of other programs


def commands() -> Iterator[tuple[str, str]]:
    """Where a command stands, and its arguments."""
    texts = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
    texts |= {f"experiments.{name}": function.__doc__ or "" for name, function in EXPERIMENTS.items()}
    texts["--help"] = launcher.__doc__ or ""
    for where, text in texts.items():
        for found in _COMMAND.finditer(text):
            # what follows is explained
            arguments = re.split(r" {3,}| \.\.\.", found[1].replace("\\\n", " "))[0]
            if not {"--helpshort", "--experiment=NAME"} & set(arguments.split()):
                yield where, arguments.strip()


@pytest.mark.parametrize("where, arguments", sorted(set(commands())))
def test_a_command_has_flags_that_its_mode_reads_and_names_that_there_are(where, arguments):
    with flagsaver.flagsaver():
        launcher.parse_flags(["launch.py", *shlex.split(arguments)])
        modes.check_flags()
        flags = launcher.FLAGS
        if "experiment" in modes.MODES[flags.mode].flags and not flags.workdir:
            chosen_experiment(None)
        benchmarks.chosen(flags["benchmark.name"].value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_modes_and_experiments_that_a_page_names_are_there(page):
    text = page.read_text()
    if page.name == "coming-from-pytorch.md":  # in whose tables others stand first
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)
    text = re.sub(r"\b(sbatch|srun|mpirun) .*?(?=launch\.py|`|$)", "", text, flags=re.MULTILINE)
    for name, value in _FLAG.findall(text):
        assert {name, name.removeprefix("no")} & {*launcher.FLAGS, *OTHERS}, name
        if name == "mode" and value:
            assert value in modes.MODES
        if name == "experiment" and value:
            assert value.isupper() or value in EXPERIMENTS, value
