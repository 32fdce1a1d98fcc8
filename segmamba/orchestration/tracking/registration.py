"""When a study's claims were written, and whether the trials that answer them ended later."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mlflow.entities import Run

from segmamba.orchestration.tracking.reuse import REUSED_TAG
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.registration import Registration, changes_of_claim, claims_digest

if TYPE_CHECKING:
    from segmamba.orchestration.tracking.store import Store
    from segmamba.studies.results import Study

CLAIMS_TAG, WRITTEN_TAG = "claims_sha256", "claims_written"
ENDED = ("FINISHED", "FAILED")


def registration_tags(claims: Sequence[Hypothesis]) -> dict[str, str]:
    """Return the tags that stamp the claims of a study as it is first started.

    Args:
        claims: The first claim and the further ones.
    """
    return {CLAIMS_TAG: claims_digest(claims), WRITTEN_TAG: f"{time.time():.3f}"}


def registration_of(
    store: Store,
    parent: Run,
    study: Study,
    children: Sequence[Run],
    *,
    claim_of: Callable[[Run], Hypothesis],
) -> Registration | None:
    """Return when the claims of a study were written beside when its trials ended.

    Args:
        store: Where the study is.
        parent: Its run.
        study: The study.
        children: The runs of its trials.
        claim_of: Reads the first claim of a study's run.

    Returns:
        The registration; None of a study that a version before 0.3 started.
    """
    digest = parent.data.tags.get(CLAIMS_TAG)
    if digest is None:
        return None
    same = store.search(f"tags.{CLAIMS_TAG} = '{digest}'")
    written_at = min(float(run.data.tags[WRITTEN_TAG]) for run in same)
    ended = [run for run in children if run.info.status in ENDED]
    # What a study trained itself ended later, whatever a clock says that was set meanwhile.
    sources = [run.data.tags[REUSED_TAG] for run in ended if REUSED_TAG in run.data.tags]
    trained = [store.client.get_run(source) for source in sources]
    earlier = [run for run in trained if (run.info.end_time or 0) / 1000 < written_at]
    others = sorted({run.data.tags["study"] for run in earlier if "study" in run.data.tags})
    return Registration(
        sha256=digest,
        written_at=written_at,
        trials=len(ended),
        ended_before=len(earlier),
        changed=tuple(filter(None, (_changes(store, name, study, claim_of) for name in others))),
    )


def _changes(store: Store, name: str, study: Study, claim_of: Callable[[Run], Hypothesis]) -> str:
    """How the claim of an earlier study differs; empty where it does not."""
    runs = store.search(f"tags.kind = 'study' and tags.study = '{name}'")
    if not runs:
        return ""
    changes = list(changes_of_claim(claim_of(runs[0]), study.hypothesis))
    return f"In {name}, {'; '.join(changes)}." if changes else ""
