"""Trials whose process died: the record of each failure, and what follows from it for the retry.

The driver records each failure in the trial's folder, and the trial reads the record at its next
start. A process dies for many reasons: a node is switched off, somebody kills it, memory runs out.
Where memory is known to be the reason, or is suspected after two failures without an epoch between
them, the trial trains once more with activation checkpointing, which takes less memory and changes
no result. After that it is given up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segmamba.files import write_json
from segmamba.json_files import read_json

# Not "OOM killer": Ray names it among the causes that any killed process may have had.
MEMORY_WORDS = ("OutOfMemoryError", "running low on memory", "killed due to the node")
MOST_RESTARTS = 10
"""Restarts of a trial's process in all."""
MOST_STUCK = 4
"""Failures without an epoch between them after which the driver gives a trial up. A trial gives
itself up after three; the fourth is of one that dies before it reads the record."""
ALL_LEVELS = (1, 2, 3, 4, 5)
"""The value of `model.checkpoint_stages` for activation checkpointing of the whole network."""


@dataclass(frozen=True)
class Failure:
    """The death of a trial's process."""

    epoch: int
    """Epochs done until then."""
    memory: bool
    """Whether memory is known to be the reason."""
    reason: str
    """One line of Ray's message."""


@dataclass(frozen=True)
class RetryDecision:
    """What a trial does at its next start, after its past failures."""

    checkpoint: bool
    """Train with activation checkpointing of all levels."""
    hopeless: str = ""
    """Why the trial should not start again; empty where it should."""
    memory: bool = False
    """Whether memory is certain to be the reason: then the trial cannot run on this machine."""


def record_failure(folder: Path, epoch: int, message: str) -> bool:
    """Add a failure to the record in a trial's folder.

    Args:
        folder: The trial's folder.
        epoch: Epochs done until the failure.
        message: What Ray says about it; may have many lines.

    Returns:
        Whether another start is pointless.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    memory = any(words in message for words in MEMORY_WORDS)
    reason = next(
        (line for line in lines if any(words in line for words in MEMORY_WORDS)),
        lines[-1] if lines else "no reason known",
    )
    failures = [*read_failures(folder), Failure(epoch, memory, reason[:300])]
    failures_file(folder).parent.mkdir(parents=True, exist_ok=True)
    write_json(failures_file(folder), [dataclasses.asdict(failure) for failure in failures])
    return _without_progress(failures) >= MOST_STUCK


def read_failures(folder: Path) -> list[Failure]:
    """The failures recorded in a trial's folder since the last `clear_failures`."""
    file = failures_file(folder)
    return (
        read_json(file, list[Failure], fix="remove it, and the trial starts without its past")
        if file.exists()
        else []
    )


def clear_failures(folder: Path) -> None:
    """Forget a trial's failures when the study starts anew: their cause may be gone."""
    failures_file(folder).unlink(missing_ok=True)


def assess(failures: Sequence[Failure]) -> RetryDecision:
    """What a trial with these failures does at its next start."""
    memory = sum(failure.memory for failure in failures)
    stuck = _without_progress(failures)
    if memory >= 2:
        return RetryDecision(
            checkpoint=True,
            hopeless=(f"out of memory, also with activation checkpointing: {failures[-1].reason}"),
            memory=True,
        )
    if stuck >= 3:
        return RetryDecision(
            checkpoint=True,
            hopeless=(
                f"its process was killed {stuck} times after epoch {failures[-1].epoch}, "
                f"the last time with activation checkpointing: {failures[-1].reason}"
            ),
        )
    return RetryDecision(checkpoint=memory == 1 or stuck == 2)


def failures_file(folder: Path) -> Path:
    """The record in a trial's folder."""
    return Path(folder) / "logs" / "deaths.json"


def _without_progress(failures: Sequence[Failure]) -> int:
    """How many failures at the end of the list happened after the same epoch."""
    count = 0
    for failure in reversed(failures):
        if failure.epoch != failures[-1].epoch:
            break
        count += 1
    return count
