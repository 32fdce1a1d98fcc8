"""An ensemble of five networks. With no option: embedded phantom data, two CPU cores, minutes.

    python experiments/ensemble.py
    python experiments/ensemble.py --members diverse --data DIR --preset paper --gpus-per-trial 0.5

The members and what is expected of them stand in search_spaces/ensemble.py.
"""

from search_spaces.ensemble import EXPECTED_GAIN, members
from segmamba.commands.ensemble import ensemble_command

if __name__ == "__main__":
    ensemble_command(members, EXPECTED_GAIN)
