"""An ensemble of five networks; without options, minutes on two CPU cores and phantom data.

    python experiments/ensemble.py
    python experiments/ensemble.py --members diverse --data DIR --preset paper --gpus-per-trial 0.5

search_spaces/ensemble.py declares the members and what is expected of them.
"""

from search_spaces.ensemble import EXPECTED_GAIN, members
from segmamba.commands.ensemble import ensemble_command

if __name__ == "__main__":
    ensemble_command(members, EXPECTED_GAIN)
