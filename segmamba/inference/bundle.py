"""What an exported MONAI bundle takes from this package: its network, its cases and its labels.

The bundle's files are made by `export`.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segmamba.config import load_config, load_postprocess
from segmamba.data.cases import MIXED, find_cases
from segmamba.data.image_files import stem_of
from segmamba.data.labels import MODALITIES, from_classes
from segmamba.data.layouts.namings import part_of
from segmamba.errors import UserError
from segmamba.inference.decide import decide
from segmamba.inference.postprocess import postprocess_classes
from segmamba.models import build_model
from segmamba.models.outputs import output_channels, probabilities


class BundleNetwork(torch.nn.Module):
    """A network that ends in probabilities, which MONAI's inferer averages over windows.

    Args:
        config_file: The config.json that the weights belong to.
    """

    def __init__(self, config_file: str | Path) -> None:
        super().__init__()
        config = load_config(config_file)
        self.network, self.outputs = build_model(config.model), output_channels(config.model)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Predict a batch of windows.

        Args:
            x: Float (B, 4, x, y, z), z-scored, in the order of MODALITIES.

        Returns:
            Probabilities, float32 (B, K, x, y, z).
        """
        return probabilities(self.network(x), self.outputs)


def datalist(source: str | Path) -> list[dict[str, list[str]]]:
    """The cases of a folder as MONAI lists them.

    Args:
        source: A folder of any layout with a file for each modality.

    Returns:
        [{"image": [T1, T1ce, T2, FLAIR paths]}, ...].

    Raises:
        UserError: The folder holds no cases, or a file that holds all modalities.
    """
    cases = find_cases(source, MIXED)
    for case in cases:
        if case.channels:
            raise UserError(
                f"{case.id}: {case.files[0]} holds all modalities; MONAI's LoadImage takes a file "
                "for each: split it first"
            )
    return [{"image": [str(case.images[modality]) for modality in MODALITIES]} for case in cases]


class Labels:
    """The bundle's last step before writing: probabilities to values of a label convention.

    Args:
        config_file: The config.json of the network.
        convention_name: The convention of the values.
        postprocess_file: The postprocessing.json that is applied.
    """

    def __init__(
        self, config_file: str | Path, convention_name: str, postprocess_file: str | Path
    ) -> None:
        self.outputs = output_channels(load_config(config_file).model)
        self.convention_name = convention_name
        self.postprocessing = load_postprocess(postprocess_file)

    # MONAI hands over its MetaTensor, a Tensor with a `meta` dict, and wants one back
    def __call__(self, probability: Any) -> Any:
        """Decide one case.

        Args:
            probability: (K, x, y, z), a MetaTensor or an array.

        Returns:
            uint8 (1, x, y, z). For a MetaTensor, one whose file name is the case's id.
        """
        classes = decide(torch.as_tensor(probability), self.outputs, self.postprocessing.thresholds)
        labels_of = self.outputs.labels
        classes_done = postprocess_classes(classes.cpu().numpy(), self.postprocessing, labels_of)
        values = from_classes(classes_done, self.convention_name, labels_of)
        labels = torch.from_numpy(values)[None]
        if not hasattr(probability, "meta"):
            return labels
        source = Path(str(probability.meta["filename_or_obj"]))
        return type(probability)(
            labels, meta=probability.meta | {"filename_or_obj": case_of(source)}
        )


def case_of(path: Path) -> str:
    """The id of the case that a file belongs to.

    MONAI names what it writes by the file that it read first.

    Args:
        path: One of the case's files.

    Returns:
        The file's name without the modality and the ending.
    """
    part = part_of(path)
    return part[0] if part else re.sub(r"_\d{4}$", "", stem_of(path))
