"""The driver's calls to a store that may be away or full: tried again for a while, said so in a line, and never a traceback."""

import os
import time

from segmamba.errors import UserError
from segmamba.orchestration.tracking.outbox import is_away, reason_of

PATIENCE_S = 600.0
PAUSE_S = 5.0
FULL = ("No space left on device", "disk is full", "Disk quota exceeded")


class StudyHalted(UserError):
    """The study cannot go on, or cannot say how it ended, for a reason outside it; what it has is kept for `--resume`."""


def patience_s():
    """How long an absent store is waited for: SEGMAMBA_PATIENCE_S of the environment, or ten minutes."""
    return float(os.environ.get("SEGMAMBA_PATIENCE_S", PATIENCE_S))


def retry(call, say, *, uri):
    """What `call()` returns; while the store at `uri` does not answer, tried again for `patience_s`. `say` is told once.

    Raises StudyHalted where the store stays away or the disk is full.
    """
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }.items():
        os.environ.setdefault(name, value)  # MLflow would try a call for minutes before it tells
    seconds, told = patience_s(), False
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except Exception as error:
            if is_full(error):
                raise disk_full(error) from error
            if not is_away(error):
                raise
            if time.monotonic() >= deadline:
                raise store_away(uri, seconds, reason_of(error)) from error
            if not told:
                say(
                    f"mlflow   {uri} does not answer ({reason_of(error)}); trying again for up to {seconds / 60:.0f} min"
                )
                told = True
            time.sleep(min(PAUSE_S, max(0.1, deadline - time.monotonic())))


def store_away(uri, seconds, reason):
    """The StudyHalted for a store that did not come back."""
    return StudyHalted(
        f"MLflow store {uri} has not answered for {seconds:.0f} s ({reason}); what was trained is safe in the study's folder: when the store is "
        "back, the same command with --resume goes on"
    )


def is_full(error):
    """Whether a disk without space is behind an exception, of the system's or of a store on that disk."""
    return any(words in str(error) for words in FULL)


def disk_full(error):
    """The StudyHalted for it."""
    where = f" ({error.filename})" if getattr(error, "filename", None) else ""
    return StudyHalted(
        f"the disk is full{where}: free some space, then the same command with --resume goes on where it stopped"
    )
