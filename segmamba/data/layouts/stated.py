"""The label convention of a case whose names tell none: it must be stated, never guessed."""

from pathlib import Path

from segmamba.data.case import ERROR, INFORMATION, Finding
from segmamba.data.labels import CONVENTIONS

WRITTEN = "brats2023"
"""The convention of what is predicted for a case without one: that of BraTS since 2023."""


def convention_or_finding(
    case_id: str, told: str | None, label: Path | None, origin: str
) -> tuple[str, tuple[Finding, ...]]:
    """Settle a case's label convention.

    Args:
        case_id: The case.
        told: The convention that its names tell or the user states; None where nothing does.
        label: The case's segmentation, if it has one.
        origin: What does not tell the convention, for the message.

    Returns:
        (the convention, what is to say about it): an error where a segmentation has unknown values,
        and a note on what predictions are written in where there is no segmentation.
    """
    if told:
        return told, ()
    choice = f"--labels ({', '.join(CONVENTIONS)})"
    if label:
        text = (
            f"{case_id}: {origin} does not tell what the values of {label} mean; state it with "
            f"{choice}"
        )
        return WRITTEN, (Finding(ERROR, "unknown labels", text),)
    text = (
        f"{origin} tells no label convention; predictions are written as {WRITTEN} unless "
        "--labels states another"
    )
    return WRITTEN, (Finding(INFORMATION, "label convention", text),)
