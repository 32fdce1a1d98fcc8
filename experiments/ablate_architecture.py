"""The ablation of the network's parts; without options, minutes on two CPU cores and phantom data.

    python experiments/ablate_architecture.py
    python experiments/ablate_architecture.py --data DIR --preset paper

search_spaces/ablate_architecture.py declares the question, the arms and the claim.
"""

from search_spaces.ablate_architecture import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
