"""predictions.html: every predicted case on one page that needs no other file."""

import base64
from pathlib import Path

from segmamba.files import write_text
from segmamba.pictures import REGION_COLOURS

TEMPLATES = Path(__file__).parent / "templates"


def write_page(path, outcomes, summary):
    """Write the page of a list of Outcomes; `summary` says in a few words who predicted them, and how."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    by_state = {
        state: [o for o in outcomes if o.state == state] for state in ("done", "failed", "skipped")
    }
    shown = [o for o in by_state["done"] if o.thumbnail]
    return write_text(
        path,
        environment.get_template("predictions.html.j2").render(
            done=len(by_state["done"]),
            failed=by_state["failed"],
            skipped=by_state["skipped"],
            shown=shown,
            summary=summary,
            colours=REGION_COLOURS,
        ),
    )
