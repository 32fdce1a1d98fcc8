"""Whether a claim was written before the trials that answer it had ended."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.metrics import METRICS
from segmamba.studies.words import amount, count

DIGITS = 12  # of the digest, as it is shown


@dataclass(frozen=True, kw_only=True)
class Registration:
    """When a study's claims were first written, and when the trials ended that answer them.

    Times are in seconds since 1970.
    """

    sha256: str
    """Digest of all claims, as `claims_digest` gives it."""
    written_at: float
    """When the first study with exactly these claims was started in this store."""
    trials: int
    """The trials that had ended when this was read."""
    ended_before: int = 0
    """How many of them had ended before the claims were written: they were reused."""
    changed: tuple[str, ...] = ()
    """How the claims differ from those under which the reused trials ran, a line for each study."""

    @property
    def before_trials(self) -> bool:
        """Whether the claims were written before the first of the trials ended."""
        return not self.ended_before

    @property
    def sentence(self) -> str:
        """The registration in words."""
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.written_at))
        digest = f"sha256 {self.sha256[:DIGITS]}"
        if self.before_trials:
            return (
                f"Pre-registered: claim, region, margin and direction were written on {when} "
                f"({digest}), before the first trial ended."
            )
        changes = f" {' '.join(self.changed)}" if self.changed else ""
        return (
            f"Not pre-registered: {self.ended_before} of {count(self.trials, 'trial')} had ended "
            f"when the claim was written on {when} ({digest}).{changes}"
        )


def claims_digest(claims: Sequence[Hypothesis]) -> str:
    """Digest what decides: each claim's words, metric, regions, margin, direction and contrasts.

    Args:
        claims: The first claim and the further ones, in their order.

    Returns:
        SHA-256, in hexadecimal digits.
    """
    text = json.dumps([_decisive(claim) for claim in claims], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def changes_of_claim(before: Hypothesis, now: Hypothesis) -> Iterator[str]:
    """What differs between two claims.

    Args:
        before: The claim as it was.
        now: The claim as it is.

    Yields:
        Each difference in words, as "margin was 1.0 and is 0.5 points".
    """
    if before.claim != now.claim:
        yield f"the claim read {before.claim!r}"
    for name in ("metric", "direction"):
        if getattr(before, name) != getattr(now, name):
            yield f"the {name} was {getattr(before, name)!r} and is {getattr(now, name)!r}"
    if before.regions != now.regions:
        yield f"the region was {' and '.join(before.regions)} and is {' and '.join(now.regions)}"
    if (before.margin, before.metric) != (now.margin, now.metric):
        yield f"the margin was {_margin(before)} and is {_margin(now)}"
    old_contrasts, new_contrasts = ([c.label for c in claim.contrasts] for claim in (before, now))
    if old_contrasts != new_contrasts:
        yield f"the contrasts were {', '.join(old_contrasts) or 'none'}"


def _margin(claim: Hypothesis) -> str:
    metric = METRICS[claim.metric]
    return f"{amount(claim.margin, metric)} {metric.unit}"


def _decisive(claim: Hypothesis) -> dict[str, object]:
    return {
        "claim": claim.claim,
        "metric": claim.metric,
        "regions": list(claim.regions),
        "margin": claim.margin,
        "direction": claim.direction,
        "contrasts": [asdict(contrast) for contrast in claim.contrasts],
    }
