"""Calls to a server that may be away: made in order, in a thread, each until it succeeds.

Whoever trains never waits.
"""

import queue
import threading
import time
from collections.abc import Callable

import requests
from mlflow.exceptions import MlflowException

from segmamba.redaction import redacted

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
REFUSALS = (
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "INVALID_STATE",
)
"""Error codes of calls that MLflow will never take."""
Call = Callable[[], object]


class Outbox:
    """A queue of calls and the thread that makes them.

    A call may be made twice where the answer to the first was lost. What the server refuses, or
    what is wrong in a call itself, does not get better by waiting: it ends the thread, and the next
    `put` raises it.
    """

    def __init__(self, first_pause_s: float = FIRST_PAUSE_S) -> None:
        """Start the thread.

        Args:
            first_pause_s: Seconds before a call is tried again; each pause is twice the last.
        """
        self.away_because = ""
        """Why the server does not answer; empty where it does."""
        self._first_pause_s = first_pause_s
        self._refused: Exception | None = None
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._closing, self._patience_s = threading.Event(), 0.0
        self._answered = 0.0
        """When the server last took a call, or, once that is later, when `close` was called."""
        # A daemon, so that an absent server holds up no exit.
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, call: Call) -> None:
        """Have `call()` made after all those before it.

        Raises:
            Exception: What the server refused of an earlier call.
        """
        error, self._refused = self._refused, None
        if error is not None:
            raise error
        self.offer(call)

    def offer(self, call: Call) -> None:
        """Have `call()` made, for those who ask only `close` whether all calls were made."""
        self._calls.put(call)

    def close(self, seconds: float) -> bool:
        """Wait until all calls are made, for `seconds` at most in which none is.

        A server that is slow is waited for as long as it answers.

        Returns:
            Whether they are; `away_because` says why not.
        """
        self._patience_s = seconds
        self._answered = time.monotonic()
        self._closing.set()
        self._calls.put(None)
        while self._thread.is_alive():
            # One call may be on its way.
            left_s = self._answered + seconds + LONGEST_PAUSE_S - time.monotonic()
            if left_s <= 0:
                break
            self._thread.join(left_s)
        return not self._thread.is_alive() and not self.away_because

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if not self._made(call):
                return

    def _made(self, call: Call) -> bool:
        pause = self._first_pause_s
        while True:
            try:
                call()
            except Exception as error:
                self.away_because = reason_of(error)
                if not is_away(error):
                    self._refused = error
                    return False
            else:
                self.away_because, self._answered = "", time.monotonic()
                return True
            # Ever longer, at the end too: a server that is overloaded still works on what was
            # given up here.
            if self._closing.is_set():
                left_s = self._answered + self._patience_s - time.monotonic()
                if left_s < self._first_pause_s:
                    return False
                time.sleep(min(pause, left_s))
            elif self._closing.wait(pause):
                pause = self._first_pause_s
                continue
            pause = min(2 * pause, LONGEST_PAUSE_S)


def is_away(error: Exception) -> bool:
    """Return whether the server, not the call, is at fault: the same call may succeed later."""
    if isinstance(error, MlflowException):
        return error.error_code not in REFUSALS
    return isinstance(error, (requests.RequestException, OSError))


def reason_of(error: Exception) -> str:
    """Return an exception in one line, without passwords."""
    lines = redacted(str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
