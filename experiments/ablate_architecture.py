"""The ablation of the network's parts. With no option: embedded phantom data, two CPU cores, minutes.

    python experiments/ablate_architecture.py
    python experiments/ablate_architecture.py --data DIR --preset paper --seeds 3

The question, the arms and the claim stand in search_spaces/ablate_architecture.py.
"""

from search_spaces.ablate_architecture import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
