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
