"""The list of studies shows what users named as they named it."""

from segmamba.commands.studies import _print_studies


def test_names_that_look_like_markup_are_shown_as_they_are(capsys):
    row = {"study": "s_Run01", "began": "", "state": "finished", "trials": 2, "finished": 2}
    row |= {"best_dice_mean": 0.5, "question": "?", "verdict": "Undecided: [/bold]x above [b]y[/b]"}
    _print_studies([row])
    shown = " ".join(capsys.readouterr().out.split())
    assert "[/bold]x" in shown and "[b]y[/b]" in shown
