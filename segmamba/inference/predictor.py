"""From a scan to a segmentation on the scan's own grid, by one network or by several that vote.

    predictor = load_predictor(["Results/ablate_depth_Run01/trials/depth-2_seed0"])
    classes = predictor.predict(read_scan(case))           # uint8 (x, y, z), internal classes, the grid of the scan
    probability = predictor.probabilities(read_scan(case))  # float32 (K, x, y, z), channels are predictor.channels

Members vote softly: their probabilities are averaged on the source's grid, each brought there from its own working grid by trilinear
interpolation, so that members of any spacing, patch size and scan implementation mix. Where all predict classes (softmax), classes are
averaged and the likeliest wins. Where one predicts regions (sigmoid), all are averaged as regions: a region's probability is the sum of
its classes'; a voxel belongs to a region above 0.5 and inner regions lie within outer ones.

Legend: K channels, (x, y, z) the source's grid in canonical orientation or, where it says box, the part of it that holds the brain.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from segmamba.config import load_config, load_postprocess
from segmamba.config.postprocess import FILE_NAME as POSTPROCESS_FILE
from segmamba.config.postprocess import PostprocessConfig
from segmamba.data.labels import CLASSES, REGIONS
from segmamba.data.working_grid import to_working_grid
from segmamba.device import choose_device
from segmamba.errors import UserError
from segmamba.inference.decide import background, in_channels
from segmamba.inference.ensemble_member import Member
from segmamba.inference.grids import Grids, coverage, source_box, to_source, union
from segmamba.inference.postprocess import likeliest, postprocess_classes
from segmamba.inference.uncertainty import vote_with_entropy
from segmamba.models import build_model
from segmamba.models.weights import load_checkpoint


@dataclass(frozen=True)
class PreparedScan:
    """What the members of an ensemble see of one scan. Made on the CPU, in any thread."""

    images: dict
    """{spacing in mm: float16 (4, x, y, z)}, z-scored and cut to the brain."""
    grids: dict
    """{spacing in mm: Grids, or the PreparedCase that the image comes from}."""
    box: tuple = field(init=False)
    """Slices of the source's grid that hold all that is predicted; outside is background."""

    def __post_init__(self):
        object.__setattr__(self, "box", union([source_box(grids) for grids in self.grids.values()]))

    @property
    def source_shape(self):
        return next(iter(self.grids.values())).source_shape

    def whole(self, array):
        """A NumPy array (x, y, z) on the box, put into the source's grid; zeros around it."""
        margins = [
            (side.start, full - side.stop)
            for side, full in zip(self.box, self.source_shape, strict=True)
        ]
        return np.pad(array, margins)


@dataclass(frozen=True)
class Analysis:
    """What the device has to say about one scan; arrays are NumPy on `prepared.box`. Maps that were not asked for are None."""

    prepared: PreparedScan
    classes: np.ndarray
    """uint8 (x, y, z), before small components are removed."""
    probability: np.ndarray | None = None
    """float32 (K, x, y, z)."""
    entropy: np.ndarray | None = None
    """float32 (x, y, z) in [0, 1]: see `segmamba.inference.uncertainty`."""
    disagreement: np.ndarray | None = None
    """float32 (x, y, z) in [0, 1], None for a single member."""


def prepare(scan, spacings_mm):
    """A Scan for members that work at these spacings."""
    images, grids = {}, {}
    for spacing_mm in spacings_mm:
        images[spacing_mm], _, where = to_working_grid(scan, spacing_mm)
        grids[spacing_mm] = Grids(**where)
    return PreparedScan(images, grids)


class Predictor:
    """Members that vote, and what is done with the vote. `len(predictor)` is the number of members.

    channels: CLASSES, or REGIONS where a member predicts regions. Instances hold no state of a case and may be used for any number.
    """

    def __init__(self, members, postprocessing=None, postprocessing_from=""):
        self.members = tuple(members)
        self.postprocessing = postprocessing or PostprocessConfig()
        self._postprocessing_from = postprocessing_from
        self.device = self.members[0].device
        self.channels = (
            REGIONS if any(member.channels == REGIONS for member in self.members) else CLASSES
        )

    def __len__(self):
        return len(self.members)

    @property
    def spacings_mm(self):
        """The members' working grids, each once."""
        return tuple(dict.fromkeys(member.config.data.spacing_mm for member in self.members))

    @property
    def summary(self):
        """One line for the user: how many networks predict, where, and with which options."""
        options = list(dict.fromkeys(member.inference.summary for member in self.members))
        networks = "one network" if len(self) == 1 else f"{len(self)} networks"
        origin = f" (from {self._postprocessing_from})" if self._postprocessing_from else ""
        return f"{networks} on {self.device}, {' / '.join(options)}, post-processing {self.postprocessing.summary}{origin}"

    def prepare(self, scan):
        """A Scan as the PreparedScan that every method here takes as well: z-scored, resampled, cut to the brain. Runs on the CPU."""
        return scan if isinstance(scan, PreparedScan) else prepare(scan, self.spacings_mm)

    def predict(self, scan):
        """Internal classes, uint8 NumPy (x, y, z), on the source's grid in canonical orientation, post-processed."""
        return self.finish(self.analyse(self.prepare(scan)))

    def analyse(self, prepared, *, probabilities=False, uncertainty=False):
        """The device's part of a prediction as an Analysis, with the maps that are asked for."""
        members = self.member_probabilities(prepared)
        mean, entropies = vote_with_entropy(members) if uncertainty else (self.vote(members), None)
        classes = likeliest(mean, self.channels, self.postprocessing, lambda: self._guide(prepared))
        return Analysis(
            prepared,
            classes.cpu().numpy(),
            probability=mean.cpu().numpy() if probabilities else None,
            entropy=entropies[0].cpu().numpy() if uncertainty else None,
            disagreement=entropies[1].cpu().numpy() if uncertainty and len(self) > 1 else None,
        )

    def finish(self, analysis):
        """The CPU's part of a prediction, in any thread: uint8 NumPy (x, y, z) on the source's grid, without small components."""
        return analysis.prepared.whole(postprocess_classes(analysis.classes, self.postprocessing))

    def probabilities(self, scan):
        """The members' mean, float32 (K, x, y, z) on the device, on the source's whole grid, before any post-processing."""
        prepared = self.prepare(scan)
        whole = background(self.channels, prepared.source_shape, self.device)
        whole[(slice(None), *prepared.box)] = self.vote(self.member_probabilities(prepared))
        return whole

    @torch.inference_mode()
    def member_probabilities(self, prepared):
        """Yield each member's float32 (K, x, y, z) on `prepared.box` of the source's grid, in this predictor's channels."""
        on_device, covered = {}, {}
        for spacing_mm, image in prepared.images.items():
            on_device[spacing_mm] = (
                torch.from_numpy(np.array(image)).to(self.device, non_blocking=True).float()
            )
            covered[spacing_mm] = coverage(prepared.grids[spacing_mm], prepared.box, self.device)
        for member in self.members:
            spacing_mm = member.config.data.spacing_mm
            probability = to_source(
                member.probabilities(on_device[spacing_mm]),
                prepared.grids[spacing_mm],
                prepared.box,
            )
            if member.channels == CLASSES:
                probability[0] += 1 - covered[spacing_mm]
            if not probability.isfinite().all():
                raise UserError(
                    "a member's probabilities are not finite: its training has diverged; choose another checkpoint"
                )
            yield in_channels(probability, member.channels, self.channels)

    @staticmethod
    def vote(probabilities):
        """The mean of an iterable of (K, x, y, z), one at a time in memory."""
        total, count = None, 0
        for probability in probabilities:
            total, count = (
                probability.clone() if total is None else total.add_(probability),
                count + 1,
            )
        return total.div_(count)

    def decide(self, probability, prepared):
        """float32 (K, x, y, z) on `prepared.box` as internal classes, uint8 NumPy (x, y, z) on the box, post-processed."""
        classes = likeliest(
            probability, self.channels, self.postprocessing, lambda: self._guide(prepared)
        )
        return postprocess_classes(classes.cpu().numpy(), self.postprocessing)

    def _guide(self, prepared):
        """The image on `prepared.box`, float32 (4, x, y, z) on the device, from the finest working grid: what the CRF's edges are taken from."""
        spacing_mm = min(prepared.images)
        image = torch.from_numpy(np.array(prepared.images[spacing_mm])).to(self.device).float()
        return to_source(image, prepared.grids[spacing_mm], prepared.box)


def load_predictor(paths, device="auto", *, inference=None, changes=None, postprocessing=None):
    """A Predictor of one member for each path: a run's folder, or weights with config.json beside or above them.

    inference: an InferenceConfig for all members; without it each takes its own configuration's. changes: dotted changes to each
    member's configuration, as {"inference.flips": True}. postprocessing: a PostprocessConfig; without it, the postprocessing.json beside
    a single member, else off. UserError for what is missing or does not fit.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise UserError(
            "no checkpoint given; name a run's folder or its checkpoints/best_metric_model.pth"
        )
    device = device if isinstance(device, torch.device) else choose_device(device)
    members = [load_member(path, device, inference, changes) for path in paths]
    if postprocessing is None and len(paths) == 1 and (file := postprocess_file(paths[0])):
        return Predictor(members, load_postprocess(file), postprocessing_from=str(file))
    return Predictor(members, postprocessing)


def load_member(path, device, inference=None, changes=None):
    """The Member at a path, as `load_predictor` takes it."""
    weights, config_file = find_checkpoint(path)
    config = load_config(config_file).changed(changes or {})
    model = build_model(config.model)
    state = load_checkpoint(weights, device)
    try:
        model.load_state_dict(state.get("model", state))
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"{weights}: its weights do not fit the network of {config_file} ({reason}); keep a run's files together"
        ) from error
    return Member(model, config, device, inference)


def find_checkpoint(path):
    """(weights, config.json) of a run's folder, a folder that holds both, or a weights file with config.json beside or above it."""
    path = Path(path)
    if path.is_dir():
        found = [
            f
            for folder in (path / "checkpoints", path)
            for f in [folder / "best_metric_model.pth"]
            if f.is_file()
        ]
        if not found:
            raise UserError(
                f"{path}: holds no checkpoints/best_metric_model.pth; give a run's folder or a checkpoint file"
            )
        weights = found[0]
    elif path.is_file():
        weights = path
    else:
        raise UserError(
            f"{path}: no such checkpoint; give a run's folder or its checkpoints/best_metric_model.pth"
        )
    configs = [folder / "config.json" for folder in (weights.parent, weights.parent.parent)]
    if config := next((c for c in configs if c.is_file()), None):
        return weights, config
    raise UserError(
        f"{weights}: no config.json beside it or in the folder above; copy the one of its run there"
    )


def postprocess_file(path):
    """The postprocessing.json that belongs to a checkpoint path, beside its weights or its config.json; None without one."""
    weights, config = find_checkpoint(path)
    return next(
        (
            f
            for folder in (weights.parent, config.parent)
            for f in [folder / POSTPROCESS_FILE]
            if f.is_file()
        ),
        None,
    )
