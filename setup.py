"""The named experiments stand beside the package in a checkout; installed, they are cnnjax.experiments."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["cnnjax*"]), "cnnjax.experiments"],
    package_dir={"cnnjax.experiments": "experiments"},
)
