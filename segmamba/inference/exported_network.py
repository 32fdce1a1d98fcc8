"""A trained network on its way into a file of another runtime, and what that file must compute."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmamba.config import PostprocessConfig, load_postprocess
from segmamba.data.label_sets import AUTO
from segmamba.data.labels import MODALITIES, convention
from segmamba.errors import UserError
from segmamba.inference.checkpoint_files import (
    CONFIG_FILE,
    find_beside,
    find_weights,
    postprocess_file,
)
from segmamba.inference.ensemble_member import load_member
from segmamba.inference.facts import facts
from segmamba.models import side_multiples
from segmamba.models.exportable import Exportable, Form, check_any_size
from segmamba.models.outputs import Channels, probabilities

TOLERANCE = 1e-3
"""Largest error of an exported network's probabilities, and of its logits as a share of the
largest."""
SEED = 0
"""Of the patch on which they are compared."""
CPU = torch.device("cpu")
Runs = Callable[[Tensor], tuple[Tensor, Tensor]]
"""An exported network: an image to probabilities and logits."""


@dataclass(frozen=True)
class Exporting:
    """A trained network and all that a file of it says."""

    network: nn.Module
    """The network that predicts in fp32, with its norms folded."""
    outputs: Channels
    facts: dict[str, Any]
    notes: tuple[str, ...]
    """How its weights were read."""
    window: tuple[int, int, int]
    multiples: tuple[int, int, int]
    dynamic: bool = False
    """Whether the file takes any batch and any window."""

    def traceable(self, form: Form = "plain") -> Exportable:
        """The copy that is traced; see Exportable."""
        return Exportable(self.network, self.outputs, form=form)

    def patch(self, batch: int = 1, further: int = 0) -> Tensor:
        """A random image (B, 4, x, y, z) of a window, larger by some multiples of the sides."""
        sides = (w + further * m for w, m in zip(self.window, self.multiples, strict=True))
        generator = torch.Generator().manual_seed(SEED)
        return torch.randn(batch, len(MODALITIES), *sides, generator=generator)

    @property
    def patches(self) -> list[Tensor]:
        """The images on which a file is compared with the network."""
        others = [self.patch(batch=2), self.patch(further=1)] if self.dynamic else []
        return [self.patch(), *others]

    @torch.inference_mode()
    def check(self, file: Path, run: Runs) -> None:
        """Compare what a written file computes with the network in double precision.

        Our own single precision may be further away than TOLERANCE, where norms of few voxels
        enlarge what is rounded; a file may then be as far.

        Args:
            file: The file, for the message.
            run: What it computes.

        Raises:
            UserError: They differ.
        """
        exact = copy.deepcopy(self.network).double()
        for patch in self.patches:
            expected = exact(patch.double())
            shares = probabilities(expected, self.outputs)
            own = self.network(patch)
            ours = probabilities(own, self.outputs), own
            limit = max(TOLERANCE, _error(ours, (shares, expected)))
            worst = _error(run(patch), (shares, expected))
            if not worst <= limit:  # NaN is not
                size = " x ".join(map(str, patch.shape[2:]))
                raise UserError(
                    f"{file}: not written, for what it computes differs from the network by "
                    f"{worst:.2g} on a random patch of {size} voxels (limit {limit:.2g}); are its "
                    "weights finite?"
                )


def _error(computed: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> float:
    """The larger one of the errors of probabilities and of logits, as TOLERANCE counts them."""
    apart = (computed[1] - exact[1]).abs().max() / exact[1].abs().max().clamp_min(1)
    return float(torch.maximum(apart, (computed[0] - exact[0]).abs().max()))


def load_for_export(
    checkpoint: str | Path, *, labels: str = AUTO, dynamic: bool = False
) -> Exporting:
    """Load a trained network for a file of another runtime.

    Args:
        checkpoint: A checkpoint, as `load_member` takes it.
        labels: The label convention of what is written; "auto" is that of the network's classes.
        dynamic: Whether the file shall take any window and batch.

    Returns:
        The network.

    Raises:
        UserError: The checkpoint is missing or damaged, the convention unknown, the
            post-processing has a CRF, or the network cannot take any window.
    """
    if labels != AUTO:
        convention(labels)
    member = load_member(checkpoint, CPU)
    config, multiples = member.config, side_multiples(member.config.model)
    if dynamic:
        check_any_size(config.model)
    values = convention(member.outputs.labels.convention if labels == AUTO else labels)
    about = facts(
        config,
        member.inference,
        _postprocessing(checkpoint),
        values,
        multiples=multiples,
        dynamic=dynamic,
        released=find_beside(find_weights(checkpoint), CONFIG_FILE) is None,
    )
    window = config.data.patch_size
    return Exporting(
        member.single, member.outputs, about, member.notes, window, multiples, dynamic=dynamic
    )


def _postprocessing(checkpoint: str | Path) -> PostprocessConfig:
    file = postprocess_file(checkpoint)
    postprocessing = load_postprocess(file) if file else PostprocessConfig()
    if postprocessing.crf_steps:
        raise UserError(f"{file}: a file has no CRF; export with postprocess.crf_steps 0")
    return postprocessing
