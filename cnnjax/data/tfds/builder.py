"""tensorflow-datasets without TensorFlow: from a name to its builder, quietly.

The package is imported in functions only: that takes most of a second, which other sources need not pay.
"""

import contextlib
import difflib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from cnnjax.config import ConfigError, is_url

# name, name/config, either with :version. Other forms that tensorflow-datasets knows fetch code or data at once.
_NAME = re.compile(r"(\w+)(?:/([\w.\-]+))?(?::(\d+\.\d+\.\d+))?")


def data_folder(data_dir: str | None, name: str) -> Path:
    """`data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets, which is tensorflow-datasets' own default. Of a URL a
    folder in the cache with the dataset `name`, if there is one, fetched from there."""
    place = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if is_url(place):
        from cnnjax.data.tfds.fetched import local

        return local(place, name)
    return Path(place).expanduser()


def builder(name: str, data_dir: Path, own_names: tuple[str, ...]) -> Any:
    """The tfds.core.DatasetBuilder of a name such as "mnist", "emnist/letters" or "cifar10:3.0.2".

    Args:
      own_names: names that are not of tensorflow-datasets, to be suggested too when a name is unknown.
    Raises:
      ConfigError: no such dataset, configuration or version, or one whose code needs TensorFlow that is not
        prepared in `data_dir`.
    """
    with quiet():
        import tensorflow_datasets as tfds

        if _NAME.fullmatch(name):
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # it prints that TensorFlow is missing
                    return tfds.builder(name, data_dir=str(data_dir))
            except tfds.core.DatasetNotFoundError:
                pass
            except ImportError:  # the code needs TensorFlow; what it prepared elsewhere does not
                return _from_files(name, data_dir)
            except (ValueError, AssertionError) as error:
                raise ConfigError(f"data.name={name!r}: {_reason(name, error)}") from error
        known = [*own_names, *tfds.list_builders(with_community_datasets=False)]
    likely = difflib.get_close_matches(re.split("[/:]", name)[0].lower(), known, n=3)
    if likely:
        raise ConfigError(f"data.name={name!r}: unknown; did you mean {' or '.join(likely)}?")
    raise ConfigError(
        f"data.name={name!r}: unknown; choose {', '.join(own_names)} or a name of tensorflow-datasets"
    )


def _from_files(name: str, data_dir: Path) -> Any:
    """The builder of a dataset from what lies in `data_dir`, without its code."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    dataset, config, version = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]
    try:
        return read_only_builder.builder_from_files(
            dataset, config=config, version=version, data_dir=str(data_dir)
        )
    except tfds.core.DatasetNotFoundError as error:
        raise ConfigError(not_prepared(name, data_dir)) from error


def not_prepared(name: str, data_dir: Path, builder: Any = None) -> str:
    """What is wrong with data.name, and what to type, once, in an environment that has TensorFlow."""
    config = builder and builder.builder_config
    full_name = f"{builder.name}/{config.name}" if config else name
    build = f"tfds build {full_name} --file_format=array_record --data_dir={data_dir}"
    return (
        f"data.name={name!r} is not prepared as array_record in {data_dir}; once, and it may be in an environment "
        f"of its own: pip install tensorflow tensorflow-datasets && {build}"
    )


def _reason(name: str, error: Exception) -> str:
    """Why tensorflow-datasets cannot make a builder of this name, without its own preamble."""
    import tensorflow_datasets as tfds

    dataset, config = re.match(r"(\w+)/?([^:]*)", name).groups()  # type: ignore[union-attr]
    with contextlib.suppress(tfds.core.DatasetNotFoundError):
        configs = tfds.builder_cls(dataset).builder_configs
        if configs and config not in configs:
            return f"choose one of {', '.join(f'{dataset}/{known}' for known in configs)}"
        if config and not configs:
            return f"{dataset} has no configurations"
    return " ".join(str(error).rpartition('}": ')[2].split())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what tensorflow-datasets logs about itself, below a warning, from the user."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(before)
