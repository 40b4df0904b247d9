"""The table of all models: what each costs, which images it takes, and where its weights are published."""

from cnnjax.inspect.summary import summarize
from cnnjax.models import MODELS, create_model
from cnnjax.models.catalogue import COSTS, family
from cnnjax.tasks.task import Table


def all_models() -> Table:
    """A row for each model, in the order of the table of models."""
    rows = []
    for name in MODELS:
        about = family(name)
        parameters, multiply_adds = COSTS.get(name) or counted(name)
        rows.append([name, parameters, multiply_adds, "x".join(map(str, about.image)), about.published])
    return Table(["model", "parameters", "multiply-adds", "input", "published weights"], rows)


def counted(name: str) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image, by tracing the model."""
    costs = summarize(create_model(name), family(name).image)
    return costs.parameters, costs.multiply_adds


def text_table(table: Table) -> str:
    """Aligned, numbers to the right."""
    lines = [list(table.head), *([f"{v:,}" if isinstance(v, int) else v for v in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numbers = [isinstance(value, int) for value in table.rows[0]]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in lines
    )
