"""predictions.html: every predicted case on one page that needs no other file."""

import base64
from collections.abc import Sequence
from pathlib import Path

from segmamba.data.label_sets import LabelSet
from segmamba.files import write_text
from segmamba.inference.outputs import DONE, FAILED, SKIPPED, Outcome
from segmamba.pictures.palette import REGION_COLOURS

TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, outcomes: Sequence[Outcome], summary: str, labels: LabelSet) -> Path:
    """Write the page.

    Args:
        path: The file to write.
        outcomes: What became of each case.
        summary: Which networks predicted, and how, in a few words.
        labels: The label set of the predictions.

    Returns:
        The path.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    done, failed, skipped = (
        [outcome for outcome in outcomes if outcome.state == state]
        for state in (DONE, FAILED, SKIPPED)
    )
    text = environment.get_template("predictions.html.j2").render(
        done=len(done),
        failed=failed,
        skipped=skipped,
        shown=[outcome for outcome in done if outcome.thumbnail],
        summary=summary,
        colours={region: REGION_COLOURS[region] for region in labels.outlined},
    )
    return write_text(path, text)
