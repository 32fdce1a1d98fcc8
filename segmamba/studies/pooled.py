"""Several studies as one: seeds of the same arm are pooled, other arms stand beside each other.

Arms are the same where their setups are (arm_setup.py), whatever their names. The studies must have
tested the same cases, so that every two arms can be paired patient by patient.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from segmamba.studies.arm_setup import (
    NO_RESULT,
    ArmSetup,
    actual_seed,
    as_logged,
    differences_between,
    setup_of,
)
from segmamba.studies.comparable_studies import check_comparable
from segmamba.studies.hypothesis import Hypothesis, PairwiseContrast
from segmamba.studies.results import CaseSets, Study, StudyData, Trial

RANKS = {"FINISHED": 0, "FAILED": 1, "NOT STARTED": 3}
"""Which of two trials of one arm, seed and fold counts: the lower; others are 2."""


@dataclasses.dataclass
class PooledArm:
    """An arm and the studies that have it."""

    members: list[tuple[int, str]]
    """The number of each study among those pooled, and the arm's name there."""
    setup: ArmSetup
    digests: set[str]
    """Those of its trials."""
    name: str = ""
    """Its name among all arms."""


def pool(studies: Sequence[Study]) -> Study:
    """Put studies together.

    Args:
        studies: As they stand; the first gives the baseline and what is claimed by default.

    Returns:
        A Study with the trials of all, whose hypothesis is that an arm is better than the baseline.
        Its seeds are those that trials were trained with; a seed that several studies have counts
        once. Its notes say what was pooled, what was kept apart and why.

    Raises:
        UserError: A study is given twice, or the studies did not test the same cases.
    """
    check_comparable(studies)
    first, arms = studies[0], pooled_arms(studies)
    names = arm_names(arms)
    trials, twice = _trials(studies, names)
    baseline = names[0, first.baseline]
    data, config = _data(studies), _config(studies)
    hypothesis = dataclasses.replace(
        first.hypothesis,
        claim="An arm is better than the baseline.",
        better="",
        than="",
        contrasts=tuple(PairwiseContrast(a.name, baseline) for a in arms if a.name != baseline),
        direction="better",
        left_out=(),
    )
    # What the studies left out or scaled stands in their own reports.
    notes = (*_notes(studies, arms), *_notes_on_repeats(twice), *_notes_on_level(studies))
    return Study(
        name="comparison",
        question=f"How do the arms of {_and(study.name for study in studies)} compare?",
        hypothesis=hypothesis,
        baseline=baseline,
        arms={arm.name: dict(studies[arm.members[0][0]].arms[arm.members[0][1]]) for arm in arms},
        seeds=tuple(sorted({trial.seed for trial in trials})),
        arm_seeds={
            arm.name: tuple(sorted({t.seed for t in trials if t.arm == arm.name})) for arm in arms
        },
        max_seeds=sequential_limit(studies),
        folds=first.folds,
        preset=_and(dict.fromkeys(study.preset for study in studies)),
        config=config,
        data=dataclasses.replace(data, notes=notes),
        environment=_environment(studies),
        command="",
        mlflow_uri=first.mlflow_uri,
        parent_run_id=", ".join(study.parent_run_id for study in studies),
        pooled_from=tuple(study.name for study in studies),
        seconds=sum(study.seconds for study in studies),
        trials=tuple(trials),
    )


def sequential_limit(studies: Iterable[Study]) -> int:
    """The most seeds that the sequential studies among these were allowed.

    A study that stops when it looks good has looked, so whatever is pooled with it is tested at the
    level that its design has for so many seeds.

    Args:
        studies: The studies.

    Returns:
        The largest limit, whose levels are the strictest; 0 where all seeds were fixed before.
    """
    return max(study.max_seeds for study in studies)


def pooled_arms(studies: Sequence[Study]) -> list[PooledArm]:
    """The arms of all studies, each once.

    Args:
        studies: The studies.

    Returns:
        The arms in the order of the studies, with names of their own: "NAME (STUDY)" where another
        arm has the same name.
    """
    arms: list[PooledArm] = []
    for number, study in enumerate(studies):
        for name in study.arms:
            setup = setup_of(study, name)
            digests = {t.digest for t in study.trials if t.arm == name and t.digest}
            same = [arm for arm in arms if arm.setup == setup or arm.digests & digests]
            if same:
                same[0].members.append((number, name))
                same[0].digests |= digests
            else:
                arms.append(PooledArm(members=[(number, name)], setup=setup, digests=digests))
    first_names = [arm.members[0][1] for arm in arms]
    for arm in arms:
        number, name = arm.members[0]
        arm.name = f"{name} ({studies[number].name})" if first_names.count(name) > 1 else name
    return arms


def arm_names(arms: Iterable[PooledArm]) -> dict[tuple[int, str], str]:
    """The name that each study's arm has among all.

    Args:
        arms: What `pooled_arms` gave.

    Returns:
        (number of the study, name of its arm) to the name among all.
    """
    return {member: arm.name for arm in arms for member in arm.members}


def renamed(claim: Hypothesis, names: Mapping[str, str]) -> Hypothesis:
    """A study's claim with the names that its arms have among all.

    Args:
        claim: The claim.
        names: Name in the study to name among all.

    Returns:
        The claim; as it is where it names a trend.
    """
    pairs = [c for c in claim.contrasts if isinstance(c, PairwiseContrast)]
    if len(pairs) < len(claim.contrasts):
        return claim
    contrasts = tuple(
        PairwiseContrast(names.get(c.arm, c.arm), names.get(c.versus, c.versus)) for c in pairs
    )
    return dataclasses.replace(claim, better="", than="", contrasts=contrasts)


def _trials(
    studies: Sequence[Study], names: Mapping[tuple[int, str], str]
) -> tuple[list[Trial], dict[str, list[int]]]:
    """The trials under their arms' names among all, and the seeds that finished twice, by arm."""
    by_key: dict[tuple[str, int, int | None], list[Trial]] = {}
    for number, study in enumerate(studies):
        for trial in study.trials:
            arm, seed = names[number, trial.arm], actual_seed(study, trial)
            moved = dataclasses.replace(
                trial,
                arm=arm,
                seed=seed,
                reason=f"{study.name}: {trial.reason}" if trial.reason else f"of {study.name}",
            )
            by_key.setdefault((arm, seed, trial.fold), []).append(moved)
    order = list(dict.fromkeys(names.values()))
    keys = sorted(by_key, key=lambda key: (order.index(key[0]), key[1], key[2] or 0))
    chosen, twice = [], {}  # type: ignore[var-annotated]  # filled below
    for key in keys:
        candidates = by_key[key]
        chosen.append(min(candidates, key=lambda trial: RANKS.get(trial.status, 2)))
        if sum(trial.status == "FINISHED" for trial in candidates) > 1:
            seeds = twice.setdefault(key[0], [])
            seeds += [key[1]] if key[1] not in seeds else []
    return chosen, twice


def _notes(studies: Sequence[Study], arms: Sequence[PooledArm]) -> list[str]:
    """What was pooled, and which arms of one name were kept apart."""
    notes = []
    for arm in arms:
        where = dict.fromkeys(studies[number].name for number, _ in arm.members)
        if len(arm.members) > 1:
            others = dict.fromkeys(name for _, name in arm.members if name != arm.members[0][1])
            also = f", there also named {_and(others)}" if others else ""
            notes.append(f"{arm.name}: the seeds of {_and(where)} are pooled{also}")
    for one, two in itertools.combinations(arms, 2):
        if one.members[0][1] == two.members[0][1]:
            why = "; ".join(differences_between(one.setup, two.setup))
            notes.append(f"{one.name} and {two.name} are kept apart: {why}")
    return notes


def _notes_on_repeats(twice: Mapping[str, Sequence[int]]) -> list[str]:
    return [
        f"{arm}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} finished in several "
        f"studies and count{'s' * (len(seeds) == 1)} once"
        for arm, seeds in twice.items()
    ]


def _notes_on_level(studies: Sequence[Study]) -> list[str]:
    if not (limit := sequential_limit(studies)):
        return []
    stopped = _and(study.name for study in studies if study.max_seeds)
    return [
        f"{stopped} added seeds until the claim was decided: all p-values and intervals of "
        f"differences have the level of a study that looks after each of up to {limit} seeds"
    ]


def _data(studies: Sequence[Study]) -> StudyData:
    """The data of all studies: the first's test sets, and all cases that some arm trained on."""
    every = [study.data for study in studies]
    first = every[0]

    def cases(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(case for data in every for case in data.by_name[name]))

    same_folds = all(_sorted_sets(data.folds) == _sorted_sets(first.folds) for data in every)
    return dataclasses.replace(
        first,
        train=cases("train"),
        validation=cases("validation"),
        test=cases("test"),
        source=_and(dict.fromkeys(data.source for data in every)),
        convention=_and(dict.fromkeys(data.convention for data in every)),
        test_is_validation=any(data.test_is_validation for data in every),
        folds=first.folds if same_folds else (),
        patients={case: who for data in every for case, who in data.patients.items()},
    )


def _sorted_sets(folds: Iterable[CaseSets]) -> list[list[list[str]]]:
    return [[sorted(ids) for ids in fold.by_name.values()] for fold in folds]


def _config(studies: Sequence[Study]) -> dict[str, object]:
    """The settings on which the studies agree."""
    logged = [as_logged(study.config) for study in studies]
    return {
        name: value
        for name, value in studies[0].config.items()
        if name not in NO_RESULT and len({texts.get(name) for texts in logged}) == 1
    }


def _environment(studies: Sequence[Study]) -> dict[str, str]:
    """Versions and hardware; where they differ, with the studies that they are of."""
    environment = {}
    for name in dict.fromkeys(name for study in studies for name in study.environment):
        values = {study.name: study.environment.get(name, "not known") for study in studies}
        environment[name] = (
            next(iter(values.values()))
            if len(set(values.values())) == 1
            else "; ".join(f"{value} ({where})" for where, value in values.items())
        )
    return environment


def _and(words: Iterable[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
