"""The field's Mamba networks against the U-Net; without options, on two CPU cores and phantom data.

    python experiments/compare_mamba.py
    python experiments/compare_mamba.py --data DIR --preset paper --seeds auto

search_spaces/compare_mamba.py declares the question, the arms and the claims.
"""

from search_spaces.compare_mamba import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
