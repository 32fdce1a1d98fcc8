"""The ablation of the patch size; without options, minutes on two CPU cores and phantom data.

    python experiments/ablate_patch_size.py
    python experiments/ablate_patch_size.py --data DIR --preset paper

search_spaces/ablate_patch_size.py declares the question, the arms and the claim.
"""

from search_spaces.ablate_patch_size import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
