"""Trials whose process died: the driver writes down each death, and the trial reads at its next start what they tell it to do.

A process dies of anything: a node that is switched off, somebody's kill, too little memory. Where the memory is known to be the reason,
or is suspected after two deaths without an epoch between them, the trial trains once more with activation checkpointing, which takes
less memory and changes no result. After that it is given up.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from segmamba.files import write_json

# Not "OOM killer": Ray names it among the causes that any killed process may have had.
MEMORY_WORDS = ("OutOfMemoryError", "running low on memory", "killed due to the node")
MOST_RESTARTS = 10  # in all
MOST_STUCK = 4  # without an epoch between them: the trial gives itself up after three; one that does not even come to that is given up here
ALL_LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Fate:
    """What a trial's past deaths ask of it."""

    checkpoint: bool
    """Train with activation checkpointing of all levels."""
    hopeless: str = ""
    """Why it should not start again; empty where it should."""
    memory: bool = False
    """Whether that is for want of memory, for certain: then it is hopeless on this machine for ever."""


def note_death(folder, epoch, told):
    """Add a death to a trial's folder: the epochs done until then, and what Ray told of it. Whether another start is pointless."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    memory = any(words in told for words in MEMORY_WORDS)
    reason = next(
        (line for line in lines if any(words in line for words in MEMORY_WORDS)),
        lines[-1] if lines else "no reason known",
    )
    _file(folder).parent.mkdir(parents=True, exist_ok=True)
    noted = [*deaths(folder), {"epoch": epoch, "memory": memory, "reason": reason[:300]}]
    write_json(_file(folder), noted)
    return _without_progress(noted) >= MOST_STUCK


def deaths(folder):
    """Those of a trial's folder since its last `forget`."""
    return json.loads(_file(folder).read_text()) if _file(folder).exists() else []


def forget(folder):
    """A new start of the study: whatever killed the trial before may be gone."""
    _file(folder).unlink(missing_ok=True)


def fate(noted):
    """The Fate after these deaths."""
    memory = sum(death["memory"] for death in noted)
    stuck = _without_progress(noted)
    if memory >= 2:
        return Fate(
            True, f"out of memory, also with activation checkpointing: {noted[-1]['reason']}", True
        )
    if stuck >= 3:
        return Fate(
            True,
            f"its process was killed {stuck} times after epoch {noted[-1]['epoch']}, the last time with activation checkpointing: "
            f"{noted[-1]['reason']}",
        )
    return Fate(memory == 1 or stuck == 2)


def _without_progress(noted):
    """How many deaths at the end of the list happened after the same epoch."""
    count = 0
    for death in reversed(noted):
        if death["epoch"] != noted[-1]["epoch"]:
            break
        count += 1
    return count


def _file(folder):
    return Path(folder) / "logs" / "deaths.json"
