"""An extension of Griffe: the comment behind a field of a class is its docstring, as readers of the code take it."""

import re
from typing import Any

import griffe

_COMMENT = re.compile(r"  # (?!type:|noqa)(.+)$")


class FieldComments(griffe.Extension):
    """Fields of dataclasses and named tuples, which have their shape or unit in a comment on the same line."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if attr.docstring or attr.endlineno is None or not (attr.parent and attr.parent.is_class):
            return
        line = attr.lines_collection[attr.filepath][attr.endlineno - 1]
        if found := _COMMENT.search(line):
            attr.docstring = griffe.Docstring(found[1], lineno=attr.endlineno, parent=attr)
