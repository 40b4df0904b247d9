"""What the site has beside docs/*.md: the pages of the root, a page for each package from its docstrings, contents, settings.

A hook of MkDocs. Links of the Markdown lead where they lead in the repository; those to files that are no page become
their path.
"""

import html
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OF_ROOT = {"README.md": "index.md"} | {
    name: name for name in ("RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md")
}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(docs/")


def packages() -> list[str]:
    """Names of the packages, "cnnjax.data", in the order of the alphabet; the face first."""
    found = sorted(path.parent for path in (ROOT / "cnnjax").glob("**/__init__.py"))
    return [".".join(path.relative_to(ROOT).parts) for path in found]


def page_of(package: str) -> str:
    """Markdown of a package: its docstring, and that of each of its modules."""
    folder = ROOT.joinpath(*package.split("."))
    modules = [path.stem for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
    names = [package, *(f"{package}.{module}" for module in modules)]
    return "\n".join(
        f"::: {name}\n    options: {{heading_level: {1 + (name != package)}}}\n" for name in names
    )


def settings() -> str:
    """Markdown of every field of an experiment: its flag, what it is without it, and what it means."""
    sys.path.insert(0, str(ROOT))
    from cnnjax import config

    text = (
        "# Settings\n\nEvery field of an experiment, as a flag of `launch.py` and a name for `cj.replace`.\n"
    )
    section = None
    for name, field, default in config.fields(config.Experiment()):
        if name.rpartition(".")[0] != section:
            section = name.rpartition(".")[0]
            text += f"\n## {section or 'experiment'}\n\n| flag | default | meaning |\n|---|---|---|\n"
        value = ",".join(map(str, default)) if isinstance(default, tuple) else default
        shown = f"`{value}`" if value not in ("", None) else ""
        text += f"| `--{name}` | {shown} | {html.escape(field.metadata.get('help', 'of the experiment'))} |\n"
    return text


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    docs = Path(config.docs_dir)
    tutorials = [f"tutorials/{path.name}" for path in sorted((docs / "tutorials").glob("*.md"))]
    own = sorted(path.name for path in docs.glob("*.md"))
    config.nav = [
        {"cnnjax": "index.md"},
        {"Tutorials": tutorials},
        {"More": [*own, *(name for name in OF_ROOT.values() if name != "index.md"), "settings.md"]},
        {"Packages": [{name: f"packages/{name}.md"} for name in packages()]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in OF_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "settings.md", content=settings()))
    for name in packages():
        files.append(File.generated(config, f"packages/{name}.md", content=page_of(name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    path = page.file.src_uri
    of_root = {page: source for source, page in OF_ROOT.items()}.get(path)
    here = ROOT / (of_root or f"docs/{path}")

    def link(match: re.Match) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        found = (here.parent / target).resolve()
        if not found.exists():  # MkDocs complains
            return match[0]
        inside = found.relative_to(ROOT).as_posix()
        uri = OF_ROOT.get(inside, inside.removeprefix("docs/"))
        if uri not in files.src_uris:
            return f"{text} (`{inside}`)" if inside not in text else text
        up = "../" * path.count("/")
        return f"[{text}]({up}{uri}{anchor})"

    return _PICTURE.sub(r"![\1](", _LINK.sub(link, markdown)) if of_root else _LINK.sub(link, markdown)
