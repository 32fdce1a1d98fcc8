"""The named rules under which a segmentation is scored. Every table says which one it was."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from segmamba.errors import UserError

LEGACY, LESIONWISE = "brats-legacy", "lesionwise-2023"
RULES = {
    LEGACY: "voxels of the whole case; both empty: Dice 1, HD95 0 mm; "
    "one empty: Dice 0, HD95 373.13 mm (BraTS until 2022)",
    LESIONWISE: "mean over lesions and false positives; "
    "a missed lesion or a false positive: Dice 0, HD95 374 mm (BraTS 2023 and 2024)",
}
"""Name of a rule to its description."""
BOTH, AUTO = "both", "auto"
LESION_MISSED_MM = 374.0
"""The challenges' HD95 of a missed lesion or a false positive."""


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """The parameters that the lesion-wise rule takes from a BraTS challenge."""

    dilation_steps: int
    """Voxels by which lesions grow before those that meet count as one."""
    ignored_mm3: float
    """Lesions up to this volume neither add nor cost anything."""


CHALLENGES = {
    "GLI": Challenge(dilation_steps=3, ignored_mm3=50),
    "SSA": Challenge(dilation_steps=3, ignored_mm3=50),
    "PED": Challenge(dilation_steps=3, ignored_mm3=50),
    "MEN": Challenge(dilation_steps=1, ignored_mm3=50),
    "MET": Challenge(dilation_steps=1, ignored_mm3=2),
}
"""From rachitsaluja/BraTS-2023-Metrics, the challenges' own scorer."""


def rules_named(name: str) -> tuple[str, ...]:
    """Return the names of the rules that `--rule` means.

    Args:
        name: A rule, or "both".

    Returns:
        Names from RULES.

    Raises:
        UserError: There is no such rule.
    """
    if name != BOTH and name not in RULES:
        raise UserError(
            f"--rule {name!r} is no known rule: choose one of {', '.join(RULES)}, {BOTH}"
        )
    return tuple(RULES) if name == BOTH else (name,)


def challenge_of(name: str, case_ids: Iterable[str]) -> str:
    """Return the name of the challenge that `--challenge` means.

    Args:
        name: A challenge, or "auto": taken from case ids such as BraTS-MET-00001-000.
        case_ids: The cases that are scored.

    Returns:
        A name from CHALLENGES; GLI where the case ids name none, or several.

    Raises:
        UserError: There is no such challenge.
    """
    if name == AUTO:
        matches = (re.match(r"BraTS-(\w+)-", case_id, re.IGNORECASE) for case_id in case_ids)
        named = {match[1].upper() for match in matches if match}
        return named.pop() if len(named) == 1 and named <= CHALLENGES.keys() else "GLI"
    if name not in CHALLENGES:
        known = ", ".join(CHALLENGES)
        raise UserError(
            f"--challenge {name!r} is no known challenge: choose one of {known}, {AUTO}"
        )
    return name
