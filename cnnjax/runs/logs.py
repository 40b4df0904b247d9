"""What a run says while it runs: metrics.jsonl, TensorBoard events, and a progress bar or plain lines."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cnnjax.runs.trackers import Told
from cnnjax.training.evaluate import Evaluation


class MetricsLog:
    """Appends one JSON object per line, flushed; times are the only values that differ between equal runs.

    The trackers `told` hear the same.
    """

    def __init__(self, path: Path, tensorboard: bool = False, told: Told | None = None):
        self._file = open(path, "a")  # noqa: SIM115 (open as long as the run)
        self._events, self._told = None, told or Told()
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(path.parent / "tensorboard"))

    def write(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
        self._file.flush()
        self._told.write(step, split, metrics)
        if self._events:
            for name, value in metrics.items():
                if isinstance(value, float):
                    self._events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        if self._events:
            self._events.close()


class Progress:
    """A bar on a terminal; elsewhere a plain line at most every few seconds; `quiet`: lines only."""

    def __init__(
        self,
        total: int,
        start: int,
        unit: str = "step",
        seconds_between_lines: float = 5.0,
        quiet: bool = False,
    ):
        hidden = quiet or not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, unit=unit, disable=hidden, leave=False)
        self._between = seconds_between_lines
        self._last_line = time.monotonic()
        self._started = (time.monotonic(), start)

    def update(self, step: int, **values: float) -> None:
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._bar.set_postfix_str(text)
        self._bar.update(step - self._bar.n) if not self._bar.disable else self._line(step, text)

    def say(self, text: str) -> None:
        """A line that stays."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self._bar.close()

    def _line(self, step: int, text: str) -> None:
        now = time.monotonic()
        if now - self._last_line < self._between:
            return
        self._last_line = now
        began, first = self._started
        left = (now - began) / max(1, step - first) * (self._bar.total - step)
        self.say(f"step {step:,} of {self._bar.total:,}  {text}  about {left:.0f} s left")


def describe_metrics(evaluation: Evaluation) -> str:
    """One line: each metric, followed by its other columns where there are several seeds."""
    table = evaluation.table
    parts = []
    for name in evaluation.mean:
        others = [f"{column} {format_metric(name, table[column][name])}" for column in list(table)[1:]]
        text = f"{name} {format_metric(name, evaluation.mean[name])}"
        parts.append(f"{text} ({', '.join(others)})" if others else text)
    return "  ".join(parts)


def format_metric(name: str, value: float) -> str:
    """Shares in percent; losses and numbers of collisions, means over the images, as they are; counts as whole numbers."""
    if value > 1 and value == round(value) and "loss" not in name:
        return f"{value:,.0f}"
    share = "loss" not in name and name != "collisions" and 0 <= value <= 1
    return f"{100 * value:.2f} %" if share else f"{value:.4f}"
