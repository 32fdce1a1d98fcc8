"""What an inference ablation measured: arms that need no training, on trained networks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from segmamba.data.case import patient_of
from segmamba.evaluation.intervals import paired_interval
from segmamba.studies.anova import crossed
from segmamba.studies.results import StudyData


@dataclass(frozen=True, kw_only=True)
class InferenceAblation:
    """The arms of an inference ablation, scored on one checkpoint or several."""

    name: str
    baseline: str
    """The arm that the others are compared with."""
    arms: dict[str, dict[str, Any]]
    """Name to dotted changes."""
    checkpoints: tuple[str, ...]
    rows: dict[str, list[list[dict[str, Any]]]]
    """Arm to the rows of checkpoint 1, of checkpoint 2 and so on; see `score_arms`."""
    data: StudyData
    """Only its test set is used."""
    environment: dict[str, str]
    command: str
    mlflow_uri: str
    run_id: str
    seconds: float

    def table(self, arm: str, column: str) -> np.ndarray:
        """Return one column of the rows, float (checkpoints, cases)."""
        return np.array([[row[column] for row in rows] for rows in self.rows[arm]], float)

    def mean(self, arm: str, column: str) -> float:
        """Return the mean of a column over checkpoints and cases."""
        return float(self.table(arm, column).mean())

    def difference(self, arm: str, column: str) -> tuple[float, float | None, float | None]:
        """Return the arm minus the baseline, with its 95 % interval.

        The interval of one checkpoint is over patients; that of several over training runs and
        cases.

        Returns:
            Mean, low and high; low and high are None where one patient gives no interval.
        """
        differences = self.table(arm, column) - self.table(self.baseline, column)
        if len(differences) == 1:
            return paired_interval(differences[0], [patient_of(c) for c in self.data.test])
        half = float(crossed(differences).half_width())
        mean = float(differences.mean())
        return mean, mean - half, mean + half
