"""The augmentation ablation. With no option: embedded phantom data, two CPU cores, minutes.

    python experiments/ablate_augmentation.py
    python experiments/ablate_augmentation.py --data DIR --preset paper --seeds 3

The question, the arms and the claim stand in search_spaces/ablate_augmentation.py.
"""

from search_spaces.ablate_augmentation import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
