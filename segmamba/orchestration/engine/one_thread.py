"""One thread of a process in which all of its trials run.

Ray runs each trial of a process in a new thread. What cuDNN has chosen, OpenMP's threads and the
CUDA graphs of a compiled network belong to the thread that made them.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future


class OneThread:
    """Runs functions one after the other in a thread of its own.

    The thread starts with the first function. It is a daemon, so that a trial which is still
    running holds up no exit.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[None], Callable[[], None]]]
        self._calls = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="trials", daemon=True)

    def run(self, function: Callable[[], None]) -> None:
        """Run a function there and wait for its end; raise what it raises, exits included."""
        if not self._thread.is_alive():
            self._thread.start()
        call = Future[None]()
        self._calls.put((call, function))
        call.result()

    def _work(self) -> None:
        while True:
            call, function = self._calls.get()
            try:
                function()
            except BaseException as error:  # also the SystemExit by which Ray stops a trial
                call.set_exception(error)
            else:
                call.set_result(None)
