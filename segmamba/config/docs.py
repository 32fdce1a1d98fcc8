"""The settings' own documentation, read from the sections' source."""

import ast
import dataclasses
import inspect
import itertools
import typing

from segmamba.config.tree import Config


def field_docs() -> dict[str, str]:
    """Collect the docstring of every field of the configuration.

    Returns:
        The docstrings by dotted name, each as one line, in declaration order.
    """
    sections: dict[str, type] = {"": Config}
    for name, hint in typing.get_type_hints(Config).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            sections[f"{name}."] = hint
    return {
        prefix + name: doc
        for prefix, section in sections.items()
        for name, doc in _docs_of(section).items()
    }


def _docs_of(section: type) -> dict[str, str]:
    """Map each field of a dataclass to the string below it."""
    (definition,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, below in itertools.pairwise(definition.body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                docs[name] = " ".join(text.split())
    return docs
