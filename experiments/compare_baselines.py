"""SegMamba against other networks; without options, minutes on two CPU cores and phantom data.

    python experiments/compare_baselines.py
    python experiments/compare_baselines.py --data DIR --preset paper

search_spaces/compare_baselines.py declares the question, the arms and the claim.
"""

from search_spaces.compare_baselines import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
