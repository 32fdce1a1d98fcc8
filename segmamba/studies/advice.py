"""How many further seeds or patients would decide a claim, if its estimate is the truth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.studies.anova import Crossed
from segmamba.studies.contrasts import Difference
from segmamba.studies.hypothesis import Hypothesis

POWER = 0.8
"""The probability of a decision that advice is for."""
MOST_SEEDS, MOST_PATIENTS = 30, 2000
"""Beyond these, "run more" is no advice; the sentence says so instead of naming a number."""


@dataclass(frozen=True, kw_only=True)
class FurtherRuns:
    """The fewest further seeds, or further test patients, that decide a claim with POWER.

    Either alone does, if the estimate and the spreads stay. None where no number that can be
    reached does.
    """

    seeds: int | None = None
    patients: int | None = None


def advice_for(differences: Sequence[Difference], claim: Hypothesis) -> FurtherRuns:
    """The fewest further seeds, or patients, that would decide an undecided claim.

    Args:
        differences: The difference of every contrast on every region.
        claim: The claim.

    Returns:
        The numbers; where an estimate reaches what one contrast has to show, those for it, else
        those at which all contrasts together show that there is nothing.
    """
    measured = [(d, d.layout) for d in differences if d.layout is not None and d.can_decide]
    if len(measured) < len(differences):
        return FurtherRuns()
    margin, level = claim.margin, 1 - (1 - CONFIDENCE_LEVEL) / len(differences)
    alike = claim.direction == "alike"
    reached = [
        (layout, abs(d.mean) - margin if alike else d.mean)
        for d, layout in measured
        if (abs(d.mean) > margin if alike else d.mean >= margin)
    ]
    if reached:  # one contrast is enough, at the adjusted level
        needs = [
            what_would_decide(
                layout, wanted, level=level, slack=math.inf if alike else wanted - margin
            )
            for layout, wanted in reached
        ]
        return FurtherRuns(
            seeds=min((n.seeds for n in needs if n.seeds is not None), default=None),
            patients=min((n.patients for n in needs if n.patients is not None), default=None),
        )
    needs, each = [], POWER ** (1 / len(differences))  # all of them have to hold
    for d, layout in measured:
        wanted = margin - abs(d.mean) if alike else margin - d.mean
        holds = float(layout.half_width()) < wanted
        needs.append(
            FurtherRuns(seeds=0, patients=0)
            if holds
            else what_would_decide(layout, wanted, power=each)
        )
    return FurtherRuns(
        seeds=_most([need.seeds for need in needs]),
        patients=_most([need.patients for need in needs]),
    )


def _most(numbers: Sequence[int | None]) -> int | None:
    """The largest number; None where one of them is None."""
    known = [number for number in numbers if number is not None]
    return max(known) if len(known) == len(numbers) else None


def what_would_decide(
    layout: Crossed,
    distance: float,
    *,
    level: float = CONFIDENCE_LEVEL,
    slack: float = math.inf,
    power: float = POWER,
) -> FurtherRuns:
    """The fewest further seeds, or further patients, at which an interval clears a limit.

    Args:
        layout: The analysis of variance of the present runs.
        distance: From the estimate to the limit that the interval has to stay clear of.
        level: Coverage of the interval.
        slack: By how much the next estimate may fall short of the present one.
        power: With which probability, the present estimate being the truth.

    Returns:
        The number of seeds with the present patients, and of patients with the present seeds.
    """
    from scipy.special import ndtri

    deviations = float(ndtri(power))
    seeds = range(layout.seeds + 1, layout.seeds + MOST_SEEDS + 1)
    patients = np.unique(
        np.geomspace(layout.patients + 1, layout.patients + MOST_PATIENTS, 400).round().astype(int)
    ).tolist()

    def clears(seeds: int, patients: int) -> bool:
        foreseen = foreseen_layout(layout, seeds, patients)
        shortfall = deviations * float(foreseen.standard_error)
        return shortfall <= slack and float(foreseen.half_width(level)) + shortfall < distance

    return FurtherRuns(
        seeds=next((s - layout.seeds for s in seeds if clears(s, layout.patients)), None),
        patients=next((p - layout.patients for p in patients if clears(layout.seeds, p)), None),
    )


def foreseen_layout(layout: Crossed, seeds: int, patients: int) -> Crossed:
    """The mean squares to expect of other numbers of seeds and patients if the variances stay.

    Args:
        layout: The analysis of variance of the present runs.
        seeds: The number of seeds.
        patients: The number of patients.

    Returns:
        The expected analysis, around the same mean.
    """
    seed, patient, rest = layout.variances
    return Crossed(
        seeds=seeds,
        patients=patients,
        mean=layout.mean,
        ms_seed=rest + patients * seed,
        ms_patient=rest + seeds * patient,
        ms_rest=rest,
    )
