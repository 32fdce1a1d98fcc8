"""Contradictions between what a JSON file says of its images and what their names say."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from segmamba.data.case import ERROR, Finding
from segmamba.data.image_files import stem_of
from segmamba.data.layouts.declared_names import modality_of
from segmamba.data.layouts.namings import LABEL, part_of

KIND = "contradicting names"


def named_part(path: Path) -> str | None:
    """Read from a file's name which image it is.

    Args:
        path: The file.

    Returns:
        A modality or LABEL; None for a name that does not tell, or tells more than one.
    """
    if known := part_of(path):
        return known.part
    stem = re.sub(r"_\d{4}$", "", stem_of(path))
    last = re.split(r"[^A-Za-z0-9]+", stem)[-1]
    return LABEL if last.lower() in ("seg", "segm", "segmentation") else modality_of(last)


def contradictions(
    case_id: str, images: Mapping[str, Path], label: Path | None, origin: Path
) -> Iterator[Finding]:
    """Compare the modality that a JSON file gives each image with what its name says.

    Args:
        case_id: The case.
        images: Modality to file, as the JSON file gives them, each modality with its own file.
        label: The segmentation, as the JSON file gives it.
        origin: The JSON file.

    Yields:
        An error for each contradiction.
    """
    told = {modality: named_part(path) for modality, path in images.items()}
    if len(told) == 1 or len(set(told.values())) > 1:  # one word in all names is not the modality's
        for modality, named in told.items():
            if named not in (None, modality):
                yield _contradiction(case_id, images[modality], modality, str(named), origin)
    if label and stem_of(label) != case_id and (named := named_part(label)) not in (None, LABEL):
        yield _contradiction(case_id, label, LABEL, str(named), origin)


def _contradiction(case_id: str, path: Path, given: str, named: str, origin: Path) -> Finding:
    text = (
        f"{case_id}: {origin} gives {path} as {given}, but its name says {named}; correct "
        "the order in the file or the file's name"
    )
    return Finding(ERROR, KIND, text)
