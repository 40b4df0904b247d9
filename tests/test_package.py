"""What `pip install .` puts into an environment: one package, with the experiments in it, and one command."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    pytest.importorskip("setuptools", reason="building the package needs setuptools")
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "cnnjax"
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", folder, source], check=True)
    return folder


@pytest.mark.slow
def test_an_installation_is_one_package_and_one_command(installed):
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"cnnjax", "bin"}
    assert (installed / "cnnjax" / "py.typed").exists()
    program = "import cnnjax; print(cnnjax.__file__, cnnjax.experiments.__name__, cnnjax.experiments.digits_lenet().name)"
    for command in ([sys.executable, "-c", program], [installed / "bin" / "cnnjax", "--list"]):
        found = subprocess.run(
            command, cwd=installed.parent, env={"PYTHONPATH": str(installed)}, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr
        assert "digits_lenet" in found.stdout
        if "-c" in command:
            assert found.stdout.split()[:2] == [
                str(installed / "cnnjax" / "__init__.py"),
                "cnnjax.experiments",
            ]
