"""Learning beyond the plain loop, one option an arm. With no option: embedded phantom data, all labels, two CPU cores.

    python experiments/ablate_learning.py --set data.labelled_share=0.2 --seeds 3
    python experiments/ablate_learning.py --data DIR --preset quick --set data.labelled_share=0.1 --gpus-per-trial 0.5

The question, the arms and the claim stand in search_spaces/ablate_learning.py; what the options do, in docs/learning.md.
"""

from search_spaces.ablate_learning import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
