"""A trained network as a folder of the layout that the Hugging Face hub and timm know: model.safetensors, config.json and
README.md, the model card with the numbers that were measured."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cnnjax import config
from cnnjax.config import ConfigError
from cnnjax.network import Preprocessing
from cnnjax.runs.logs import format_metric
from cnnjax.runs.run import Run
from cnnjax.runtime import platform
from cnnjax.weights import hub
from cnnjax.weights.convert import save_torchvision

_SHOWN = 20  # names of classes on the card


@dataclasses.dataclass(frozen=True)
class Measured:
    """Numbers of one checkpoint: by name, of which data, and how."""

    metrics: Mapping[str, float]
    data: str
    how: str


def publish(run: Run, folder: Path) -> None:
    """Writes the first seed's network as a new folder.

    Raises ConfigError if the folder is there, if torch knows no such model, if its images are prepared in a way that
    config.json cannot say, and if it does not classify.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists already: give a new folder")
    if run.experiment.task != "classification":
        raise ConfigError(
            f"a folder with {hub.CONFIG} is for task=classification, not {run.experiment.task}: export to FILE.safetensors"
        )
    about = description(run)
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_torchvision(partial / hub.WEIGHTS, run.experiment.model.name, run.first.variables)
        (partial / hub.CONFIG).write_text(json.dumps(about, indent=2) + "\n")
        (partial / "README.md").write_text(card(run, about, folder.resolve().name))
        partial.rename(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def description(run: Run) -> dict[str, Any]:
    """What config.json says, in the words of timm where it knows the network."""
    model, options = run.experiment.model.name, run.experiment.model.options
    of_timm = {known: name for name, known in hub.TIMM.items()}
    architecture = of_timm.get((model, options))
    extra: dict[str, Any] = {}
    if architecture is None and options:
        extra["model_options"] = list(options)
    if architecture is not None and run.image_shape[2] != 3:
        extra["model_args"] = {"in_chans": run.image_shape[2]}
    return {
        "architecture": architecture or model,
        "num_classes": len(run.classes),
        "label_names": list(run.classes),
        **extra,
        "pretrained_cfg": {
            "num_classes": len(run.classes),
            **hub.describe(Preprocessing.of(run.experiment.data), run.image_shape),
        },
    }


def card(run: Run, about: Mapping[str, Any], name: str) -> str:
    """README.md: what the network is, how it was measured, and how it is used. Numbers that were not measured are not
    there."""
    of_timm = about["architecture"] in hub.TIMM
    found, experiment = measured(run), run.experiment
    head: dict[str, Any] = {
        "library_name": "timm" if of_timm else "cnnjax",
        "tags": ["image-classification", "cnnjax", *(["timm"] if of_timm else [])],
    }
    if found:
        numbers = [{"type": metric, "value": value} for metric, value in found.metrics.items()]
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": found.data, "type": found.data},
            "metrics": numbers,
        }
        head["model-index"] = [{"name": name, "results": [result]}]
    prepared = about["pretrained_cfg"]
    classes = ", ".join(run.classes[:_SHOWN]) + (", ..." if len(run.classes) > _SHOWN else "")
    timm = f"""
```python
import timm

model = timm.create_model("local-dir:{name}", pretrained=True)  # or hf-hub:OWNER/NAME
```
"""
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# {name}

`{about["architecture"]}` for {len(run.classes)} classes ({classes}), of step {run.step:,} of the experiment `{experiment.name}`
on the data `{experiment.data.name}`.

## Measured

{_table(run, found)}

## Images

Input: {" x ".join(map(str, prepared["input_size"]))} (channels, height, width). Resized ({prepared["interpolation"]}, {prepared["crop_mode"]}, crop_pct {prepared["crop_pct"]:.4g}),
values in [0, 1], minus {prepared["mean"]}, divided by {prepared["std"]}.

## Use

```
python launch.py --mode=import --weights={name} --workdir=DIR
python launch.py --train.init_from={name} --model.name={experiment.model.name} --data.name=folder:PHOTOS --workdir=DIR
```
{timm if of_timm else ""}
Made with {", ".join(f"{package} {version}" for package, version in platform.versions().items())}. The experiment:

```json
{config.to_json(experiment)}
```
"""


def measured(run: Run) -> Measured | None:
    """What mode=evaluate found of this very checkpoint, else the evaluation of its step in training, if there was one."""
    if run.workdir is None:
        return None
    found = _evaluated(run.workdir.path / "evaluation" / "metrics.json")
    if found and found["checkpoint"] == run.step:
        protocol = found["protocol"]
        return Measured(
            found["metrics"]["mean"], str(protocol["data"]), f"by mode=evaluate: {_listed(protocol)}"
        )
    other = ("step", "split", "seconds")
    for line in reversed(run.workdir.read_metrics()):
        if (line["step"], line["split"]) == (run.step, "test"):
            metrics = {name: value for name, value in line.items() if name not in other}
            split = (
                "the split held out for validation" if run.experiment.data.validation else "the test split"
            )
            return Measured(metrics, run.experiment.data.name, f"on {split}, in training")
    return None


def _evaluated(path: Path) -> dict[str, Any] | None:
    """What metrics.json of an evaluation says; None without one that is whole."""
    try:
        found = json.loads(path.read_text())
        return found if {"checkpoint", "protocol"} <= {*found} and "mean" in found["metrics"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _table(run: Run, found: Measured | None) -> str:
    """The numbers, or that there are none."""
    if not found:
        return "Nothing was measured of these weights here."
    rows = [f"| {name} | {format_metric(name, value)} |" for name, value in found.metrics.items()]
    seeds = run.experiment.train.seeds
    of = f" (means over {seeds} seeds; the weights are those of the first)" if seeds > 1 else ""
    return "\n".join([f"On `{found.data}`{of}, {found.how}.", "", "| metric | value |", "|---|---|", *rows])
