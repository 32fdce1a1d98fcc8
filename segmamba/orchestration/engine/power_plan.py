"""What a sequential study can find, from the spreads of an earlier one where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segmamba.orchestration.engine.options import StudyOptions
    from segmamba.studies.power import PowerTable, Spreads
    from segmamba.studies.results import Study


def planned_power(name: str, planned: Study, options: StudyOptions) -> PowerTable | None:
    """Simulate what a study would find of effects from half a point to three.

    Args:
        name: Of the study's file; earlier runs are called NAME_Run01 and so on.
        planned: The study.
        options: Of which `output` and `folds` count.

    Returns:
        The table; None where the number of seeds is fixed, nothing is claimed, or the claim is not
        about Dice.
    """
    from segmamba.studies.power import power

    claim = planned.hypothesis
    contrasts = len(claim.contrasts) * len(claim.regions)
    if not planned.max_seeds or not contrasts or claim.metric != "dice":
        return None
    patients = {planned.data.patients.get(case, case) for case in planned.data.test}
    return power(
        max_seeds=planned.max_seeds,
        patients=len(patients),
        spreads=_earlier_spreads(name, planned, options),
        contrasts=contrasts,
        folds=options.folds or 1,
        margin=claim.margin,
    )


def _earlier_spreads(name: str, planned: Study, options: StudyOptions) -> Spreads | None:
    """The spreads of the newest study of this name and preset on these data; None without one."""
    from segmamba.orchestration.tracking.database import sqlite_path
    from segmamba.orchestration.tracking.store import open_store, store_uri
    from segmamba.orchestration.tracking.study_reader import read_study, study_runs
    from segmamba.orchestration.tracking.study_run import StudyRun
    from segmamba.studies.power import spreads_of

    path = sqlite_path(store_uri(options.output))
    if path and not path.exists():  # planning makes no store
        return None
    store = open_store(options.output)
    for run in study_runs(store):
        tags = run.data.tags
        same = (tags.get("preset"), tags.get("dataset")) == (planned.preset, planned.data.source)
        if same and tags["study"].rpartition("_Run")[0] == name:
            study = read_study(StudyRun(store, run.info.run_id), histories=False)
            if spreads := spreads_of(study):
                return spreads
    return None
