"""The inference ablation, on networks that are trained already; minutes on a CPU with the demo's.

    python experiments/ablate_inference.py --checkpoint Results/ablate_depth_Run01/trials/depth-2_seed0
    python experiments/ablate_inference.py --checkpoint RUN --checkpoint RUN --data DIR

The arms stand in search_spaces/ablate_inference.py.
"""

from search_spaces.ablate_inference import ARMS, BASELINE
from segmamba.commands.ablate_inference import inference_command

if __name__ == "__main__":
    inference_command(ARMS, BASELINE)
