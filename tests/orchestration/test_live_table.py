"""The live table of a study at the terminal."""

import io

from rich.console import Console

from segmamba.orchestration.engine.progress import SHOWN_ROWS, StudyProgress
from segmamba.studies.spec import TrialPlan


def test_the_live_table_of_many_trials_shows_what_runs():
    progress = StudyProgress(Console(file=io.StringIO(), width=100))
    plans = [TrialPlan(arm=f"arm {i}", seed=0) for i in range(100)]
    progress.trials(plans, epochs=6, at_once=2)
    for plan in plans[:60]:
        progress.started(plan.key)
        progress.completed(plan.key)
    progress.started(plans[60].key)
    shown = [key for key, _ in progress._shown()]
    assert len(shown) == SHOWN_ROWS
    assert plans[60].key in shown and plans[61].key in shown
    assert plans[0].key not in shown
    screen = io.StringIO()
    Console(file=screen, width=100).print(progress._table())
    assert "60 of 100 trials" in screen.getvalue() and "and 76 more" in screen.getvalue()
