"""Pages of pictures: their templates, with what all of them share."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).parent / "templates"


def template(name: str, folder: Path = TEMPLATES) -> Template:
    """Load a page that is to be filled in; values are escaped for HTML.

    Args:
        name: File name of the template.
        folder: Where it lies; it may include the templates of this room.

    Returns:
        The template; rendering it without a name that it needs is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return environment.get_template(name)
