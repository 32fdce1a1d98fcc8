"""SegMamba against the U-Net and the field's networks. With no option: embedded phantom data, two CPU cores, minutes.

    python experiments/compare_baselines.py
    python experiments/compare_baselines.py --data DIR --preset paper --seeds 3

The question, the arms and the claim stand in search_spaces/compare_baselines.py.
"""

from search_spaces.compare_baselines import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
