"""What one must know to use an exported network: JSON inside the file and beside it."""

import importlib.metadata
from typing import Any

from segmamba.config import Config, InferenceConfig, PostprocessConfig
from segmamba.data.labels import MODALITIES, Convention, written_values
from segmamba.inference.sliding_window import FLOOR, SIGMA_SHARE
from segmamba.models.outputs import output_channels

INPUT, OUTPUTS = "image", ("probabilities", "logits")
"""The names of an exported network's input and outputs."""
KEY = "segmamba"
"""Under which the file holds the JSON."""
RESEARCH = "Research only. The weights are no medical device."
NORMALISATION = {
    "brain": "z-score of each channel over its voxels that are not 0, which stay 0",
    "box": "z-score of each channel over all voxels of the crop",
}
"""By `inference.normalise_over`."""
PHANTOMS = (
    "By its configuration the network was trained on the embedded phantoms only: what it finds in "
    "patients is no evidence of anything."
)
OTHERS = "The licence of the weights is that of the authors who released them."
OWN = "The licence of the weights is that of the one who trained them."


def facts(
    config: Config,
    inference: InferenceConfig,
    postprocessing: PostprocessConfig,
    convention: Convention,
    *,
    multiples: tuple[int, int, int],
    dynamic: bool,
    released: bool,
) -> dict[str, Any]:
    """Say how an exported network is fed and what its outputs mean.

    Args:
        config: The Config of the network.
        inference: Its test-time options.
        postprocessing: What is done to a prediction.
        convention: The label convention of what is written.
        multiples: What the sides of a window are multiples of.
        dynamic: Whether the file takes other windows and batches than one of `data.patch_size`.
        released: Whether the weights are those that the authors of the network released.

    Returns:
        What json.dump takes.
    """
    outputs, window = output_channels(config.model), config.data.patch_size
    labels = outputs.labels
    numbers = {name: number for number, name in enumerate(labels.classes)}
    return {
        "made_by": f"segmamba {importlib.metadata.version('segmamba')}",
        "network": config.model.name,
        "use": " ".join([RESEARCH, *_origin(config, released=released)]),
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "shape": ["batch" if dynamic else 1, len(MODALITIES), *("xyz" if dynamic else window)],
            "multiples": list(multiples),
            "channels": list(MODALITIES),
            "missing": "zeros" if config.data.missing == "zeros" else "not allowed",
        },
        "preprocessing": {
            "orientation": "RAS",
            "normalisation": NORMALISATION[inference.normalise_over],
            "normalised_over": inference.normalise_over,
            "spacing_mm": config.data.spacing_mm,
            "interpolation": "linear along each axis, edges on edges, after the normalisation",
            "crop": "box of the voxels that are not 0 in any channel",
            "precision": "float16, then float32",
        },
        "window": {
            "size": list(window),
            "overlap": list(inference.overlaps(window)),
            "sigma_share": SIGMA_SHARE,
            "floor": FLOOR,
            "flips": inference.flips,
            "scales": list(inference.scales),
        },
        "output": {
            "names": list(OUTPUTS),
            "dtype": "float32",
            "channels": list(outputs.names),
            "activation": "sigmoid" if outputs.are_regions else "softmax",
        },
        "labels": {
            "classes": list(labels.classes),
            "regions": {name: list(members) for name, members in labels.members.items()},
            "written": [
                {"region": region, "class": numbers[name], "within": labels.within[region]}
                for region, name in labels.written
            ],
            "convention": convention.name,
            "values": written_values(convention.name, labels).tolist(),
        },
        "postprocessing": {
            "thresholds": list(postprocessing.thresholds),
            "min_component_voxels": list(postprocessing.min_component_voxels),
            "min_et_voxels": postprocessing.min_et_voxels,
        },
    }


def _origin(config: Config, *, released: bool) -> list[str]:
    """What limits the use of the weights."""
    if released:
        return [OTHERS]
    return [OWN] if config.data.source else [OWN, PHANTOMS]
