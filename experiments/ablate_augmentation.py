"""The ablation of augmentation; without options, minutes on two CPU cores and phantom data.

    python experiments/ablate_augmentation.py
    python experiments/ablate_augmentation.py --data DIR --preset paper

search_spaces/ablate_augmentation.py declares the question, the arms and the claim.
"""

from search_spaces.ablate_augmentation import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
