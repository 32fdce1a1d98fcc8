"""The search for hyperparameters. With no option: embedded phantom data, two CPU cores, minutes.

    python experiments/tune_hyperparameters.py
    python experiments/tune_hyperparameters.py --data DIR --preset paper --seeds 3

The question, the arms and the claim stand in search_spaces/tune_hyperparameters.py.
"""

from search_spaces.tune_hyperparameters import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
