"""The table of paired differences: what the claims name, and every arm against the baseline."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from segmamba.data.label_sets import MEAN
from segmamba.studies.alpha_spending import deciding_levels_of_looks, holm_of_looks
from segmamba.studies.anova import deciding_levels, holm
from segmamba.studies.contrasts import Difference, contrast_difference
from segmamba.studies.hypothesis import Contrast, Hypothesis, PairwiseContrast
from segmamba.studies.results import Study


@dataclass(frozen=True, kw_only=True)
class ContrastResult:
    """The differences of one contrast on every region."""

    arm: str
    versus: str
    regions: dict[str, Difference]
    """The Difference on each region, with 95 % intervals; where Holm's adjustment decides the
    study's first claim, the interval on its region is the adjusted one."""
    p_holm: float = math.nan
    """p on the region that decides, adjusted over its family.

    The other regions are descriptive and have none.
    """
    decides: bool = False
    """Whether the study's first claim is about this contrast."""

    @property
    def label(self) -> str:
        """The contrast as reports show it."""
        return next(iter(self.regions.values())).label


def compare_arms(study: Study) -> tuple[ContrastResult, ...]:
    """Compare what the claims name, and every arm with the baseline.

    Holm's adjustment is over a family: the contrasts of one claim, or all arms against the
    baseline. A claim about a single contrast needs no adjustment and gets none. A claim's contrast
    that is also an arm against the baseline stands among those.

    Args:
        study: The study.

    Returns:
        The results: those of the claims in the study's order, then those against the baseline.
    """
    baseline = [
        PairwiseContrast(arm, study.baseline) for arm in study.arms if arm != study.baseline
    ]
    shown, levels = {contrast.label for contrast in baseline}, _claim_levels(study)
    results: list[ContrastResult] = []
    for claim in study.claims:
        family = [contrast for contrast in claim.contrasts if contrast.label not in shown]
        shown |= {contrast.label for contrast in family}
        results += _family(study, family, levels, adjusted=len(family) > 1)
    return (*results, *_family(study, baseline, levels, adjusted=True))


def differences_of(study: Study, claim: Hypothesis) -> list[Difference]:
    """The difference of every contrast of a claim on every region that it names.

    Args:
        study: The study.
        claim: The claim.

    Returns:
        The differences, with 95 % intervals.
    """
    return [
        contrast_difference(study, contrast, region, claim.score)
        for contrast in claim.contrasts
        for region in claim.regions
    ]


def at_deciding_levels(differences: Sequence[Difference]) -> list[Difference]:
    """The differences with the intervals that exclude 0 exactly where Holm's procedure rejects.

    Args:
        differences: The differences that are tested together.

    Returns:
        Them, at the levels of `deciding_levels`.
    """
    p_values, max_seeds = [d.p_value for d in differences], _max_seeds(differences)
    if max_seeds:
        levels = deciding_levels_of_looks(p_values, max_seeds, _looks(differences))
    else:
        levels = deciding_levels(p_values)
    return [d.at_level(level) for d, level in zip(differences, levels, strict=True)]


def adjusted_p(differences: Sequence[Difference]) -> list[float]:
    """The p values of contrasts that are tested together, adjusted by Holm (1979).

    Args:
        differences: The differences.

    Returns:
        The adjusted p values, in order; NaN where there was no test.
    """
    p_values, max_seeds = [d.p_value for d in differences], _max_seeds(differences)
    if max_seeds:
        return holm_of_looks(p_values, max_seeds, _looks(differences))
    return holm(p_values)


def _max_seeds(differences: Sequence[Difference]) -> int:
    """The most seeds of the study, 0 where their number is fixed."""
    return max((d.max_seeds for d in differences), default=0)


def _looks(differences: Sequence[Difference]) -> list[int]:
    """The look that each difference is tested at."""
    return [min(len(d.seeds), d.max_seeds) for d in differences]


def _claim_levels(study: Study) -> dict[str, float]:
    """The coverage that decides each contrast of the first claim, on the first region."""
    claim, decides = study.hypothesis, study.hypothesis.regions[0]
    differences = differences_of(study, claim)
    if claim.direction == "better":
        differences = at_deciding_levels(differences)
    return {d.label: d.level for d in differences if d.region == decides}


def _family(
    study: Study, family: Collection[Contrast], levels: Mapping[str, float], *, adjusted: bool
) -> list[ContrastResult]:
    """The results of contrasts whose p on the region that decides are adjusted together."""
    decides, score = study.hypothesis.regions[0], study.hypothesis.score
    differences = [
        {r: contrast_difference(study, c, r, score) for r in (*study.data.regions, MEAN)}
        for c in family
    ]
    decisive = [regions[decides] for regions in differences]
    p_holm = adjusted_p(decisive) if adjusted else [math.nan] * len(family)
    return [
        ContrastResult(
            arm=c.arm,
            versus=c.versus,
            regions=regions
            | {decides: regions[decides].at_level(levels.get(c.label, regions[decides].level))},
            p_holm=p,
            decides=c.label in levels,
        )
        for c, regions, p in zip(family, differences, p_holm, strict=True)
    ]
