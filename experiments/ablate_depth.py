"""The Mamba-depth ablation. With no option: embedded phantom data, two CPU cores, minutes.

    python experiments/ablate_depth.py
    python experiments/ablate_depth.py --data DIR --preset paper --seeds 3 --gpus-per-trial 0.5

The question, the arms and the claim stand in search_spaces/ablate_depth.py.
"""

from search_spaces.ablate_depth import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
