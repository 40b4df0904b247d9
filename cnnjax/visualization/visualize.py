"""The gallery of a trained classifier: what it learned, what it looks at, what it would like to see."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.config import PAGE_NAMES, ConfigError
from cnnjax.visualization.addresses import class_index, name_of_class, parse_address
from cnnjax.visualization.embeddings import write_projector
from cnnjax.visualization.pages import explanations as explanation_pages
from cnnjax.visualization.pages import pictures as picture_pages
from cnnjax.visualization.pages.gallery import Gallery
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
    "evolution": explanation_pages.evolution,
    "embeddings": explanation_pages.embeddings,
    "states": explanation_pages.states,
}


def visualize(
    subject: Subject, folder: Path | str, say: Callable[[str], None] = lambda line: None
) -> list[Picture]:
    """Makes the pictures asked for and writes them to a folder, with gallery.html. Returns them.

    Each page is written as soon as it is done, and `say` is told how long it took. With the embeddings come
    features.npz, the vectors of every layer compared and the labels, and TensorBoard's projector/.

    Pages that a network cannot have, such as a deconvnet without ReLUs, are left out, and `say` is told why, unless
    they were asked for by name. Raises ConfigError for what the network does not have or the folder cannot take.
    """
    options = subject.options
    for page in options.pages:
        if page not in PAGES:
            raise ConfigError(f"unknown page {page!r}: choose of {', '.join(PAGE_NAMES)}")
    for address in options.layer:
        parse_address(subject.network, address)
    for label in (*options.classes, *([options.toward] if options.toward else [])):
        class_index(subject.network, label)
    if len(subject.images) == 0:
        raise ConfigError("there are no images to look at")
    subject.canvas()
    gallery = Gallery(folder, f"{type(subject.network.model).__name__}: what it sees")
    for page in options.pages or PAGES:
        began = time.monotonic()
        try:
            pictures = PAGES[page](subject)
        except ConfigError as error:
            if page in options.pages:
                raise
            say(f"no {page}: {error}")
            continue
        gallery.add(pictures)
        if page == "embeddings":
            name = subject.embedding
            some = slice(options.embedded)
            names = [name_of_class(subject.network, int(label)) for label in subject.labels[some]]
            arrays: dict[str, Any] = {"labels": subject.labels[some], **subject.vectors}
            np.savez_compressed(gallery.folder / "features.npz", **arrays)
            write_projector(gallery.folder / "projector", subject.vectors[name], subject.images[some], names)
        say(f"{page}: {time.monotonic() - began:.0f} s")
    return gallery.pictures
