"""From files and archives of images to a prepared data set (records.py): mode=prepare."""

from pathlib import Path

from cnnjax.config import ConfigError, Data
from cnnjax.data import sources
from cnnjax.data.formats import records


def prepare(data: Data, output: Path, data_dir: str | None = None) -> dict[str, int]:
    """Writes the data set that `data.name` names as array_record to the folder `output`; images per split.

    Splits are those that training on the name itself has. Raises ConfigError for data that are not in files, and as
    their source and `records.write` do.
    """
    named, *others = sources.parse(data.name)
    if others:
        raise ConfigError(
            f"data.name={data.name!r}: prepare each for itself, and train on --data.name=records:A+records:B"
        )
    if named.source.files is None:
        known = [f"{key}:PATH" for key, source in sources.SOURCES.items() if source.files]
        raise ConfigError(
            f"data.name={data.name!r} cannot be prepared: give {', '.join(known)} (of folder: a folder of class "
            "folders, or a zip or tar file of one) or what tensorflow-datasets has prepared"
        )
    with named.source.files(data, named.place(data_dir)) as raw:
        return records.write(output, *raw)
