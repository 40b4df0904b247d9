"""The default gallery of a trained classifier: what it learned, what it looks at, what it would like to see."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from cnnjax.config import PAGE_NAMES, ConfigError, Visualize
from cnnjax.visualization import explanation_pages, picture_pages
from cnnjax.visualization.embeddings import features, write_projector
from cnnjax.visualization.gallery import write_gallery
from cnnjax.visualization.network import Network
from cnnjax.visualization.pictures import Picture
from cnnjax.visualization.subject import Subject

# In the order of the gallery.
PAGES: dict[str, Callable[[Subject], list[Picture]]] = {
    "predictions": explanation_pages.predictions,
    "filters": picture_pages.filters,
    "maps": picture_pages.maps,
    "channels": picture_pages.channels,
    "objectives": picture_pages.objectives,
    "classes": picture_pages.classes,
    "deepdream": picture_pages.deepdreams,
    "toward": picture_pages.toward,
    "attribution": explanation_pages.attribution,
    "deconvnet": explanation_pages.deconvnet,
    "embeddings": explanation_pages.embeddings,
}


def visualize(
    network: Network,
    images: np.ndarray,
    labels: np.ndarray,
    options: Visualize,
    folder: Path | str,
    command: str = "",
) -> list[Picture]:
    """Makes the pictures asked for and writes them to a folder, with gallery.html. Returns them.

    images: uint8 [N, H, W, C] to look at, such as a test split. labels: [N] integers.
    command: what started the run; with its options it is shown under each picture.

    Pages that a network cannot have, such as a deconvnet without ReLUs, are left out with a line in the log, unless
    they were asked for by name. Raises ConfigError for what the network does not have or the folder cannot take.
    """
    for page in options.pages:
        if page not in PAGES:
            raise ConfigError(f"unknown page {page!r}: choose of {', '.join(PAGE_NAMES)}")
    for address in options.layer:
        network.address(address)
    if len(images) == 0:
        raise ConfigError("there are no images to look at")
    subject = Subject(network, np.asarray(images), np.asarray(labels), options, command)
    pictures: list[Picture] = []
    for page in options.pages or PAGES:
        try:
            pictures += PAGES[page](subject)
        except ConfigError as error:
            if page in options.pages:
                raise
            logging.info("no %s: %s", page, error)
    write_gallery(folder, pictures, f"{type(network.model).__name__}: what it sees")
    if not options.pages or "embeddings" in options.pages:
        name = subject.hidden_layers(1000)[-1]
        some = slice(explanation_pages.EMBEDDED)
        vectors = features(network, subject.images[some], name)
        names = [network.class_name(int(label)) for label in subject.labels[some]]
        write_projector(Path(folder) / "projector", vectors, subject.images[some], names)
    return pictures
