"""The patch-size ablation. With no option: embedded phantom data, two CPU cores, minutes.

    python experiments/ablate_patch_size.py
    python experiments/ablate_patch_size.py --data DIR --preset paper --seeds 3

The question, the arms and the claim stand in search_spaces/ablate_patch_size.py.
"""

from search_spaces.ablate_patch_size import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
