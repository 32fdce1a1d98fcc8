"""What is written on the terminal."""

import pytest
from rich.console import Console

from segmamba.screen import clock, no_progress, points, print_line


def test_a_line_is_printed_as_it_is_however_long_and_whatever_its_brackets(capsys):
    line = f"run [old] {'x' * 200} /a/b 3.5"
    print_line(Console(width=40), line, style="bold")
    assert capsys.readouterr().out == f"{line}\n"


def test_dice_is_written_in_points():
    assert points(0.70749) == "70.7" and points(0.70749, decimals=2) == "70.75"
    assert points(1) == "100.0"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00 min"), (200.9, "3:20 min"), (7500, "2 h 05 min")]
)
def test_a_duration_is_written_in_hours_and_minutes(seconds, text):
    assert clock(seconds) == text


def test_work_that_nobody_watches_shows_nothing(capsys):
    no_progress(1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_terminal_gets_lines_that_end_between_words(width, capsys):
    path = "/data/" + "a-long-name/" * 12
    line = f"compute  {'one eager trial at a time was measured to end soonest; ' * 4}see {path}"
    print_line(Console(width=width, force_terminal=True), line)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2 and all(one.startswith(" " * 9) for one in lines[1:])
    assert " ".join(" ".join(lines).split()) == " ".join(line.split())
    assert all(len(one) <= width for one in lines if path not in one)


def test_a_command_to_be_copied_stays_one_line(capsys):
    line = f"runs     mlflow ui --backend-store-uri sqlite:////{'x' * 60}/mlflow.db"
    print_line(Console(width=80, force_terminal=True), line, copied=True)
    assert capsys.readouterr().out == f"{line}\n"
