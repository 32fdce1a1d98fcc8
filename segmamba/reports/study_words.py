"""What a report says of its study in sentences, beside the verdict."""

from collections.abc import Sequence

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.data.case import patient_of
from segmamba.evaluation.patients import counted
from segmamba.reports.tables import duration
from segmamba.studies.alpha_spending import FIRST_LOOK
from segmamba.studies.caveats import background
from segmamba.studies.comparisons import differences_of
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.metrics import METRICS
from segmamba.studies.results import Study, StudyData
from segmamba.studies.scores import case_patients
from segmamba.studies.verdict import decide
from segmamba.studies.words import amount, count


def background_of(study: Study) -> list[str]:
    """What the answer to the question rests on.

    Args:
        study: The study.

    Returns:
        The sentences; [] where nothing is asked.
    """
    claim = study.hypothesis
    if not claim.contrasts:
        return []
    return list(background(study, decide(differences_of(study, claim), claim)))


def test_size(study: Study) -> str:
    """The tested cases and their patients; those that are planned where nothing was tested.

    Args:
        study: The study.

    Returns:
        Both counts in words.
    """
    patients = case_patients(study)
    if patients:
        return counted(patients, patients.values())
    return size_of(study.data, study.data.test)


def size_of(data: StudyData, cases: Sequence[str]) -> str:
    """How many cases a set holds, and of how many patients.

    Args:
        data: The study's data.
        cases: Ids of the set.

    Returns:
        Both counts in words.
    """
    return counted(cases, (data.patients.get(case) or patient_of(case) for case in cases))


def summary(study: Study, until: str) -> str:
    """How many trials have finished, on what, and in which time.

    Args:
        study: The study.
        until: What its time is counted to, in words.

    Returns:
        The sentence, without its full stop.
    """
    finished = sum(trial.status == "FINISHED" for trial in study.trials)
    if study.pooled_from:
        seeds = sorted({len(of) for of in study.arm_seeds.values()})
        each = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        return (
            f"pooled from {', '.join(study.pooled_from)}; "
            f"{finished} of {count(len(study.trials), 'trial')} finished; {each} seeds per arm; "
            f"preset {study.preset}; {duration(study.seconds)} for all studies"
        )
    folds = f" x {count(len(study.folds), 'fold')}" if study.folds else ""
    starts = f" over {study.starts} starts" if study.starts > 1 else ""
    return (
        f"{finished} of {count(len(study.trials), 'trial')} finished; "
        f"{_seeds(study)}{folds} per arm; preset {study.preset}; "
        f"{duration(study.seconds)} {until}{starts}"
    )


def _seeds(study: Study) -> str:
    """How many seeds the arms have, and the limit of a sequential study."""
    numbers = sorted({len(study.seeds_of(arm)) for arm in study.arms})
    fewest = f"{numbers[0]} to " if len(numbers) > 1 else ""
    limit = f" (of at most {study.max_seeds})" if study.max_seeds else ""
    return f"{fewest}{count(numbers[-1], 'seed')}{limit}"


def decided_by(claim: Hypothesis, max_seeds: int) -> str:
    """The estimand in words.

    Args:
        claim: The claim.
        max_seeds: The limit of a sequential study, else 0.

    Returns:
        The sentence, without its full stop.
    """
    contrasts = (
        "; ".join(f"{c.arm} minus {c.versus}" if c.versus else c.label for c in claim.contrasts)
        or "nothing in this run"
    )
    test = {
        "better": "",
        "no better": ", all to lie below the margin",
        "alike": ", all to lie within the margin",
    }[claim.direction]
    metric = METRICS[claim.metric]
    several = len(claim.contrasts) * len(claim.regions) > 1
    holm = ", adjusted by Holm over all" if several and claim.direction == "better" else ""
    looks = (
        f", repeated after {FIRST_LOOK} seeds and each further one, up to {max_seeds}"
        if max_seeds
        else ""
    )
    return (
        f"{' and '.join(claim.regions)} {metric.words} on the test set, {contrasts}{test}; "
        f"smallest difference that matters: {amount(claim.margin, metric)} {metric.unit}; "
        f"{100 * CONFIDENCE_LEVEL:.0f} % interval over seeds and patients{holm}{looks}"
    )
