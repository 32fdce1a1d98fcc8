"""Cases that lack modalities: what is allowed, and what is said.

With `data.missing` = zeros the channel of a modality that a case lacks is 0 after z-scoring. That
is the value outside the brain, and that of the brain's mean: the network sees nothing there, as it
does where training drops a modality (`augment.modality_dropout`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from segmamba.data.case import ERROR, INFORMATION, Case, Finding
from segmamba.data.labels import MODALITIES
from segmamba.errors import UserError

REFUSED, ZEROS = CHOICES = ("error", "zeros")
"""The values of `data.missing`."""
KIND = "missing modality"
"""The kind of an error that zeros makes information."""
IS_MISSING = " is missing"


def check_choice(missing: str) -> None:
    """Refuse what is no value of `data.missing`.

    Args:
        missing: The value.

    Raises:
        UserError: It is another one.
    """
    if missing not in CHOICES:
        raise UserError(f"--missing {missing}: choose {' or '.join(CHOICES)}")


def allow_missing(cases: Sequence[Case]) -> list[Case]:
    """Let cases lack modalities.

    Args:
        cases: As the layouts find them, with an error for each modality that is missing.

    Returns:
        The cases without these errors; one without any image keeps them.
    """
    return [
        replace(
            case,
            may_lack=True,
            findings=tuple(f for f in case.findings if (f.severity, f.kind) != (ERROR, KIND)),
        )
        if case.images
        else case
        for case in cases
    ]


def missing_finding(case: Case, modality: str) -> Finding:
    """Say that a modality is missing whose channel is zeros.

    Args:
        case: A case that may lack it.
        modality: What it lacks.

    Returns:
        Information.
    """
    text = f"{case.id}: {modality} is missing; its channel is zeros"
    return Finding(INFORMATION, f"{modality}{IS_MISSING}", text)


def missing_modalities(findings: Iterable[Finding]) -> tuple[str, ...]:
    """List the modalities that a case lacks.

    Args:
        findings: What is to say about the case that was read.

    Returns:
        The modalities whose channels are zeros, in the order of MODALITIES.
    """
    kinds = {finding.kind for finding in findings}
    return tuple(modality for modality in MODALITIES if f"{modality}{IS_MISSING}" in kinds)


def refuse_missing(cases: Sequence[Case]) -> list[Case]:
    """Name the setting that allows it in each error of a missing modality.

    Args:
        cases: As the layouts find them.

    Returns:
        The cases; one without any image is left as it is.
    """
    return [
        replace(case, findings=tuple(map(_with_way_out, case.findings))) if case.images else case
        for case in cases
    ]


def _with_way_out(finding: Finding) -> Finding:
    if (finding.severity, finding.kind) != (ERROR, KIND):
        return finding
    text = f"{finding.text}, or read it as zeros with data.missing=zeros (predict: --missing zeros)"
    return replace(finding, text=text)
