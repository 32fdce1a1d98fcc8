"""The named rules under which a segmentation is scored. Every table says which one it was."""

import re
from dataclasses import dataclass

from segmamba.errors import UserError

LEGACY, LESIONWISE = "brats-legacy", "lesionwise-2023"
RULES = {
    LEGACY: "voxels of the whole case; both empty: Dice 1, HD95 0 mm; one empty: Dice 0, HD95 373.13 mm (BraTS until 2022)",
    LESIONWISE: "mean over lesions and false positives; a missed lesion or a false positive: Dice 0, HD95 374 mm (BraTS 2023 and 2024)",
}
BOTH, AUTO = "both", "auto"
LESION_MISSED_MM = 374.0


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What the lesion-wise rule takes from a BraTS challenge."""

    dilation_steps: int
    """Voxels by which lesions grow before those that meet count as one."""
    ignored_mm3: float
    """Lesions up to this volume neither add nor cost anything."""


# rachitsaluja/BraTS-2023-Metrics, the challenges' own scorer.
CHALLENGES = {
    "GLI": Challenge(dilation_steps=3, ignored_mm3=50),
    "SSA": Challenge(dilation_steps=3, ignored_mm3=50),
    "PED": Challenge(dilation_steps=3, ignored_mm3=50),
    "MEN": Challenge(dilation_steps=1, ignored_mm3=50),
    "MET": Challenge(dilation_steps=1, ignored_mm3=2),
}


def rules_named(name):
    """The rules that `--rule` means, as a tuple of names."""
    if name != BOTH and name not in RULES:
        raise UserError(
            f"--rule {name!r} is no known rule: choose one of {', '.join(RULES)}, {BOTH}"
        )
    return tuple(RULES) if name == BOTH else (name,)


def challenge_of(name, case_ids):
    """The name of the challenge that `--challenge` means; "auto" takes it from case ids such as BraTS-MET-00001-000, and GLI where they tell none."""
    if name == AUTO:
        told = {
            match[1].upper()
            for match in (re.match(r"BraTS-(\w+)-", case_id, re.IGNORECASE) for case_id in case_ids)
            if match
        }
        return told.pop() if len(told) == 1 and told <= CHALLENGES.keys() else "GLI"
    if name not in CHALLENGES:
        raise UserError(
            f"--challenge {name!r} is no known challenge: choose one of {', '.join(CHALLENGES)}, {AUTO}"
        )
    return name
