"""A trained network as a folder of the layout that the Hugging Face hub and timm know: model.safetensors, config.json and
README.md, the model card with the numbers that were measured."""

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
    metrics, experiment = run.metrics, run.experiment
    head: dict[str, Any] = {
        "library_name": "timm" if of_timm else "cnnjax",
        "tags": ["image-classification", "cnnjax", *(["timm"] if of_timm else [])],
    }
    if metrics:
        measured = [
            {"type": metric, "value": value} for metric, value in metrics.items() if isinstance(value, float)
        ]
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": experiment.data.name, "type": experiment.data.name},
            "metrics": measured,
        }
        head["model-index"] = [{"name": name, "results": [result]}]
    known, prepared = _measured(run, metrics), about["pretrained_cfg"]
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

{known}

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


def _measured(run: Run, metrics: Mapping[str, float]) -> str:
    """A table of the last evaluation, or that there was none."""
    if not metrics:
        return "Nothing was measured by this run."
    rows = [f"| {name} | {format_metric(name, value)} |" for name, value in metrics.items()]
    split = "the split held out for validation" if run.experiment.data.validation else "the test split"
    seeds = run.experiment.train.seeds
    of = f", means over {seeds} seeds; the weights are those of the first" if seeds > 1 else ""
    return "\n".join(
        [f"On {split} in training, at or before this step{of}:", "", "| metric | value |", "|---|---|", *rows]
    )
