"""What is set before JAX starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import os
from cnnjax.runtime import platform
print("started")
platform.ask_for_huge_pages()
print(os.environ["GLIBC_TUNABLES"])
"""


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(),
    reason="this system gives huge pages always or never",
)
@pytest.mark.parametrize(
    "before, printed",
    [
        (None, ["started", "started", "glibc.malloc.hugetlb=1"]),
        ("glibc.malloc.check=0", ["started", "glibc.malloc.check=0"]),
    ],
)
def test_a_program_starts_anew_once_unless_the_user_tunes_memory(before, printed):
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if before:
        env["GLIBC_TUNABLES"] = before
    found = subprocess.run(
        [sys.executable, "-u", "-c", PROGRAM],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == printed


def test_a_closed_pipe_ends_the_listing_quietly():
    listing = f"{sys.executable} launch.py --list | head -1"
    found = subprocess.run(listing, shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("digits_lenet ") and not found.stderr
