"""How a report's pages are filled in: templates, and values as text."""

from pathlib import Path


def plain(value):
    """A setting's value as a reader would write it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value).strip("()[]")
    )


def template(name, *, autoescape):
    """A page to be filled in; a name that it lacks is an error."""
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


def _markdown_cell(value):
    """Text that can break neither a Markdown table nor the page around it."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
