"""What is each part of inference worth, on networks that are trained already?

Hypotheses: mirror images gain 1 to 2 Dice points, a conditional random field 0.5 to 1, removing components under 100
voxels something, because tumours are spatially coherent. Multi-scale inference and the overlap of windows come without a figure.
Decides on: test Dice of each arm against the baseline, patient by patient, on the same weights. Cost: predictions alone.
"""

MIRRORS = {"inference.flips": True}
SCALES = {"inference.scales": (0.8, 1.0, 1.25)}
COMPONENTS = {"postprocess.min_component_voxels": (100, 100, 100)}
CRF = {"postprocess.crf_steps": 3}

BASELINE = "as it is"
ARMS = {
    BASELINE: {},
    "8 mirror images": MIRRORS,
    "3 scales": SCALES,
    "overlap 0.25": {"inference.overlap": 0.25},
    "overlap 0.75": {"inference.overlap": 0.75},
    "small components removed": COMPONENTS,
    "CRF": CRF,
    "all together": MIRRORS | SCALES | COMPONENTS | CRF,
}
"""Dotted changes of the run's own configuration, whose post-processing is off in the baseline."""
