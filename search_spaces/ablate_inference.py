"""What is each part of inference worth, on networks that are trained already?

Hypotheses: averaging 8 mirror images gains 1 to 2 Dice points and a conditional random field 0.5 to
1. Removing components under 100 voxels gains something, because tumours are spatially coherent. For
multi-scale inference and the overlap of windows no figure is expected.
Decides on: test Dice of each arm against the baseline, patient by patient, with the same weights.
Cost: predictions alone.
"""

from typing import Any

MIRRORS = {"inference.flips": True}
SCALES = {"inference.scales": (0.8, 1.0, 1.25)}
COMPONENTS = {"postprocess.min_component_voxels": (100, 100, 100)}
CRF = {"postprocess.crf_steps": 3}

BASELINE = "as it is"
ARMS: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "8 mirror images": MIRRORS,
    "3 scales": SCALES,
    "overlap 0.25": {"inference.overlap": 0.25},
    "overlap 0.75": {"inference.overlap": 0.75},
    "small components removed": COMPONENTS,
    "CRF": CRF,
    "all together": MIRRORS | SCALES | COMPONENTS | CRF,
}
"""The dotted changes of each arm. They apply to the run's own configuration, without its
post-processing."""
