"""Pages of the gallery that show what a network learned: filters, maps and pictures made for it."""

from collections.abc import Sequence

from cnnjax.visualization.addresses import LOGITS, PROBABILITY, class_index, name_of_class, parse_address
from cnnjax.visualization.deepdream import deepdream, guide
from cnnjax.visualization.filters import apply_filter, feature_maps, first_filters
from cnnjax.visualization.interrogate import DELTAS, interrogate
from cnnjax.visualization.objectives import Objective, channel, class_logit, class_probability, layer, neuron
from cnnjax.visualization.pictures import Picture, grid, resize, signed, to_uint8
from cnnjax.visualization.render import Rendering, render_each
from cnnjax.visualization.subject import Subject
from cnnjax.visualization.transforms import STANDARD, for_objects

DREAM_SIDE = 96  # smaller images are enlarged to about this before a dream


def filters(subject: Subject) -> list[Picture]:
    pictures = first_filters(subject.network)
    count, height, width, channels = pictures.shape
    caption = f"The {count} filters of the first convolution, {height}x{width}x{channels}; grey is 0."
    image = grid(pictures, side=64)
    return [Picture("filters", image, caption, command=subject.command_for("filters"))]


def maps(subject: Subject) -> list[Picture]:
    example = subject.images[subject.examples()[0]]
    edges = apply_filter(example)
    steps = [to_uint8(example), to_uint8(signed(edges[None, ..., None]))[0]]
    result = [
        Picture(
            "edges",
            grid(steps, 2, titles=("image", "filtered"), side=160, largest=256),
            "A fixed 3x3 filter, 1 0 -1 in each row, finds vertical edges.",
            command=subject.command_for("maps"),
        )
    ]
    for name in subject.spatial_layers(4):
        values = feature_maps(subject.network, example, name)
        total = subject.network.layers()[name][-1]
        caption = f"{len(values)} of {total} feature maps of one image, on one scale from black to white."
        image = grid([to_uint8(example), *map(to_uint8, values)], side=112, largest=112)
        result.append(Picture(f"maps {name}", image, caption, name, subject.command_for("maps", name)))
    return result


def channels(subject: Subject) -> list[Picture]:
    """Pictures that excite channels, from noise: all channels of a layer in one program."""
    canvas = subject.canvas()
    result = []
    for address in subject.options.layer:
        parsed = parse_address(canvas, address)
        if parsed.channel is not None and parsed.layer not in (LOGITS, PROBABILITY):
            result += _steps_picture(subject, [address], f"{parsed}", address)
    whole = [a for a in subject.options.layer if ":" not in a]
    for name in subject.hidden_layers(5) if whole or not subject.options.layer else []:
        if subject.options.layer and name not in whole:
            continue
        count = min(subject.options.channels, canvas.layers()[name][-1])
        made = [channel(name, c) for c in range(count)]
        result += _steps_picture(subject, made, f"channels {name}", name)
    return result


def objectives(subject: Subject) -> list[Picture]:
    """The five objectives of Olah et al. 2017, at one layer and for one class."""
    canvas = subject.canvas()
    name = subject.spatial_layers(3)[-1]
    label = int(subject.labels[subject.examples()[0]])
    asked: dict[str, Objective] = {
        "neuron": neuron(name, 0),
        "channel": channel(name, 0),
        "layer (DeepDream)": layer(name),
        "class logit": class_logit(label),
        "class probability": class_probability(label),
    }
    made = [
        render_each(
            canvas,
            [objective],
            key=subject.key,
            steps=(max(subject.options.steps),),
            parameterization=subject.parameterization(),
        )[0]
        for objective in asked.values()
    ]
    image = grid([r.images[0] for r in made], len(made), titles=list(asked), side=128)
    class_name = name_of_class(subject.network, label)
    caption = (
        f"Five objectives: the centre of {name}:0, all of it, all of {name} squared, class {class_name}."
    )
    return [Picture("objectives", image, caption, name, subject.command_for("objectives"))]


def classes(subject: Subject) -> list[Picture]:
    asked = [a for a in subject.options.layer if a.startswith((LOGITS, PROBABILITY)) and ":" in a]
    canvas = subject.canvas()
    if asked:
        return [
            p for address in asked for p in _steps_picture(subject, [address], address, address, "classes")
        ]
    shown = [class_index(subject.network, label) for label in subject.options.classes]
    if not shown:
        count = min(canvas.layers()[LOGITS][-1], 10)
        first = subject.labels[subject.examples()].tolist() + list(range(count))
        shown = sorted(list(dict.fromkeys(first))[:count])
    names = [name_of_class(subject.network, index) for index in shown]
    return _steps_picture(subject, [class_logit(c) for c in shown], "classes", LOGITS, "classes", names)


def deepdreams(subject: Subject) -> list[Picture]:
    example = subject.images[subject.examples()[0]]
    factor = max(1, round(DREAM_SIDE / min(example.shape[:2])))
    enlarged = resize(example, factor * example.shape[0], factor * example.shape[1])
    result = []
    for name in subject.spatial_layers(3)[-2:]:
        shown, titles, goal = [enlarged], ["image"], f"climbs the mean square of {name}"
        objective: Objective | str = name
        if subject.guide is not None:
            objective = guide(subject.network, subject.guide, name)
            shown, titles = [enlarged, subject.guide], ["image", "guide"]
            goal = f"is drawn to what {name} sees in another"
        pictures = deepdream(subject.network, enlarged, objective, key=subject.key)
        image = grid([*shown, pictures[-1]], len(shown) + 1, titles=[*titles, name], side=256, largest=256)
        caption = f"DeepDream: a picture {goal}, from coarse to fine."
        result.append(
            Picture(f"deepdream {name}", image, caption, name, subject.command_for("deepdream", name))
        )
    return result


def toward(subject: Subject) -> list[Picture]:
    """A photograph pulled toward a label by the two errors that can be sent back."""
    network, index = subject.network, int(subject.examples()[0])
    count = network.layers()[LOGITS][-1]
    label = class_index(network, subject.options.toward or (int(subject.labels[index]) + 1) % count)
    steps = sorted(set(subject.options.steps))
    rows = [
        interrogate(network, subject.images[index], label, key=subject.key, delta=delta, steps=steps)
        for delta in DELTAS
    ]
    titles = [f"{step}: p = {row.probabilities[step]:.3f}" for row in rows for step in steps]
    cells = [row.frames[step] for row in rows for step in steps]
    image = grid(cells, len(steps), titles=titles, rows=[f"{delta} - onehot" for delta in DELTAS], side=128)
    caption = (
        f"The pixels of an image pulled toward {name_of_class(network, label)}, with its probability after so many steps. "
        "The first error asks for a logit of 1, the second for a probability of 1."
    )
    return [Picture("toward", image, caption, LOGITS, subject.command_for("toward"))]


def _steps_picture(
    subject: Subject,
    wanted: Sequence[Objective | str],
    name: str,
    address: str,
    page: str = "channels",
    names: Sequence[str] = (),
) -> list[Picture]:
    """The last frames of several renderings as a grid, all frames as its animation; one rendering as a row."""
    steps = sorted(set(subject.options.steps))
    canvas = subject.canvas()
    transform = for_objects(canvas.image_shape) if page == "classes" else STANDARD
    made = render_each(
        canvas,
        wanted,
        key=subject.key,
        steps=steps,
        parameterization=subject.parameterization(),
        transform=transform,
    )
    labels = list(names) or [str(i) for i in range(len(made))]
    if len(made) == 1:
        titles = [f"{step}: {made[0].values[step]:.3g}" for step in steps]
        image = grid([made[0].frames[step][0] for step in steps], len(steps), titles=titles, side=160)
        caption = f"Noise changed to excite {address}: updates and value of the objective." + _dead(
            made, labels
        )
        return [Picture(name, image, caption, address, subject.command_for(page, address))]
    frames = [grid([r.frames[step][0] for r in made], titles=labels, side=112) for step in steps]
    caption = f"Noise changed to excite {address}, after {steps[-1]} updates." + _dead(made, labels)
    command = subject.command_for(page, "" if page == "classes" else address)
    return [Picture(name, frames[-1], caption, address, command, tuple(frames))]


def _dead(made: Sequence[Rendering], labels: Sequence[str]) -> str:
    dead = [label for r, label in zip(made, labels, strict=True) if not r.alive]
    return f" No gradient comes from {', '.join(dead)}: dead here, the picture shows nothing." if dead else ""
