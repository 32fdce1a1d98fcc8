"""What belongs to an answer whatever it is: what was left out, what no interval covers."""

import math
from collections.abc import Iterator

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.evaluation.intervals import FEW_PATIENTS
from segmamba.studies.contrasts import Difference
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.results import Study
from segmamba.studies.sentences import Decision, failures_in_words
from segmamba.studies.words import count, p_words

FEW_SEEDS = 5
"""Up to so many seeds an effect that is found reads clearly too large."""


def caveats(study: Study, claim: Hypothesis, decision: Decision) -> Iterator[str]:
    """The sentences that follow the answer.

    Args:
        study: The study.
        claim: The claim.
        decision: How it was decided.

    Yields:
        A sentence for each thing that changes how the answer is to be read.
    """
    if claim.exploratory:
        yield f"Exploratory: {claim.exploratory}."
    several = len(claim.contrasts) > 1
    leading = decision.leading
    for difference in {d.label: d for d in decision.differences}.values():
        named = f" for {difference.label}" if several else ""
        planned = len(study.seeds)
        if study.max_seeds and not study.pooled_from:
            # What one arm has begun ahead of a look was not planned for a pair.
            seeds_of = [study.seeds_of(arm) for arm in difference.failures if arm in study.arms]
            planned = min(map(len, seeds_of), default=planned)
        if difference.seeds and len(difference.seeds) < planned:
            paired = len(difference.seeds)
            which = "" if study.pooled_from else "planned "
            yield f"Only {paired} of {planned} {which}seeds could be paired{named}."
        if not difference.evenly_failed and not decision.failures_forbid and difference.seeds:
            yield f"{failures_in_words(difference)}: the failed runs are missing{named}."
    if any(decision.gained) and len(leading.seeds) <= FEW_SEEDS:
        yield (
            f"An effect that is found with {count(len(leading.seeds), 'seed')} reads too large on "
            "average: expect less of it in a repetition."
        )
    if 1 < len(leading.patients) < FEW_PATIENTS and math.isfinite(leading.low):
        yield (
            f"Fewer than {FEW_PATIENTS} test patients: the interval errs where some scores are 0; "
            f"Wilcoxon's signed-rank test over patients gives {p_words(leading.rank_p)}."
        )
    if study.data.test_is_validation:
        yield (
            "The test set also served as the validation set (too few patients for three sets), "
            "so the last checkpoint was tested."
        )
    if claim.left_out:
        yield f"This run lacks the arms for {len(claim.left_out)} of the question's contrasts."


def background(study: Study, decision: Decision) -> Iterator[str]:
    """What an answer rests on, for the report and the terminal: not part of the answer.

    Args:
        study: The study.
        decision: How its first claim was decided.

    Yields:
        A sentence each about failures, ranks, the split and pairing.
    """
    leading = decision.leading
    if not leading.seeds or not leading.patients:
        return
    yield from _failures(decision)
    if len(leading.patients) > 1:
        yield (
            f"Wilcoxon's signed-rank test over {count(len(leading.patients), 'patient')} gives "
            f"{p_words(leading.rank_p)} for {leading.label}; it asks whether these trained "
            "networks differ, and nothing about other seeds."
        )
    yield from _split(study)
    yield from _pairing(leading)


def _failures(decision: Decision) -> Iterator[str]:
    """Which rate of failures stays possible in each arm."""
    told: set[str] = set()
    for difference in decision.differences:
        for arm, failed in difference.failures.items():
            if arm not in told:
                told.add(arm)
                planned = difference.planned[arm]
                bound = failure_bound(failed, planned)
                what = f"in {failed} of" if failed else "in none of"
                yield (
                    f"{arm} failed {what} {count(planned, 'run')}: a failure rate of "
                    f"up to {100 * bound:.0f} % stays possible ({100 * CONFIDENCE_LEVEL:.0f} % "
                    "bound)."
                )


def failure_bound(failed: int, runs: int) -> float:
    """The largest failure rate that so few failures leave possible (Clopper and Pearson 1934).

    Args:
        failed: How many runs failed.
        runs: How many there were.

    Returns:
        The upper bound at CONFIDENCE_LEVEL, one-sided: 1 - 0.05^(1 / runs) without a failure.
    """
    from scipy.special import betaincinv

    if failed >= runs:
        return 1.0
    return float(betaincinv(failed + 1, runs - failed, CONFIDENCE_LEVEL))


def _split(study: Study) -> Iterator[str]:
    """That all seeds share their training patients, where they do."""
    if study.config.get("data.split_by_seed"):
        return
    where = f"the splits of {count(len(study.folds), 'fold')}" if study.folds else "one split"
    yield (
        f"All seeds share {where}, so the interval covers other seeds and other test patients, "
        "but no other training set."
    )


def _pairing(leading: Difference) -> Iterator[str]:
    """How much the two arms' seeds have in common."""
    if math.isfinite(leading.seed_correlation):
        correlation = f"{leading.seed_correlation:+.2f}".replace("-", "\N{MINUS SIGN}")
        yield (
            f"Seed by seed, the means of {leading.arm} and {leading.versus} correlate by "
            f"{correlation} over {count(len(leading.seeds), 'seed')}; seeds are paired whatever "
            "it is, because choosing the test by the data would raise its false alarms."
        )
