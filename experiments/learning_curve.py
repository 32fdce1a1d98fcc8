"""The learning curve; without options, minutes on two CPU cores and phantom data.

    python experiments/learning_curve.py
    python experiments/learning_curve.py --data DIR --set learning.initial_weights=FILE

search_spaces/learning_curve.py declares the question, the arms and the claim.
"""

from search_spaces.learning_curve import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
