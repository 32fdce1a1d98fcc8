"""Calls to a server that may be away, without a server."""

import threading
import time

import pytest
import requests
from mlflow.exceptions import MlflowException

from segmamba.orchestration.tracking import outbox as outbox_module
from segmamba.orchestration.tracking.outbox import Outbox


class Server:
    """Notes the calls it gets while it is there."""

    def __init__(self, *, there):
        self.there, self.got, self.tried = there, [], threading.Event()

    def call(self, number):
        self.tried.set()
        if not self.there:
            raise requests.ConnectionError("nobody answers")
        self.got.append(number)


def test_calls_are_made_in_order_when_the_server_is_back():
    server, outbox = Server(there=False), Outbox(first_pause_s=0.01)
    for number in range(5):
        outbox.put(lambda number=number: server.call(number))
    assert server.tried.wait(10) and server.got == []
    server.there = True
    assert outbox.close(10) and server.got == [0, 1, 2, 3, 4] and outbox.away_because == ""


def test_the_end_waits_no_longer_than_it_is_told_and_says_why():
    server, outbox = Server(there=False), Outbox(first_pause_s=0.01)
    outbox.put(lambda: server.call(0))
    began = time.monotonic()
    assert not outbox.close(0.2)
    assert outbox.away_because == "nobody answers" and time.monotonic() - began < 20


def test_a_refusal_is_no_absence_and_is_raised_where_the_next_call_is_given():
    outbox = Outbox()

    def refused():
        raise MlflowException("no such run", error_code=1000)  # INVALID_PARAMETER_VALUE

    outbox.put(refused)
    outbox._thread.join(10)
    with pytest.raises(MlflowException, match="no such run"):
        outbox.put(lambda: None)
    assert not outbox.close(1) and outbox.away_because == "no such run"


def test_a_server_that_is_slow_is_waited_for_as_long_as_it_answers(monkeypatch):
    monkeypatch.setattr(outbox_module, "LONGEST_PAUSE_S", 1.0)
    outbox, made = Outbox(first_pause_s=0.01), []

    def slow(number):
        time.sleep(0.4)
        made.append(number)

    for number in range(5):  # together longer than any wait for a single one
        outbox.put(lambda number=number: slow(number))
    assert outbox.close(0.5) and made == list(range(5))
