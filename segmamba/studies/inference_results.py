"""What an inference ablation measured: arms that need no training, on trained networks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from segmamba.evaluation.intervals import PairedMean, patient_interval
from segmamba.evaluation.patients import patient_means, row_patient
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
        """Return one column of the rows, float (checkpoints, patients); cases are averaged."""
        values = np.array([[row[column] for row in rows] for rows in self.rows[arm]], float)
        return patient_means(values, self.patients)[0]

    @property
    def patients(self) -> list[str]:
        """The patient of each test case; every arm and checkpoint has the same cases."""
        return [row_patient(row) for row in self.rows[self.baseline][0]]

    def mean(self, arm: str, column: str) -> float:
        """Return the mean of a column over checkpoints and patients."""
        return float(self.table(arm, column).mean())

    def seconds_a_case(self, arm: str) -> float:
        """Return the mean time of a case over checkpoints."""
        return float(np.mean([row["seconds"] for rows in self.rows[arm] for row in rows]))

    def difference(self, arm: str, column: str) -> PairedMean:
        """Return the arm minus the baseline, with its 95 % interval.

        The interval of one checkpoint is over patients; that of several over training runs and
        patients.

        Returns:
            Mean, low and high; low and high are None where one patient gives no interval.
        """
        differences = self.table(arm, column) - self.table(self.baseline, column)
        if len(differences) == 1:
            return patient_interval(differences[0], list(dict.fromkeys(self.patients)))
        half = float(crossed(differences).half_width())
        mean = float(differences.mean())
        return mean, mean - half, mean + half
