"""How a report's pages are filled in: templates, and values as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template


VIEWER = "viewer.html"
"""The page of a study's cases, beside its report."""


def plain(value: Any) -> str:
    """A setting's value as a reader would write it.

    Args:
        value: The value, of whatever type the setting has.

    Returns:
        The text: four significant digits of a number, a sequence without its brackets.
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value).strip("()[]")
    )


def template(name: str, *, autoescape: bool) -> Template:
    """Load a page that is to be filled in.

    Args:
        name: File name of the template.
        autoescape: Whether values are escaped for HTML.

    Returns:
        The template; rendering it without a name that it needs is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader,
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _markdown_cell
    return environment.get_template(name)


def _markdown_cell(value: Any) -> str:
    """Text that can break neither a Markdown table nor the page around it."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
