"""The looks of a running study: taken from its trials in MLflow, logged there and shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segmamba.orchestration.tracking.study_looks import log_look
from segmamba.orchestration.tracking.study_reader import read_study
from segmamba.studies.looks import Look
from segmamba.studies.results import ENDED
from segmamba.studies.sequential import take_look

if TYPE_CHECKING:
    from segmamba.orchestration.engine.progress import ProgressDisplay
    from segmamba.orchestration.tracking.study_run import StudyRun
    from segmamba.studies.hypothesis import Hypothesis
    from segmamba.studies.results import Study


class SequentialLooks:
    """Takes the looks of one start of a study.

    Args:
        run: The study's run.
        claim: What the looks decide.
        progress: Where each look is shown.
    """

    def __init__(self, run: StudyRun, claim: Hypothesis, progress: ProgressDisplay) -> None:
        self.run, self.claim, self.progress = run, claim, progress

    def take(self, seeds: int, earlier: Sequence[Look]) -> Look | None:
        """Take the look after the first `seeds` seeds.

        Args:
            seeds: How many seeds it looks at.
            earlier: The looks before it.

        Returns:
            The look, logged; None while MLflow does not know the end of one of its trials.
        """
        study = self.run.store.retry(self._read, self.progress.say)
        looked_at = study.seed_range[:seeds]
        if any(t.status not in ENDED for t in study.trials if t.seed in looked_at):
            return None
        look = take_look(study, self.claim, seeds, tuple(earlier))
        self.run.store.retry(lambda: log_look(self.run, [*earlier, look]), self.progress.say)
        self.progress.say(f"look     after {seeds} seeds: {look.reason}")
        for arm, reason in look.dropped.items():
            self.progress.say(f"         no further seed for {arm}: {reason}")
        return look

    def close(self) -> None:
        """Take a last look where seeds that had begun ahead of the deciding look have ended since.

        What was decided stays; the estimates count those seeds too.
        """
        study = self.run.store.retry(self._read, self.progress.say)
        if not study.looks or study.looks[-1].arms:
            return
        seeds = study.looks[-1].seeds + 1
        ahead = [t for t in study.trials if t.seed in study.seed_range[seeds - 1 : seeds]]
        paired = {t.arm for t in ahead if t.status == "FINISHED"}
        if any(paired >= set(contrast.weights) for contrast in self.claim.contrasts):
            self.take(seeds, study.looks)

    def _read(self) -> Study:
        return read_study(self.run, histories=False)
