"""Learning beyond the plain loop; without options, on two CPU cores and phantom data.

    python experiments/ablate_learning.py --set data.labelled_share=0.2
    python experiments/ablate_learning.py --data DIR --preset quick --set data.labelled_share=0.1

search_spaces/ablate_learning.py declares the question, the arms and the claim.
"""

from search_spaces.ablate_learning import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
