"""The ablation of the loss weights; without options, minutes on two CPU cores and phantom data.

    python experiments/ablate_loss_weights.py
    python experiments/ablate_loss_weights.py --data DIR --preset paper

search_spaces/ablate_loss_weights.py declares the question, the arms and the claim.
"""

from search_spaces.ablate_loss_weights import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
