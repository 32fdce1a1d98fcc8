"""Scans and their paths against a convolution and nothing; without options, on two CPU cores.

    python experiments/ablate_mixer.py
    python experiments/ablate_mixer.py --data DIR --preset paper --seeds auto

search_spaces/ablate_mixer.py declares the question, the arms and the claims.
"""

from search_spaces.ablate_mixer import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
