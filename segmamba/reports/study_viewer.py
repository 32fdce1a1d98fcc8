"""viewer.html: the worst, the median and the best case of each arm, beside the baseline's.

Which cases these are, and the page. The predictions come from orchestration, which has the
checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segmamba.files import write_text
from segmamba.pictures.encode import ViewerCase
from segmamba.pictures.viewer import BEST, MEDIAN, WORST, named_cases, viewer_section
from segmamba.reports.pages import VIEWER, template
from segmamba.reports.tables import PHANTOM_NOTICE
from segmamba.studies.results import Study, Trial

ORDER = (WORST, BEST, MEDIAN)
"""Which examples come first where the page cannot hold all."""


@dataclass
class Example:
    """A case that is the worst, median or best of some arm."""

    case: str
    trials: dict[str, Trial] = field(default_factory=dict)
    """Arm to the trial whose prediction is shown, the baseline's first."""
    named: dict[str, list[str]] = field(default_factory=dict)
    """"worst", "best" or "median" to the arms whose it is."""

    @property
    def group(self) -> str:
        """What it is an example of, in words: "worst of depth 1, depth 2"."""
        return "; ".join(f"{name} of {', '.join(arms)}" for name, arms in self.named.items())


def examples(study: Study) -> list[Example]:
    """Choose the cases that a reader looks at first.

    Args:
        study: The study.

    Returns:
        The worst cases of all arms, then the best, then the median ones, each case once. An arm is
        shown by its first seed (and fold) that the baseline has finished as well; its own worst
        case is that of this trial.
    """
    chosen: dict[tuple[str, str], Example] = {}
    pairs = [(arm, pair) for arm in study.arms if (pair := trials_to_show(study, arm))]
    for name in ORDER:
        for arm, (baseline, trial) in pairs:
            dice = {row["case"]: row["dice_mean"] for row in trial.test_cases}
            case = named_cases(dice).get(name)
            if case is None:
                continue
            example = chosen.setdefault((case, baseline.key), Example(case))
            example.trials.setdefault(study.baseline, baseline)
            example.trials[arm] = trial
            example.named.setdefault(name, []).append(arm)
    return list(chosen.values())


def trials_to_show(study: Study, arm: str) -> tuple[Trial, Trial] | None:
    """The baseline's and the arm's trial of the first seed and fold that both have finished.

    Args:
        study: The study.
        arm: One of its arms; the baseline itself gives the same trial twice.

    Returns:
        (the baseline's, the arm's); None where there is no such pair.
    """
    finished = {
        (trial.arm, trial.seed, trial.fold): trial
        for trial in study.trials
        if trial.status == "FINISHED" and trial.test_cases
    }
    for seed, fold in sorted(
        {(trial.seed, trial.fold) for trial in finished.values()},
        key=lambda place: (place[0], -1 if place[1] is None else place[1]),
    ):
        pair = finished.get((study.baseline, seed, fold)), finished.get((arm, seed, fold))
        if pair[0] and pair[1]:
            return pair[0], pair[1]
    return None


def write_viewer(
    folder: Path, study: Study, cases: Sequence[ViewerCase], of: int, notes: Sequence[str]
) -> Path:
    """Write the page beside the study's report.

    Args:
        folder: The study's folder.
        study: The study.
        cases: The examples that fit into the page.
        of: How many there are.
        notes: What is to be said of those that are not shown, a line each.

    Returns:
        The page.
    """
    text = template("study_viewer.html.j2", autoescape=True).render(
        study=study,
        notice=PHANTOM_NOTICE if study.data.phantom else "",
        notes=notes,
        viewer=viewer_section(cases, of, f"Dice: that of {study.baseline}, mean over the regions"),
        reported=(folder / "report.html").exists(),
    )
    return write_text(folder / VIEWER, text)
