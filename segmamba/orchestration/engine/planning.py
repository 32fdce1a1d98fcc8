"""From what the user asked for to what will run: cases, splits, arms that cannot run here, and the Study as it is planned."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from segmamba.config import Config
from segmamba.data.splits import read_splits, split_cases
from segmamba.errors import UserError
from segmamba.studies.results import Study, study_data_from
from segmamba.studies.spec import StudySpec

SETS = ("train", "validation", "test")


@dataclass(frozen=True)
class Prepared:
    """A study's question and the cases that will answer it, checked and cached; nothing has begun."""

    spec: StudySpec
    base: Config
    """What the arms change."""
    configs: dict
    """Arm name to Config."""
    cases: list
    """Labelled and unlabelled Cases."""
    source: str
    """What they are, in words."""
    notes: list
    """On the cases, a line each."""
    splits: dict
    """Fold to Split of PreparedCases; the one key is None where there are no folds."""

    @property
    def first_split(self):
        return next(iter(self.splits.values()))


def folds_of(options, base):
    """Numbers of the folds that are run; () is one split."""
    if options.folds and base.data.splits_file:
        there = len(read_splits(base.data.splits_file))
        if options.folds > there:
            raise UserError(f"--folds {options.folds}: {base.data.splits_file} has {there}")
    return tuple(range(options.folds))


def fold_changes(options, base, fold):
    """The dotted changes that make `base` that of a fold."""
    if fold is None:
        return {}
    return {"data.fold": fold} | ({} if base.data.splits_file else {"data.folds": options.folds})


def splits_of(prepared, unlabelled, options, base):
    """{fold: Split} of labelled and unlabelled PreparedCases, with the one key None where there are no folds."""
    folds = folds_of(options, base) or (None,)
    return {
        fold: split_cases(
            prepared, base.changed(fold_changes(options, base, fold)).data, unlabelled
        )
        for fold in folds
    }


def infeasible_arms(configs):
    """{arm: reason} of arms whose network cannot be built here, or does not take the patch: a missing package, a side that does not fit."""
    from segmamba.models import side_multiples
    from segmamba.models.segmamba import check_sides

    reasons = {}
    for arm, config in configs.items():
        try:
            check_sides(config.data.patch_size, side_multiples(config.model))
        except (UserError, ValueError) as error:  # ValueError: how others' networks refuse a width
            reasons[arm] = str(error)
    return reasons


def planned_study(ready, options, environment, uri):
    """The Study of a Prepared before it has a name, a run and trials."""
    spec, base, splits, first, notes = (
        ready.spec,
        ready.base,
        ready.splits,
        ready.first_split,
        list(ready.notes),
    )
    notes += dict.fromkeys(note for split in splits.values() for note in split.notes)
    seeds = spec.budget.seeds if options.seeds is None else options.seeds
    if seeds == 1:
        notes.append("one seed: differences between arms cannot be told from luck")
    folds = tuple(fold for fold in splits if fold is not None)
    data = {
        "source": ready.source,
        "phantom": not base.data.source,
        "convention": " + ".join(sorted({c.convention for c in ready.cases})),
        **{
            name: sorted({c.id for split in splits.values() for c in getattr(split, name)})
            for name in SETS
        },
        "test_is_validation": first.test_is_validation,
        "notes": [*notes, *spec.notes],
        "folds": [
            {name: [c.id for c in getattr(splits[fold], name)] for name in SETS} for fold in folds
        ],
    }
    if not folds:
        data |= {name: [c.id for c in getattr(first, name)] for name in SETS}
    return Study(
        name="",
        question=spec.question,
        hypothesis=spec.hypothesis,
        secondary=spec.secondary,
        baseline=spec.baseline,
        arms={arm: dict(changes) for arm, changes in spec.arms.items()},
        space={name: str(d) for name, d in spec.space.items()},
        seeds=tuple(range(1, seeds + 1))
        if spec.space
        else tuple(range(seeds)),  # a search has used seed 0
        folds=folds,
        round_every=spec.budget.rounds_every(base.train) if options.scheduler == "pbt" else 0,
        preset=options.preset,
        config=base.to_flat_dict(),
        data=study_data_from(data),
        environment=environment,
        command=shlex.join([Path(sys.executable).name, *sys.argv]),
        mlflow_uri=uri,
        parent_run_id="",
        seconds=0.0,
        trials=(),
    )


def announce(study, resources, trials, progress):
    """What is about to happen, before it takes hours."""
    data = study.data
    origin = "from the files' naming" if study.config["data.labels"] == "auto" else "stated"
    where = (
        f"GPU, {resources.gpus:g} a trial"
        if resources.gpus
        else f"CPU, {resources.threads} core{'s' * (resources.threads > 1)} a trial"
    )
    progress.say(f"data     {data.source}; labels {data.convention} ({origin})")
    progress.say(
        f"cases    {len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    )
    say_notes(study, progress)
    axes = f"arms {len(study.arms)} x seeds {len(study.seeds)}" + (
        f" x folds {len(study.folds)}" if study.folds else ""
    )
    progress.say(
        f"trials   {trials} to run ({axes}), {resources.at_once} at once ({where}), preset {study.preset}"
    )


def say_notes(study, progress):
    """What was left out, scaled or rounded, and why."""
    for note in study.data.notes:
        progress.say(f"note     {note}")
