"""What an exported MONAI bundle takes from this package: its network, its cases and its labels. The bundle's files are made by `export`."""

import re
from pathlib import Path

import torch

from segmamba.config import load_config, load_postprocess
from segmamba.data.case import stem_of
from segmamba.data.cases import MIXED, find_cases
from segmamba.data.labels import MODALITIES, from_classes
from segmamba.data.layouts.names import part_of
from segmamba.errors import UserError
from segmamba.inference.decide import decide
from segmamba.inference.postprocess import postprocess_classes
from segmamba.models import build_model
from segmamba.models.outputs import output_channels, probabilities


class BundleNetwork(torch.nn.Module):
    """(B, 4, x, y, z), z-scored, to probabilities (B, K, x, y, z): what MONAI's inferer then averages over windows, as segmamba does."""

    def __init__(self, config_file):
        super().__init__()
        config = load_config(config_file)
        self.network, self.channels = build_model(config.model), output_channels(config.model)
        self.eval()

    def forward(self, x):
        return probabilities(self.network(x), self.channels)


def datalist(source):
    """[{"image": [T1, T1ce, T2, FLAIR paths]}, ...] of the cases in a folder of any layout with a file for each modality."""
    cases = find_cases(source, MIXED)
    for case in cases:
        if case.channels:
            raise UserError(
                f"{case.id}: {case.files[0]} holds all modalities; MONAI's LoadImage takes a file for each: split it first"
            )
    return [{"image": [str(case.images[modality]) for modality in MODALITIES]} for case in cases]


class Labels:
    """Probabilities (K, x, y, z) to values of a label convention (1, x, y, z), post-processed: the bundle's last step before writing."""

    def __init__(self, config_file, convention_name, postprocess_file):
        self.channels = output_channels(load_config(config_file).model)
        self.convention_name, self.postprocessing = (
            convention_name,
            load_postprocess(postprocess_file),
        )

    def __call__(self, probability):
        classes = decide(
            torch.as_tensor(probability), self.channels, self.postprocessing.thresholds
        )
        values = from_classes(
            postprocess_classes(classes.cpu().numpy(), self.postprocessing), self.convention_name
        )
        labels = torch.from_numpy(values)[None]
        if not hasattr(probability, "meta"):
            return labels
        source = Path(str(probability.meta["filename_or_obj"]))
        return type(probability)(
            labels, meta=probability.meta | {"filename_or_obj": case_of(source)}
        )


def case_of(path):
    """The case's id from one of its files: MONAI names what it writes by the file that it read first."""
    told = part_of(path)
    return told[0] if told else re.sub(r"_\d{4}$", "", stem_of(path))
