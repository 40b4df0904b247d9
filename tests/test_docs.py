"""README, docs/ and the site that is made of them: links lead somewhere, the tree is true, the build has no warning."""

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_tree_in_the_readme_is_that_of_the_repository():
    (block,) = (
        text for text in (ROOT / "README.md").read_text().split("```") if "cnnjax/__init__.py" in text
    )
    named = set()
    for line in block.strip().splitlines():
        assert (ROOT / line.split()[0].rstrip(",")).exists(), line
        left = re.split(r" {2,}", line)[0]  # "cnnjax/ops/, models/": the second lies beside the first
        names = left.split(", ")
        parent = Path(names[0]).parent
        named |= {names[0].rstrip("/"), *(str(parent / name.rstrip("/")) for name in names[1:])}
    packages = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("cnnjax/*/__init__.py")}
    modules = {f"cnnjax/{path.name}" for path in ROOT.glob("cnnjax/*.py")} - {"cnnjax/__main__.py"}
    assert packages | modules <= named, packages | modules - named


def test_drawings_are_those_that_the_script_makes():
    drawn = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
    for name, draw in drawn["PICTURES"].items():
        assert (drawn["FOLDER"] / name).read_text() == draw(), f"{name}: python docs/pictures.py"


@pytest.mark.full
def test_the_site_is_built_without_a_warning(tmp_path):
    for name in ("mkdocs", "mkdocstrings", "ruff"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is missing: pip install -r docs/requirements.txt")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0 and not built.stderr.strip(), built.stderr
    face = (tmp_path / "site" / "packages" / "cnnjax.html").read_text()
    assert (
        "load_run" in face
        and "--optimizer.learning_rate" in (tmp_path / "site" / "settings.html").read_text()
    )
    fields = (tmp_path / "site" / "packages" / "cnnjax.detection.html").read_text()
    assert "P of the object times P of its class" in fields  # a comment behind a field
    shown = {page.stem for page in (tmp_path / "site" / "tutorials").iterdir()}
    assert {page.stem for page in ROOT.glob("docs/tutorials/*")} <= shown
