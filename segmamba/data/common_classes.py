"""Having the segmentations of many cases read as one label set."""

from collections.abc import Sequence
from dataclasses import replace

from segmamba.data.case import Case
from segmamba.data.label_sets import AUTO, LABEL_SETS, label_set, readable_as
from segmamba.errors import UserError


def read_as(cases: Sequence[Case], classes: str) -> list[Case]:
    """Have the segmentations of cases read as one label set.

    Args:
        cases: At least one.
        classes: The name of the set; "auto" is the one that the label conventions of all have.

    Returns:
        The cases with the set's name.

    Raises:
        UserError: The conventions have different classes and no set is named, or one of them does
            not tell the set's classes apart.
    """
    first = {case.label_set: case.id for case in reversed(cases)}
    labels = next(iter(first)) if classes == AUTO else label_set(classes)
    if classes == AUTO and len(first) > 1:
        examples = "; ".join(
            f"{case_id} has {', '.join(own.classes[1:])}"
            for own, case_id in sorted(first.items(), key=lambda item: item[1])
        )
        common = [
            wanted.name
            for wanted in LABEL_SETS.values()
            if all(readable_as(own, wanted) for own in first)
        ]
        raise UserError(
            f"cases with different classes ({examples}); choose those that all are read as with "
            f"--set model.classes={' or '.join(common)}, or keep the cases apart"
        )
    for own, case_id in first.items():
        if not readable_as(own, labels):
            raise UserError(
                f"{case_id}: its labels tell {', '.join(own.classes[1:])} apart, and "
                f"model.classes = {labels.name!r} asks for {', '.join(labels.classes[1:])}; set "
                f"model.classes to auto or glioma, or leave the case out"
            )
    return [replace(case, classes=labels.name) for case in cases]
