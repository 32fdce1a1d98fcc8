"""The thread that all trials of a process share."""

import sys
import threading

import pytest

from segmamba.orchestration.engine.one_thread import OneThread


def test_functions_run_in_one_thread_whoever_asks():
    one, seen = OneThread(), []

    def note():
        seen.append(threading.get_ident())

    callers = [threading.Thread(target=one.run, args=(note,)) for _ in range(3)]
    for caller in callers:
        caller.start()
        caller.join()
    assert len(set(seen)) == 1 and len(seen) == 3 and seen[0] != threading.get_ident()


def test_what_a_function_raises_reaches_its_caller_and_the_next_runs():
    one, seen = OneThread(), []
    with pytest.raises(ZeroDivisionError):
        one.run(lambda: 1 / 0)
    with pytest.raises(SystemExit):
        one.run(lambda: sys.exit(0))
    one.run(lambda: seen.append(1))
    assert seen == [1]
