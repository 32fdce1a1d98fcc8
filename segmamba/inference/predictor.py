"""From a scan to a segmentation on the scan's own grid, by one network or by several that vote.

    predictor = load_predictor(["Results/ablate_depth_Run01/trials/depth-2_seed0"])
    classes = predictor.predict(read_scan(case))
    probability = predictor.probabilities(read_scan(case))

Members vote softly: their probabilities are averaged on the source's grid, each brought there from
its own working grid by trilinear interpolation, so that members of any spacing, patch size and scan
implementation mix. Where all predict classes (softmax), classes are averaged and the likeliest
wins. Where one predicts regions (sigmoid), all are averaged as regions: a region's probability is
the sum of its classes'; a voxel belongs to a region above 0.5 and inner regions lie within outer
ones.

Legend: K channels, (x, y, z) the source's grid in canonical orientation or, where it says box, the
part of it that holds the brain.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segmamba.config import InferenceConfig, PostprocessConfig, load_postprocess
from segmamba.data.label_sets import LabelSet
from segmamba.data.volumes import Scan
from segmamba.data.working_grid import background_levels
from segmamba.device import choose_device
from segmamba.errors import UserError
from segmamba.inference.checkpoint_files import WEIGHTS_FILE, postprocess_file
from segmamba.inference.decide import background, in_channels
from segmamba.inference.ensemble_member import Member, common_labels, load_member
from segmamba.inference.grids import coverage, to_source
from segmamba.inference.postprocess import (
    check_postprocessing,
    likeliest,
    postprocess_classes,
)
from segmamba.inference.prepared_scan import (
    Analysis,
    PreparedScan,
    normalised_over_box,
    prepare_scan,
)
from segmamba.inference.uncertainty import vote_with_entropy
from segmamba.models.outputs import Channels


class Predictor:
    """Networks that vote on a segmentation, and what is done with the vote.

    `load_predictor` makes one from files. It keeps nothing of a case and may be used for any
    number; `len(predictor)` is the number of its networks.

        predictor = load_predictor("Results/SegMamba_Run01")
        scan = read_scan(find_cases("/path/to/cases")[0])
        classes = predictor.predict(scan)  # uint8 (x, y, z), by predictor.labels.classes

    Args:
        members: At least one; all on one device.
        postprocessing: What is done to a prediction; nothing by default.
        postprocessing_from: The file that it was read from, which `summary` names.

    Attributes:
        members: The networks, each with its Config.
        postprocessing: What is done to a prediction.
        device: Where the members predict.
        outputs: The K channels of its probabilities: the classes of its label set, or the regions
            where a member predicts regions.

    Raises:
        UserError: The networks tell different classes apart, or the post-processing is for others.
    """

    def __init__(
        self,
        members: Iterable[Member],
        postprocessing: PostprocessConfig | None = None,
        postprocessing_from: str = "",
    ) -> None:
        self.members = tuple(members)
        self.postprocessing = postprocessing or PostprocessConfig()
        self._postprocessing_from = postprocessing_from
        self.device = self.members[0].device
        self.outputs = Channels(
            common_labels(self.members),
            any(member.outputs.are_regions for member in self.members),
        )
        check_postprocessing(self.postprocessing, self.labels)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def labels(self) -> LabelSet:
        """The classes and regions of its predictions."""
        return self.outputs.labels

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the K channels of its probabilities, for example ("ET", "TC", "WT")."""
        return self.outputs.names

    @property
    def spacings_mm(self) -> tuple[float, ...]:
        """The voxel sides of the members' working grids, each once."""
        return tuple(dict.fromkeys(member.config.data.spacing_mm for member in self.members))

    @property
    def missing(self) -> Literal["error", "zeros"]:
        """What is done with a case that lacks modalities; zeros only where every network says so.

        It is the setting `data.missing` of the networks, as find_cases takes it.
        """
        settings = {member.config.data.missing for member in self.members}
        return "zeros" if settings == {"zeros"} else "error"

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user on how the weights were read: what was stripped and converted."""
        return tuple(note for member in self.members for note in member.notes)

    @property
    def summary(self) -> str:
        """One line for the user: how many networks predict, where, and with which options."""
        options = list(dict.fromkeys(member.inference.summary for member in self.members))
        networks = "one network" if len(self) == 1 else f"{len(self)} networks"
        origin = f" (from {self._postprocessing_from})" if self._postprocessing_from else ""
        return (
            f"{networks} on {self.device}, {' / '.join(options)}, "
            f"post-processing {self.postprocessing.summary}{origin}"
        )

    def prepare(self, scan: Scan | PreparedScan) -> PreparedScan:
        """Z-score a scan, resample it and cut it to the brain. Runs on the CPU, in any thread.

        Args:
            scan: A case in memory, as `read_scan` reads it. A PreparedScan comes back as it is.

        Returns:
            What every other method takes as well.
        """
        if isinstance(scan, PreparedScan):
            return scan
        prepared = prepare_scan(scan, self.spacings_mm)
        if not any(member.inference.normalise_over == "box" for member in self.members):
            return prepared
        return replace(prepared, background=background_levels(scan.image))

    def predict(self, scan: Scan | PreparedScan) -> np.ndarray:
        """Segment a scan.

        Args:
            scan: A case in memory, as `read_scan` reads it.

        Returns:
            Class numbers, uint8 (x, y, z), places in `self.labels.classes`: for glioma 0
            background, 1 NCR, 2 ED, 3 ET. They are post-processed, on the source's grid in
            canonical orientation (RAS+). `write_labels` brings them into the source's own
            orientation and a label convention.

        Raises:
            UserError: A member's probabilities are not finite, or a window does not fit into the
                device's memory.
        """
        return self.finish(self.analyse(self.prepare(scan)))

    def analyse(
        self, prepared: PreparedScan, *, probabilities: bool = False, uncertainty: bool = False
    ) -> Analysis:
        """Do the device's part of a prediction.

        Args:
            prepared: The scan, from `prepare`.
            probabilities: Whether the mean of the members is kept.
            uncertainty: Whether entropy and, of several members, disagreement are computed.

        Returns:
            Classes before small components are removed, and the maps that are asked for.

        Raises:
            UserError: As `predict`.
        """
        members = self.member_probabilities(prepared)
        mean, entropies = (
            vote_with_entropy(members, self.outputs) if uncertainty else (self.vote(members), None)
        )
        classes = likeliest(mean, self.outputs, self.postprocessing, lambda: self._guide(prepared))
        entropy, disagreement = (t.cpu().numpy() for t in entropies) if entropies else (None, None)
        return Analysis(
            prepared,
            classes.cpu().numpy(),
            probability=mean.cpu().numpy() if probabilities else None,
            entropy=entropy,
            disagreement=disagreement if len(self) > 1 else None,
        )

    def finish(self, analysis: Analysis) -> np.ndarray:
        """Do the CPU's part of a prediction, in any thread.

        Args:
            analysis: The device's part.

        Returns:
            uint8 (x, y, z) on the source's grid, without small components.
        """
        classes = postprocess_classes(analysis.classes, self.postprocessing, self.labels)
        return analysis.prepared.whole(classes)

    def probabilities(self, scan: Scan | PreparedScan) -> Tensor:
        """Average the members' probabilities, before any post-processing.

        Args:
            scan: A case in memory, as `read_scan` reads it.

        Returns:
            float32 (K, x, y, z) on the device, on the source's whole grid in canonical orientation;
            the K channels are `self.channels`.

        Raises:
            UserError: As `predict`.
        """
        prepared = self.prepare(scan)
        whole = background(self.outputs, prepared.source_shape, self.device)
        inner = (slice(None), *prepared.box)
        whole[inner] = self.vote(self.member_probabilities(prepared))
        return whole

    @torch.inference_mode()
    def member_probabilities(self, prepared: PreparedScan) -> Iterator[Tensor]:
        """Predict a scan by one member after the other.

        Args:
            prepared: The scan, from `prepare`.

        Yields:
            float32 (K, x, y, z) on `prepared.box` of the source's grid, in `self.channels`.

        Raises:
            UserError: As `predict`.
        """
        on_device, covered = {}, {}
        for spacing_mm, image in prepared.images.items():
            copied = torch.from_numpy(np.array(image)).to(self.device, non_blocking=True)
            on_device[spacing_mm] = copied.float()
            covered[spacing_mm] = coverage(prepared.grids[spacing_mm], prepared.box, self.device)
        for member in self.members:
            spacing_mm = member.config.data.spacing_mm
            seen = on_device[spacing_mm]
            if member.inference.normalise_over == "box":
                seen = normalised_over_box(seen, prepared.background)
            boxed = member.probabilities(seen)
            probability = to_source(boxed, prepared.grids[spacing_mm], prepared.box)
            if not member.outputs.are_regions:
                probability[0] += 1 - covered[spacing_mm]
            if not probability.isfinite().all():
                raise UserError(
                    "a member's probabilities are not finite: its training has diverged; choose "
                    "another checkpoint"
                )
            yield in_channels(probability, member.outputs, self.outputs)

    @staticmethod
    def vote(probabilities: Iterable[Tensor]) -> Tensor:
        """The mean of the members' (K, x, y, z), of which one at a time is in memory."""
        total, count = None, 0
        for probability in probabilities:
            total = probability.clone() if total is None else total.add_(probability)
            count += 1
        assert total is not None, "there is at least one member"
        return total.div_(count)

    def decide(self, probability: Tensor, prepared: PreparedScan) -> np.ndarray:
        """Turn averaged probabilities into a segmentation, post-processed.

        Args:
            probability: float32 (K, x, y, z) on `prepared.box`, in `self.channels`.
            prepared: The scan, whose image guides the CRF.

        Returns:
            Class numbers, uint8 (x, y, z), on the box.
        """
        classes = likeliest(
            probability, self.outputs, self.postprocessing, lambda: self._guide(prepared)
        )
        return postprocess_classes(classes.cpu().numpy(), self.postprocessing, self.labels)

    def _guide(self, prepared: PreparedScan) -> Tensor:
        """The image from which the CRF's edges are taken, from the finest working grid.

        It is float32 (4, x, y, z) on the device, on `prepared.box`.
        """
        spacing_mm = min(prepared.images)
        image = torch.from_numpy(np.array(prepared.images[spacing_mm])).to(self.device).float()
        return to_source(image, prepared.grids[spacing_mm], prepared.box)


def load_predictor(
    paths: str | Path | Sequence[str | Path],
    device: str | torch.device = "auto",
    *,
    inference: InferenceConfig | None = None,
    changes: Mapping[str, object] | None = None,
    postprocessing: PostprocessConfig | None = None,
) -> Predictor:
    """Load trained networks that segment scans together.

        predictor = load_predictor("Results/SegMamba_Run01", changes={"inference.flips": True})
        for case in find_cases("/path/to/cases"):
            classes = predictor.predict(read_scan(case))  # uint8 (x, y, z)

    Args:
        paths: One path, or one a network: a run's folder, a folder that holds
            best_metric_model.pth and config.json, or a weights file with config.json beside it or
            in the folder above.
        device: "auto" (the first GPU where there is one), "cpu", "cuda", "cuda:1", or a
            torch.device.
        inference: Test-time options for all networks. Without it, each takes those of its own
            configuration.
        changes: Dotted changes to each network's configuration.
        postprocessing: What is done to a prediction. Without it, the postprocessing.json beside a
            single network applies; several networks have none.

    Returns:
        A Predictor with one member for each path.

    Raises:
        UserError: No path is given, a file is missing or damaged, the weights do not fit their
            configuration, a change is not a setting, or the device does not exist.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise UserError(
            f"no checkpoint given; name a run's folder or its checkpoints/{WEIGHTS_FILE}"
        )
    device = device if isinstance(device, torch.device) else choose_device(device)
    members = [load_member(path, device, inference, changes) for path in paths]
    if postprocessing is None and len(paths) == 1 and (file := postprocess_file(paths[0])):
        return Predictor(members, load_postprocess(file), postprocessing_from=str(file))
    return Predictor(members, postprocessing)
