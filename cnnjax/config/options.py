"""A field of an experiment: its default, its help text, its limits, and where it has an effect."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

ON = ()  # of `needs`: any value but none, zero or false
CFG_FILE = "darknet:"  # begins the name of a model that is described by the file after it
OWN = "own:"  # begins names of what a Python program gives itself: data, a model, a task
Needs = Mapping[str, tuple[Any, ...]]


def is_on(value: Any) -> bool:
    """Whether an option is other than none, zero or false. The value of several runs in one program is no number before
    that runs, and is on: runs in which an option is off are not among those in which it is on (sweeps.together)."""
    return bool(value) if isinstance(value, int | float | str | tuple) else True


def option(
    default: Any, help: str, choices: tuple[str, ...] = (), above: float = -math.inf,
    most: float = math.inf, below: float = math.inf, needs: Needs | None = None,
) -> Any:  # fmt: skip
    """A field with its help text: what `--helpshort` shows. Numbers must lie `above`, `below`, or be at most `most`.

    `needs`: where the field has an effect. By the name of another field, the values that this must have; ON for any
    but none, zero or false. "targets" are those that the task learns, "data" the kind of the data:
    a row of data.sources.SOURCES, or tensorflow-datasets.
    """
    limits = {"choices": choices, "above": above, "most": most, "below": below, "needs": needs or {}}
    return dataclasses.field(default=default, metadata={"help": help, **limits})
