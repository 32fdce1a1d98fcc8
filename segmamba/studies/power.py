"""What a study can find before it has run: power, expected seeds, and the least effect.

Studies of one contrast are simulated from three spreads and looked at by the rules of
look_rules.py. Sums of squares are drawn in place of patients, so the cost does not depend on their
number; the draws have a fixed seed, so a plan repeats to the last digit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segmamba.config import CONFIDENCE_LEVEL, DICE_MARGIN
from segmamba.studies.alpha_spending import FIRST_LOOK, level
from segmamba.studies.anova import Crossed
from segmamba.studies.contrasts import contrast_difference
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.look_rules import FUTILITY_LOOK, HOPELESS, conditional_power
from segmamba.studies.results import Study

EFFECTS = (0.005, 0.01, 0.02, 0.03)
"""The effects of a plan, in Dice (0 to 1)."""
STUDIES = 4000
"""Simulated studies for each plan; a power of 80 % is known to +-1.3 %."""
POWER = 0.80
"""The power at which an effect counts as found."""


@dataclass(frozen=True, kw_only=True)
class Spreads:
    """Standard deviations of a paired difference of two arms, in Dice (0 to 1)."""

    seed_sd: float = 0.01 * 2**0.5
    """From seed to seed; the default is two independent runs of one Dice point each."""
    patient_sd: float = 0.05
    """From patient to patient."""
    rest_sd: float = 0.05
    """What seeds and patients leave unexplained."""
    source: str = "assumed"
    """Where they come from, in words."""


@dataclass(frozen=True, kw_only=True)
class PowerRow:
    """What a study finds of one true effect; shares from 0 to 1."""

    effect: float
    """In Dice (0 to 1)."""
    sequential: float
    """Share of studies of at most N seeds, looked at after each, that are supported."""
    expected_seeds: float
    """Their mean number of seeds."""
    fixed: float
    """Share of studies of N seeds, looked at once, that are supported."""


@dataclass(frozen=True, kw_only=True)
class PowerTable:
    """The plan of a study."""

    rows: tuple[PowerRow, ...]
    """By rising effect."""
    max_seeds: int
    patients: int
    contrasts: int
    """How many contrasts share the 5 %; each row is about one of them."""
    spreads: Spreads
    least_effect: float
    """In Dice: of a smaller effect, no number of seeds finds 80 % on these patients."""


def power(
    *,
    max_seeds: int,
    patients: int,
    spreads: Spreads | None = None,
    contrasts: int = 1,
    folds: int = 1,
    margin: float = DICE_MARGIN,
    effects: Sequence[float] = EFFECTS,
) -> PowerTable:
    """Simulate what a study would find.

    Args:
        max_seeds: The most seeds of every arm, 4 to 15.
        patients: Test patients; with folds, of all folds together.
        spreads: What varies; None takes the defaults of Spreads.
        contrasts: How many contrasts share the 5 %, without Holm's steps.
        folds: Runs for each seed, each tested on its own patients.
        margin: Smallest Dice (0 to 1) that matters.
        effects: True effects, in Dice.

    Returns:
        The table. With one patient nothing is ever supported.

    Raises:
        UserError: If the table of levels has no such study.
    """
    spreads = spreads or Spreads()
    level(max_seeds, max_seeds, contrasts)
    effects = sorted(effects)
    if patients > 1:
        layouts = _layouts(spreads, patients, max_seeds, max(folds, 1))
        found, seeds = _race(layouts, np.array(effects), max_seeds, contrasts, margin)
        last = layouts[-1]
        half = last.half_width(1 - (1 - CONFIDENCE_LEVEL) / contrasts)
        means = last.mean + np.array(effects)[:, None]
        once = ((means > half) & (means >= margin)).mean(-1)
    else:
        found, once = np.zeros(len(effects)), np.zeros(len(effects))
        seeds = np.full(len(effects), float(FIRST_LOOK))
    rows = tuple(
        PowerRow(effect=e, sequential=float(f), expected_seeds=float(s), fixed=float(o))
        for e, f, s, o in zip(effects, found, seeds, once, strict=True)
    )
    return PowerTable(
        rows=rows,
        max_seeds=max_seeds,
        patients=patients,
        contrasts=contrasts,
        spreads=spreads,
        least_effect=least_effect(patients, spreads.patient_sd, contrasts, margin),
    )


def least_effect(patients: int, patient_sd: float, contrasts: int, margin: float) -> float:
    """The effect that endless seeds would find in 80 % of studies.

    What patients differ by stays however many seeds are run.

    Args:
        patients: Test patients.
        patient_sd: Standard deviation of the paired difference from patient to patient, in Dice.
        contrasts: How many contrasts share the 5 %.
        margin: Smallest Dice that matters, which the estimate has to reach.

    Returns:
        Dice (0 to 1); infinite with one patient.
    """
    from scipy.special import stdtrit

    if patients < 2:
        return math.inf
    error = patient_sd / math.sqrt(patients)
    freedom = patients - 1
    significant = error * float(stdtrit(freedom, 1 - (1 - CONFIDENCE_LEVEL) / contrasts / 2))
    return max(significant, margin) + error * float(stdtrit(freedom, POWER))


def spreads_of(study: Study, claim: Hypothesis | None = None) -> Spreads | None:
    """The spreads that an earlier study measured, averaged over the contrasts of a claim.

    Args:
        study: The earlier study.
        claim: The claim whose contrasts are measured; None takes the study's hypothesis.

    Returns:
        The spreads; None where no contrast has two seeds and two patients.
    """
    claim = claim or study.hypothesis
    layouts = []
    for contrast in claim.contrasts:
        d = contrast_difference(study, contrast, claim.regions[0], claim.score)
        if d.layout is not None and len(d.patients) > 1:
            layouts.append(d.layout)
    if not layouts:
        return None
    seed, patient, rest = np.mean(
        [[float(v) for v in layout.variances] for layout in layouts], axis=0
    )
    return Spreads(
        seed_sd=math.sqrt(seed),
        patient_sd=math.sqrt(patient),
        rest_sd=math.sqrt(rest),
        source=f"measured in {study.name}",
    )


def _layouts(spreads: Spreads, patients: int, max_seeds: int, folds: int) -> list[Crossed]:
    """The analysis of variance after 3 ... N seeds of STUDIES studies without a true effect.

    What is left of patients and rest after the row means has patients - 1 dimensions. Only the
    lengths and angles of one patients' vector and of N seeds' vectors in it matter: the Gram
    matrix, drawn by the decomposition of Bartlett (1933).
    """
    rng, size = np.random.default_rng(0), max_seeds + 1
    freedom = patients - 1
    lower = np.tril(rng.standard_normal((STUDIES, size, size)), -1)
    if freedom < size:  # fewer dimensions than vectors
        vectors = rng.standard_normal((STUDIES, size, freedom))
        gram = vectors @ vectors.transpose(0, 2, 1)
    else:
        diagonal = np.sqrt(rng.chisquare(freedom - np.arange(size), (STUDIES, size)))
        lower[:, np.arange(size), np.arange(size)] = diagonal
        gram = lower @ lower.transpose(0, 2, 1)
    row_sd = math.sqrt(spreads.seed_sd**2 / folds + spreads.rest_sd**2 / patients)
    rows = row_sd * rng.standard_normal((STUDIES, max_seeds))
    shift = spreads.patient_sd / math.sqrt(patients) * rng.standard_normal(STUDIES)
    layouts = []
    for n in range(FIRST_LOOK, max_seeds + 1):
        # patient means minus their mean: patient_sd * u_0 + rest_sd * mean of u_1 ... u_n
        weights = np.zeros(size)
        weights[0], weights[1 : n + 1] = spreads.patient_sd, spreads.rest_sd / n
        ss_patient = n * np.einsum("i,sij,j->s", weights, gram, weights)
        own = np.einsum("sii->s", gram[:, 1 : n + 1, 1 : n + 1])
        shared = gram[:, 1 : n + 1, 1 : n + 1].sum((1, 2)) / n
        layouts.append(
            Crossed(
                seeds=n,
                patients=patients,
                mean=shift + rows[:, :n].mean(1),
                ms_seed=patients * rows[:, :n].var(1, ddof=1),
                ms_patient=ss_patient / freedom,
                ms_rest=spreads.rest_sd**2 * (own - shared) / ((n - 1) * freedom),
            )
        )
    return layouts


def _race(
    layouts: Sequence[Crossed], effects: np.ndarray, max_seeds: int, contrasts: int, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """The share of studies that are supported, and their mean seeds, for each effect."""
    from dataclasses import replace

    shape = (len(effects), STUDIES)
    going, found, seeds = np.ones(shape, bool), np.zeros(shape, bool), np.full(shape, max_seeds)
    for layout in layouts:
        n = layout.seeds
        means = layout.mean + effects[:, None]
        gains = layout.half_width(1 - level(max_seeds, n, contrasts))
        new = going & (means >= np.maximum(gains, margin))
        below = going & (means + layout.half_width(1 - level(max_seeds, n)) < margin)
        found |= new
        stops = new | below
        if FUTILITY_LOOK <= n < max_seeds:
            stops |= np.array(
                [
                    conditional_power(
                        replace(layout, mean=mean),
                        more=max_seeds - n,
                        max_seeds=max_seeds,
                        margin=margin,
                        alike=False,
                    )
                    < HOPELESS
                    for mean in means
                ]
            )
        seeds[going & stops] = n
        going &= ~stops
    return found.mean(1), seeds.mean(1)
