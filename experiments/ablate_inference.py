"""The ablation of inference on trained networks; minutes on a CPU with those of the demo.

    python experiments/ablate_inference.py --checkpoint RUN
    python experiments/ablate_inference.py --checkpoint RUN --checkpoint RUN --data DIR

RUN is the folder of a trial, such as Results/ablate_depth_Run01/trials/depth-2_seed0.
search_spaces/ablate_inference.py declares the arms.
"""

from search_spaces.ablate_inference import ARMS, BASELINE
from segmamba.commands.ablate_inference import inference_command

if __name__ == "__main__":
    inference_command(ARMS, BASELINE)
