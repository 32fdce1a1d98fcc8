"""The ablation of the training recipe; without options, minutes on two CPU cores and phantom data.

    python experiments/ablate_recipe.py
    python experiments/ablate_recipe.py --data DIR --preset quick --folds 5

search_spaces/ablate_recipe.py declares the question, the arms and the claims.
"""

from search_spaces.ablate_recipe import STUDY
from segmamba.commands.study import study_command

if __name__ == "__main__":
    study_command(STUDY)
