"""The ablation of the Mamba depth; without options, minutes on two CPU cores and phantom data.

    python experiments/ablate_depth.py
    python experiments/ablate_depth.py --data DIR --preset paper --gpus-per-trial 0.5

search_spaces/ablate_depth.py declares the question, the arms and the claim.
"""

from search_spaces.ablate_depth import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
