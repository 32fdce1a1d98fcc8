"""From the user's options to what will run: cases, splits, arms, and the planned Study."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segmamba.config import Config
from segmamba.data.splits import SETS, Split, read_splits, seeded
from segmamba.environment import command
from segmamba.errors import UserError
from segmamba.studies.alpha_spending import FIRST_LOOK, MAX_SEEDS
from segmamba.studies.budget import AUTO
from segmamba.studies.results import Study, study_data_from
from segmamba.studies.spec import StudySpec

if TYPE_CHECKING:
    from segmamba.data.source import PreparedData
    from segmamba.orchestration.engine.options import StudyOptions
    from segmamba.orchestration.engine.progress import ProgressDisplay
    from segmamba.orchestration.engine.resources import Resources


SPLIT_VARIES = (
    "the split varies with the seed (data.split_by_seed): every seed divides the patients anew, "
    "the same for all arms; the sets listed are those of all seeds together"
)


@dataclass(frozen=True)
class Prepared:
    """A study's question and the cases that will answer it, checked and cached."""

    spec: StudySpec
    base: Config
    """The configuration that the arms change."""
    configs: dict[str, Config]
    """Arm name to configuration."""
    data: PreparedData
    """Labelled and unlabelled cases, with what is to be said of them."""
    splits: dict[int | None, Split]
    """Fold to its split of PreparedCases. Without folds the only key is None."""

    @functools.cached_property
    def feasible(self) -> dict[str, Config]:
        """The configurations of the arms that can run here; others' networks are built to know."""
        infeasible = infeasible_arms(self.configs)
        return {arm: config for arm, config in self.configs.items() if arm not in infeasible}

    @property
    def first_split(self) -> Split:
        """The split of the first fold."""
        return next(iter(self.splits.values()))


def folds_of(options: StudyOptions, base: Config) -> tuple[int, ...]:
    """The numbers of the folds that are run; () is one split.

    Args:
        options: Of which `folds` counts.
        base: The configuration that the arms change.

    Raises:
        UserError: The file of splits has fewer folds.
    """
    if options.folds and base.data.splits_file:
        there = len(read_splits(base.data.splits_file))
        if options.folds > there:
            raise UserError(f"--folds {options.folds}: {base.data.splits_file} has {there}")
    return tuple(range(options.folds))


def fold_changes(options: StudyOptions, base: Config, fold: int | None) -> dict[str, object]:
    """The dotted changes that make `base` the configuration of a fold.

    Args:
        options: Of which `folds` counts.
        base: The configuration that the arms change.
        fold: The fold's number; None without folds.
    """
    if fold is None:
        return {}
    changes: dict[str, object] = {"data.fold": fold}
    return changes if base.data.splits_file else changes | {"data.folds": options.folds}


def splits_of(data: PreparedData, options: StudyOptions, base: Config) -> dict[int | None, Split]:
    """Split the cases for every fold.

    Args:
        data: The cases.
        options: Of which `folds` counts.
        base: The configuration that the arms change.

    Returns:
        Fold to its split, which is that of the first seed where data.split_by_seed is on. Without
        folds the only key is None.
    """
    folds = folds_of(options, base) or (None,)
    configs = {fold: base.changed(fold_changes(options, base, fold)) for fold in folds}
    return {fold: data.split(seeded(config, config.seed)) for fold, config in configs.items()}


def infeasible_arms(configs: Mapping[str, Config]) -> dict[str, str]:
    """The arms that cannot run here: a package is missing, or the network does not take the patch.

    Args:
        configs: Arm name to configuration.

    Returns:
        Arm name to reason, of the infeasible arms alone.
    """
    from segmamba.models import side_multiples
    from segmamba.models.segmamba import check_sides

    reasons = {}
    for arm, config in configs.items():
        try:
            check_sides(config.data.patch_size, side_multiples(config.model))
        except (UserError, ValueError) as error:  # ValueError: how others' networks refuse a width
            reasons[arm] = str(error)
    return reasons


def planned_study(ready: Prepared, options: StudyOptions) -> Study:
    """The study before it has a store, a name, a run and trials.

    Args:
        ready: The question and its cases.
        options: Of the command line.
    """
    spec, base = ready.spec, ready.base
    wanted = spec.budget.seeds if options.seeds is None else options.seeds
    max_seeds = _most_seeds(spec, options) if wanted == AUTO else 0
    seeds = FIRST_LOOK if wanted == AUTO else wanted
    folds = tuple(fold for fold in ready.splits if fold is not None)
    # A search has used seed 0.
    numbers = tuple(range(1, seeds + 1)) if spec.space else tuple(range(seeds))
    data = _data(ready, folds) | {"notes": _notes(ready, seeds)}
    if base.data.split_by_seed:
        possible = range(numbers[0], numbers[0] + (max_seeds or seeds))
        data |= _sets_of_seeds(ready, options, folds, possible)
    return Study(
        name="",
        question=spec.question,
        hypothesis=spec.hypothesis,
        secondary=spec.secondary,
        baseline=spec.baseline,
        arms={arm: dict(changes) for arm, changes in spec.arms.items()},
        space={name: str(d) for name, d in spec.space.items()},
        max_seeds=max_seeds,
        seeds=numbers,
        folds=folds,
        round_every=spec.budget.rounds_every(base.train) if options.scheduler == "pbt" else 0,
        preset=options.preset,
        config=base.to_flat_dict(),
        data=study_data_from(data),
        environment={},
        command=command(),
        mlflow_uri="",
        parent_run_id="",
        seconds=0.0,
        trials=(),
    )


def _most_seeds(spec: StudySpec, options: StudyOptions) -> int:
    """The most seeds of a sequential study.

    Raises:
        UserError: No boundary is known for so many.
    """
    most = spec.budget.max_seeds if options.max_seeds is None else options.max_seeds
    if most not in MAX_SEEDS:
        raise UserError(
            f"--max-seeds {most}: must lie between {MAX_SEEDS[0]} and {MAX_SEEDS[-1]}, where "
            "the boundaries of the looks are known"
        )
    if options.scheduler == "asha":
        raise UserError(
            "--seeds auto --scheduler asha: trials that are stopped early cannot decide a claim; "
            "leave --scheduler out, or give a number of --seeds"
        )
    return most


def _notes(ready: Prepared, seeds: int) -> list[str]:
    """What was left out, scaled or rounded, a line each."""
    return [
        *ready.data.notes,
        *dict.fromkeys(note for split in ready.splits.values() for note in split.notes),
        *([SPLIT_VARIES] if ready.base.data.split_by_seed else []),
        *(["one seed: differences between arms cannot be told from luck"] if seeds == 1 else []),
        *ready.spec.notes,
    ]


def _data(ready: Prepared, folds: Sequence[int]) -> dict[str, Any]:
    """The cases of a study, as `Study.data` names them."""
    splits, first = ready.splits, ready.first_split
    data = {
        "source": ready.data.source,
        "phantom": not ready.base.data.source,
        "convention": " + ".join(sorted({case.convention for case in ready.data.cases})),
        "regions": ready.data.label_set.region_names,
        **{
            name: sorted({case.id for split in splits.values() for case in getattr(split, name)})
            for name in SETS
        },
        "test_is_validation": first.test_is_validation,
        "patients": {
            case.id: case.patient
            for split in splits.values()
            for name in SETS
            for case in getattr(split, name)
        },
        "notes": [],
        "folds": [_ids(splits[fold]) for fold in folds],
    }
    return data if folds else data | _ids(first)


def _sets_of_seeds(
    ready: Prepared, options: StudyOptions, folds: Sequence[int], seeds: Sequence[int]
) -> dict[str, list[str]]:
    """The cases that are in each set with any of the seeds."""
    splits = [
        ready.data.split(seeded(config, ready.base.seed + seed))
        for fold in folds or (None,)
        for config in [ready.base.changed(fold_changes(options, ready.base, fold))]
        for seed in seeds
    ]
    return {
        name: sorted({case.id for split in splits for case in getattr(split, name)})
        for name in SETS
    }


def _ids(split: Split) -> dict[str, list[str]]:
    """The case ids of each set, in the order of the split."""
    return {name: [case.id for case in getattr(split, name)] for name in SETS}


def announce(study: Study, resources: Resources, trials: int, progress: ProgressDisplay) -> None:
    """Show what is about to happen, before it takes hours.

    Args:
        study: The study that begins.
        resources: What each trial gets.
        trials: How many trials will run.
        progress: Where it is shown.
    """
    data = study.data
    origin = "from the files' naming" if study.config["data.labels"] == "auto" else "stated"
    where = (
        f"GPU, {resources.gpus:g} a trial"
        if resources.gpus
        else f"CPU, {resources.threads} core{'s' * (resources.threads > 1)} a trial"
    )
    progress.say(
        f"data     {data.source}; labels {data.convention} ({origin}), "
        f"scored on {', '.join(data.regions)}"
    )
    progress.say(
        f"cases    {len(data.train)} train, {len(data.validation)} validation, "
        f"{len(data.test)} test"
    )
    show_notes(study, progress)
    most = f" to {study.max_seeds}" if study.max_seeds else ""
    axes = f"arms {len(study.arms)} x seeds {len(study.seeds)}{most}" + (
        f" x folds {len(study.folds)}" if study.folds else ""
    )
    progress.say(
        f"trials   {trials} to run ({axes}), {resources.at_once} at once ({where}), "
        f"preset {study.preset}"
    )
    if resources.gpus and "why" in study.resource_plan:
        progress.say(f"compute  {study.resource_plan['why']}")


def show_notes(study: Study, progress: ProgressDisplay) -> None:
    """Show what was left out, scaled or rounded, and why."""
    for note in study.data.notes:
        progress.say(f"note     {note}")
