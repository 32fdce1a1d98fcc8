"""The page of a running study: written after every trial, and never a reason for it to stop."""

import contextlib
import dataclasses
import threading
import time

import pytest
from mlflow.exceptions import MlflowException

from segmamba.orchestration.engine import live_page
from segmamba.orchestration.engine.live_page import LivePage, live_state
from segmamba.orchestration.engine.progress import SilentProgress
from segmamba.orchestration.tracking import study_reader
from segmamba.reports import report
from tests.studies.synthetic import synthetic_study

WAIT_S = 60.0


class Heard(SilentProgress):
    """Keeps what is said and which events are passed on."""

    def __init__(self):
        self.lines, self.events = [], []

    def say(self, message):
        self.lines.append(message)

    def completed(self, key):
        self.events.append(("completed", key))

    def left_s(self):
        return 90.0


class Written(list):
    """The Live of every page that was written; `after(n)` waits for the n-th."""

    def __init__(self):
        super().__init__()
        self._changed = threading.Condition()

    def add(self, live):
        with self._changed:
            self.append(live)
            self._changed.notify_all()

    def after(self, number):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self) >= number, WAIT_S)
        return self[number - 1]


@pytest.fixture
def study():
    """Two of four trials have ended and one runs."""
    made = synthetic_study({"a": 0.0, "b": 0.01}, seeds=2, cases=3, epochs=1)
    states = ("FINISHED", "FAILED", "RUNNING", "NOT STARTED")
    trials = zip(made.trials, states, strict=True)
    return dataclasses.replace(
        made, trials=tuple(dataclasses.replace(t, status=status) for t, status in trials)
    )


@pytest.fixture
def written(study, monkeypatch):
    """Pages are only noted, and written as soon as there is a reason to."""
    for name in ("SETTLE_S", "SHARE"):
        monkeypatch.setattr(live_page, name, 0.0)
    monkeypatch.setattr(live_page, "EVERY_S", 10 * WAIT_S)
    monkeypatch.setattr(study_reader, "read_study", lambda run: study)
    pages = Written()
    monkeypatch.setattr(report, "write_live_page", lambda study, folder, live: pages.add(live))
    return pages


@pytest.mark.parametrize("took_s", [0.5, 5.0, 60.0])
def test_a_page_takes_a_twentieth_of_a_core_however_long_one_takes(took_s):
    assert took_s / (took_s + live_page.pause_s(took_s)) < 1 / 20
    assert live_page.pause_s(0.0) == live_page.SETTLE_S


@contextlib.contextmanager
def live_page_of(folder, heard):
    """The page of a study whose trials begin."""
    with LivePage(None, folder, heard) as page:
        page.trials(["a plan"], epochs=1, at_once=1)
        yield page


def test_a_study_with_nothing_left_to_run_has_its_report_alone(written, tmp_path):
    with LivePage(None, tmp_path, Heard()) as page:
        page.trials([], epochs=1, at_once=1)
        time.sleep(0.2)
        page.close()
    assert not written


def test_the_page_is_written_at_the_start_and_after_every_trial(written, tmp_path):
    heard = Heard()
    with live_page_of(tmp_path, heard) as page:
        assert written.after(1).refresh_s > 0
        page.completed("b, seed 0")
        written.after(2)
        page.failed("b, seed 1", "no reason", "log")
        written.after(3)
        page.close()
    assert len(written) == 3, "none after it was closed"
    assert heard.events == [("completed", "b, seed 0")], "the display hears of it too"
    assert heard.lines == [
        f"page     {tmp_path / 'report.html'} (written again while the study runs)"
    ]


def test_the_page_is_written_while_no_trial_ends(written, tmp_path, monkeypatch):
    monkeypatch.setattr(live_page, "EVERY_S", 0.01)
    with live_page_of(tmp_path, Heard()):
        written.after(3)


def test_a_busy_machine_does_not_make_the_page_rare(written, study, tmp_path, monkeypatch):
    """What counts is the processor's time that a page takes, not how long it waits for it."""
    monkeypatch.setattr(live_page, "SHARE", 1000.0)

    def read_slowly(run):
        time.sleep(0.2)
        return study

    monkeypatch.setattr(study_reader, "read_study", read_slowly)
    with live_page_of(tmp_path, Heard()) as page:
        written.after(1)
        page.completed("b, seed 0")
        written.after(2)


def test_a_page_that_fails_is_said_once_and_stops_nothing(written, tmp_path, monkeypatch):
    tried = Written()

    def fail(*page):
        tried.add(None)
        raise OSError("no space\nleft")

    monkeypatch.setattr(report, "write_live_page", fail)
    heard = Heard()
    with live_page_of(tmp_path, heard) as page:
        tried.after(1)
        page.completed("a, seed 0")
        tried.after(2)
    said = [line for line in heard.lines if "cannot be written" in line]
    assert said == ["page     cannot be written (no space left); the study goes on without it"]
    assert heard.events == [("completed", "a, seed 0")]


def test_a_study_that_breaks_off_has_a_page_that_says_so_and_stays(written, tmp_path):
    with pytest.raises(RuntimeError), live_page_of(tmp_path, Heard()):
        written.after(1)
        raise RuntimeError("MLflow is gone")
    assert written[-1].state == "Ended by an error: MLflow is gone" and written[-1].refresh_s == 0
    assert "--resume" in written[-1].sentence
    with pytest.raises(KeyboardInterrupt), live_page_of(tmp_path, Heard()):
        written.after(3)
        raise KeyboardInterrupt
    assert written[-1].state == "Stopped"


def test_the_page_counts_trials_and_says_which_run_and_what_is_left(study):
    live = live_state(study, 90.0)
    assert (live.ended, live.total) == (2, 4)
    assert live.sentence == "2 of 4 trials have ended, about 1:30 min left. Running: b, seed 0."
    assert "not known yet" in live_state(study, None).sentence
    adding = dataclasses.replace(study, max_seeds=6)
    assert "further seeds follow" in live_state(adding, 1.0).sentence


def test_a_server_that_is_away_is_named_without_its_password_and_the_study_goes_on(
    tmp_path, monkeypatch
):
    tried = Written()

    def fail(run):
        tried.add(None)
        raise MlflowException("API request to http://me:hunter22@host failed", 1)  # an internal one

    monkeypatch.setattr(study_reader, "read_study", fail)
    heard = Heard()
    with live_page_of(tmp_path, heard):
        tried.after(1)
    (said,) = (line for line in heard.lines if "mlflow" in line)
    assert said == (
        "mlflow   does not answer (API request to http://me:***@host failed); training goes on, "
        "and what MLflow misses is sent when it is back"
    )
