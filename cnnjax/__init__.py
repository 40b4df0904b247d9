"""cnnjax: convolutional networks in JAX."""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "experiments":
        try:
            return importlib.import_module("cnnjax.experiments")  # as it is installed
        except ModuleNotFoundError:
            return importlib.import_module("experiments")  # a checkout, where they stand beside the package
    raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")
