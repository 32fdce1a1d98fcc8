"""Dice with every subset of the modalities; without options, on two CPU cores and phantom data.

    python experiments/ablate_modalities.py
    python experiments/ablate_modalities.py --data DIR --preset quick --seeds 3

search_spaces/ablate_modalities.py declares the question, the arms and the claim.
"""

from search_spaces.ablate_modalities import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
