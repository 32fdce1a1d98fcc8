"""The search for hyperparameters; without options, minutes on two CPU cores and phantom data.

    python experiments/tune_hyperparameters.py
    python experiments/tune_hyperparameters.py --data DIR --preset paper

search_spaces/tune_hyperparameters.py declares the question, the arms and the claim.
"""

from search_spaces.tune_hyperparameters import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
