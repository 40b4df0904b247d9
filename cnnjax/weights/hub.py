"""Published networks by name, hf:OWNER/NAME or hf:OWNER/NAME@REVISION, from the Hugging Face hub; and folders of the
same layout: model.safetensors and config.json, as timm writes them and --mode=export_weights does."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax.config import ConfigError, did_you_mean
from cnnjax.models import MODELS
from cnnjax.network import Preprocessing
from cnnjax.weights.convert import IMAGENET

SCHEME = "hf:"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")
# What timm calls a network that has another name here, and fields of its module that differ.
TIMM: dict[str, tuple[str, tuple[str, ...]]] = {
    "legacy_seresnet50": ("se_resnet50", ()),
    "legacy_seresnet101": ("se_resnet101", ()),
    "legacy_seresnet152": ("se_resnet152", ()),
    "legacy_senet154": ("senet154", ()),
    "resnet26": ("resnet50", ("stage_sizes=2/2/2/2",)),
} | {
    name: (name, ())
    for name in MODELS
    if re.fullmatch(r"resnet(18|34|50|101|152)|vgg\d\d(_bn)?|densenet(121|161|169|201)", name)
}
_OTHERS = frozenset({"senet154", "darknet53"})  # names that timm has for networks unlike those here
_CROP_SHARE = 0.875  # of timm, where a config says nothing
# Of model_args: what is told elsewhere, or is of training.
_HARMLESS = ("in_chans", "num_classes", "drop_rate", "drop_path_rate")
_SECONDS = 4.0  # that the hub may take to answer


@dataclasses.dataclass(frozen=True)
class Published:
    """A network of the hub, or of a folder laid out like one there."""

    name: str  # as it was asked for; of the hub, with the commit
    weights: Path
    model: str  # of the model table
    options: tuple[str, ...]  # of model.options
    data: Mapping[str, Any]  # preprocessing, as fields of config.Data
    channels: int
    num_classes: int
    classes: tuple[str, ...]  # () where their names are not told


def find(place: str) -> Published | None:
    """What `place` names: hf:OWNER/NAME[@REVISION] or a folder; None if it may be a file of weights.

    Of the hub, files come through huggingface_hub: its cache, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. Raises ConfigError
    if there is nothing, or nothing that is known here, and for schemes other than hf.
    """
    folder = Path(place).expanduser()
    if not place.startswith(SCHEME):
        scheme = re.match(r"[A-Za-z][\w+.-]+:", place)
        if scheme and not folder.exists():
            raise ConfigError(
                f"{place}: weights are a file, a folder, or {SCHEME}OWNER/NAME[@REVISION]; nothing is known of {scheme[0]}"
            )
        if not folder.is_dir():
            return None
        if not (folder / WEIGHTS).is_file():
            raise ConfigError(f"{place}: a folder without {WEIGHTS}: of folders, only safetensors are read")
        return read_folder(place, folder)
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", place.removeprefix(SCHEME))
    if not match:
        raise ConfigError(f"{place}: expected {SCHEME}OWNER/NAME or {SCHEME}OWNER/NAME@REVISION")
    folder = _fetched(place, match[1], match[2])
    return read_folder(f"{SCHEME}{match[1]}@{folder.name[:12]}", folder)


def is_published(place: str) -> bool:
    """Whether `find` would look for more than a file."""
    return place.startswith(SCHEME) or (Path(place).expanduser() / WEIGHTS).is_file()


def read_folder(name: str, folder: Path) -> Published:
    """What the config.json of a folder says of the weights beside it; `name` is what errors call it."""
    try:
        tree = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: its {CONFIG} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: its {CONFIG} is no object")
    prepared = tree.get("pretrained_cfg", tree)  # in files before 2023 all stood at the top
    if not isinstance(prepared, dict):
        raise ConfigError(f"{name}: its pretrained_cfg is no object")
    known = {**prepared, **{key: value for key, value in tree.items() if key != "pretrained_cfg"}}
    try:
        model, options = _model(known)
        channels, data = _preprocessing(known)
        count, classes = _classes(known)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    return Published(name, folder / WEIGHTS, model, options, data, channels, count, classes)


def _model(known: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Name and options of the model; options of runs from here stand in model_options."""
    architecture = known.get("architecture")
    if not isinstance(architecture, str):
        raise ConfigError(f"its {CONFIG} names no architecture, as those of timm do")
    own = {name: (name, ()) for name in MODELS if name not in _OTHERS}
    names = own | TIMM
    if architecture not in names:
        hint = did_you_mean(architecture, names, "not one of the model table")
        raise ConfigError(f"its architecture {architecture!r} is not known here: {hint}")
    arguments = _mapping(known, "model_args").items()
    changed = {k: v for k, v in arguments if k not in _HARMLESS and (k, v) != ("global_pool", "avg")}
    if changed:
        raise ConfigError(
            f"its model_args change the network: {', '.join(f'{k}={v}' for k, v in changed.items())}"
        )
    model, options = names[architecture]
    said = known.get("model_options", [])
    if not isinstance(said, list) or not all(isinstance(text, str) for text in said):
        raise ConfigError("its model_options are no list of texts")
    return model, (*options, *said)


def _preprocessing(known: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Channels, and what timm's transforms for evaluation do, as fields of config.Data."""
    size = known.get("input_size", [3, 224, 224])
    if not (isinstance(size, list) and len(size) == 3 and all(type(n) is int and n > 0 for n in size)):
        raise ConfigError(f"its input_size={size!r} is no [channels, height, width]")
    channels, side, width = size
    if side != width:
        raise ConfigError(f"its input_size={size} is not square")
    share = known.get("crop_pct") or _CROP_SHARE
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"its crop_pct={share!r} is no share")
    how = known.get("crop_mode") or "center"
    if how not in ("center", "squash"):
        raise ConfigError(f"its crop_mode={how!r} is not known here: center or squash")
    interpolation = known.get("interpolation") or "bicubic"
    if interpolation not in INTERPOLATIONS:
        raise ConfigError(f"its interpolation={interpolation!r}: one of {', '.join(INTERPOLATIONS)} is known")
    resize = "crop" if how == "center" else "stretch" if share == 1 else "stretch_crop"
    short = 0 if resize == "stretch" else math.floor(side / share)
    statistics = {name: _numbers(known, name, channels) for name in ("mean", "std")}
    framing = {"image_size": side, "resize": resize, "resize_short": short, "interpolation": interpolation}
    return channels, {**statistics, "channel_order": "rgb", **framing}


def describe(data: Preprocessing, shape: Sequence[int]) -> dict[str, Any]:
    """The preprocessing of a network for images [height, width, channels], as fields of config.json.

    Raises ConfigError if timm's transforms cannot do the same.
    """
    side, channels = shape[0], shape[2]
    wrong = {
        "data.channel_order": data.channel_order != "rgb",
        "data.resize": data.image_size and data.resize not in ("crop", "stretch", "stretch_crop"),
        "data.contrast": data.contrast != "none",
        "data.digit_width": data.digit_width != 0,
        "data.image_size": shape[0] != shape[1],
    }
    for name, unknown in wrong.items():
        if unknown:
            raise ConfigError(
                f"{name}={getattr(data, name.partition('.')[2])} is not known to timm's {CONFIG}: export to FILE.safetensors"
            )
    crops = data.image_size and data.resize in ("crop", "stretch_crop")
    return {
        "input_size": [channels, side, side],
        "fixed_input_size": False,
        "interpolation": data.interpolation,
        "crop_pct": _share(side, data.resize_short or side) if crops else 1.0,
        "crop_mode": "center" if crops and data.resize == "crop" else "squash",
        "mean": list(data.mean),
        "std": list(data.std),
    }


def _share(side: int, short: int) -> float:
    """The crop_pct from which `floor(side / crop_pct)` is `short` again."""
    share = side / short
    return share if math.floor(side / share) == short else math.nextafter(share, 0)


def _classes(known: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """How many, and their names in the order of the outputs; no names where none are told."""
    count = known.get("num_classes", 1000)
    if type(count) is not int or count < 0:
        raise ConfigError(f"its num_classes={count!r} is no number of classes")
    names = known.get("label_names") or known.get("labels") or []
    if isinstance(names, dict):  # from the number of a class to its name
        names = [names.get(str(i)) for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError("its label_names are no list of texts")
    if names and len(names) != count:
        raise ConfigError(f"it has {len(names)} label_names for num_classes={count}")
    return count, tuple(names)


def _mapping(known: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = known.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"its {key} is no object")
    return value


def _numbers(known: Mapping[str, Any], key: str, channels: int) -> tuple[float, ...]:
    values = known.get(key) or list(getattr(IMAGENET, key))
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    if not numbers or len(values) not in (1, channels) or not all(map(math.isfinite, values)):
        raise ConfigError(f"its {key}={values!r} are no numbers for {channels} channels")
    return tuple(map(float, values))


def _fetched(place: str, repository: str, revision: str | None) -> Path:
    """The folder, in the cache of huggingface_hub, of one commit with config.json and model.safetensors."""
    try:
        from huggingface_hub import constants, errors, hf_hub_download
    except ImportError as error:
        raise ConfigError(
            f"{place}: reading the hub needs huggingface_hub: pip install huggingface_hub"
        ) from error
    problem, where = _unreachable(), constants.ENDPOINT

    def fetch(name: str, commit: str | None) -> Path:
        try:
            return Path(
                hf_hub_download(
                    repository, name, revision=commit, local_files_only=bool(problem), etag_timeout=_SECONDS
                )
            )
        except errors.LocalEntryNotFoundError as error:
            reason = problem or _first_line(error)
            raise ConfigError(
                f"{place}: {name} is not in the cache of huggingface_hub, and {where} cannot be asked: {reason}"
            ) from error
        except errors.GatedRepoError as error:
            raise ConfigError(
                f"{place}: {where} asks for leave to read it: accept its terms there, and set HF_TOKEN"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise ConfigError(
                f"{place}: no such repository at {where}, or a private one: set HF_TOKEN"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise ConfigError(f"{place}: the repository has no revision {commit!r}") from error
        except errors.EntryNotFoundError as error:
            raise ConfigError(
                f"{place}: the repository has no {name}; of the hub, safetensors with timm's {CONFIG} are read"
            ) from error
        except Exception as error:
            # of the connection, the disk, a name that cannot be one, ...: no common base
            raise ConfigError(
                f"{place}: {name} cannot be fetched from {where}: {_first_line(error)}"
            ) from error

    folder = fetch(CONFIG, revision).parent
    fetch(WEIGHTS, folder.name)
    return folder


def _unreachable() -> str:
    """Why the hub cannot be asked, or "". Asked for itself: a download would try again and again before it says so."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception as error:
        return _first_line(error)
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
