"""Whether a study may go on where an earlier start stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmamba.config import flat_as_stored
from segmamba.data.splits import SETS, Split
from segmamba.errors import UserError
from segmamba.files import was_moved
from segmamba.studies.registration import changes_of_claim
from segmamba.studies.spec import FOUND

if TYPE_CHECKING:
    from segmamba.studies.results import Study

PLACES = ("data.source", "data.patients", "learning.initial_weights")
"""Settings that say where something is that may be moved. That the data are the same is seen from
their cases."""


def check_place(began_in: str, folder: Path) -> None:
    """Refuse to go on in another folder than the one that holds the study's checkpoints.

    Args:
        began_in: Where the study's run says that it began; empty where it does not say.
        folder: Where it would go on. A folder that was moved there is fine.

    Raises:
        UserError: It names the folder to give.
    """
    if began_in and Path(began_in) != folder and not was_moved(began_in, str(folder)):
        raise UserError(
            f"--resume: {folder.name} began in {began_in}; give --output {Path(began_in).parent}, "
            "or leave --resume out"
        )


def check_same_cases(stopped: Study, splits: Mapping[int | None, Split]) -> None:
    """Refuse to go on with other images or labels than those of the trials that have ended.

    Args:
        stopped: As an earlier start left it.
        splits: Fold to Split of this start.

    Raises:
        UserError: Cases have the same names and other content.
    """
    from segmamba.orchestration.tracking.reuse import made_with

    ended = [trial for trial in stopped.trials if trial.status == "FINISHED"]
    before = {trial.made_with["cases"] for trial in ended if "cases" in trial.made_with}
    now = {made_with(split)["cases"] for split in splits.values()}
    if not before <= now:
        raise UserError(
            f"--resume: the images or labels are not those that {stopped.name} began with; give it "
            "the same data, or leave --resume out"
        )


def check_same(stopped: Study, planned: Study) -> None:
    """Refuse to go on with a study that asks something else, of other data or with other settings.

    Args:
        stopped: As an earlier start left it.
        planned: As the options of this start plan it.

    Raises:
        UserError: It names up to three differences.
    """
    before, now = _stored(flat_as_stored(stopped.config)), _stored(planned.config)
    differences = [
        f"{name} was {before.get(name)!r} and is {value!r}"
        for name, value in now.items()
        if before.get(name) != value and not (name in PLACES and was_moved(before.get(name), value))
    ]
    if _arms(stopped) != _arms(planned):
        differences.append("arms differ")
    if (before_claims := len(stopped.claims)) != len(planned.claims):
        differences.append(f"it had {before_claims} claims and has {len(planned.claims)}")
    for claim, claim_now in zip(stopped.claims, planned.claims):  # noqa: B905  said above
        differences += changes_of_claim(claim, claim_now)
    sequential = stopped.max_seeds and planned.max_seeds
    for name in ("max_seeds" if sequential else "seeds", "folds", "space", "round_every"):
        if _stored(getattr(stopped, name)) != _stored(getattr(planned, name)):
            differences.append(f"{name} differ")
    for name in SETS:
        if getattr(stopped.data, name) != getattr(planned.data, name):
            differences.append(f"the {name} cases differ")
    if differences:
        raise UserError(
            f"--resume: {stopped.name} is not the same study ({'; '.join(differences[:3])}); give "
            "its options, or leave --resume out"
        )


def _arms(study: Study) -> Any:
    return _stored({arm: changes for arm, changes in study.arms.items() if arm != FOUND})


def _stored(value: Any) -> Any:
    """A value as it comes back from the store: tuples are lists."""
    return json.loads(json.dumps(value))
