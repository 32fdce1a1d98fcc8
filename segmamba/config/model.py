"""The network."""

from dataclasses import dataclass
from typing import Literal

from segmamba.config.rules import LEVELS, require, require_each

OURS = ("segmamba", "unet", "control")
"""The networks of this package's own design."""
SCANNERS = ("mamba", "mamba2")
"""The mixers that read the voxels as a sequence."""
UMAMBAS = ("umamba_bot", "umamba_enc")
"""U-Mamba, whose strides nnU-Net plans for a patch."""
AUTHORS = ("segmamba_xing", "segmamba_v2", *UMAMBAS)
"""The field's Mamba networks, which this package builds as their authors do, on its own scan."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture and what computes it."""

    name: Literal[
        "segmamba",
        "unet",
        "control",
        "dynunet",
        "segresnet",
        "swinunetr",
        "nnunet_plain",
        "nnunet_resenc",
        "segmamba_xing",
        "segmamba_v2",
        "umamba_bot",
        "umamba_enc",
    ] = "segmamba"
    """The network. unet: conv blocks at every level, as many in stage 4 and the bottleneck as in
    stage 3. control: no Mamba blocks, and wider convolution in their stages for the parameters that
    `mamba_depths` would have cost. dynunet to nnunet_resenc are MONAI's and nnU-Net's networks, to
    which of the settings below only `base_channels` applies. segmamba_xing (Xing et al. 2024),
    segmamba_v2 (its successor), umamba_bot and umamba_enc (Ma et al. 2024, U-Mamba) are the field's
    Mamba networks as their authors build them; they take `base_channels`, `d_state`, `d_conv`,
    `expand`, `scan_axes` and `scan`, and U-Mamba `deep_supervision` and `planned_for`."""
    base_channels: int = 32
    """Channels of the stem and of stage 1; doubled at every level below. segmamba_xing,
    segmamba_v2 and swinunetr begin with one and a half times as many."""
    conv_depths: tuple[int, int, int] = (2, 2, 2)
    """Residual conv blocks in stages 1, 2 and 3 (each two 3x3x3 convolutions)."""
    mamba_depths: tuple[int, int, int] = (2, 2, 2)
    """Mamba blocks in stage 3, stage 4 and the bottleneck; 0 removes them."""
    mixer: Literal["mamba", "mamba2", "conv", "none"] = "mamba"
    """What mixes the voxels in a Mamba block. mamba: the selective scan (Gu & Dao 2023). mamba2:
    state-space duality (Dao & Gu 2024), one decay for each head of 64 channels, as products of
    matrices; its authors take a `d_state` of 64 and more. conv: no scan, a 3-D depthwise
    convolution of 3, 5 or 7 voxels, the width whose cost is nearest to the scan's. none: nothing,
    each voxel by itself. Blocks of conv and none are as wide as gives them the parameters of a
    block of mamba with the same settings, within 2 %."""
    d_state: int = 16
    """N, the state size of the selective scan (Gu & Dao 2023, section 3)."""
    d_conv: int = 4
    """Width, in tokens, of the causal depthwise convolution in front of the scan."""
    expand: int = 2
    """Inner width of a Mamba block as a multiple of its channels."""
    scan_order: Literal["forward", "bidirectional", "tri"] = "forward"
    """Directions in which a Mamba block reads the voxels. forward: once. bidirectional: forwards
    and backwards. tri: both, and across slices, along `scan_axes` with its slowest axis made the
    fastest (Xing et al. 2024, SegMamba). Every direction has its own scan; all share the
    projections in and out."""
    direction_weights: Literal["equal", "learned"] = "equal"
    """How the directions of a Mamba block are summed. equal: as they are. learned: with a weight
    for each direction and inner channel, which begins at 1."""
    scan_axes: Literal["dhw", "dwh", "hdw", "hwd", "wdh", "whd"] = "dhw"
    """Order of the axes in a scan, slowest first; d, h, w are NIfTI x, y, z. dhw is the order in
    memory. segmamba_xing, segmamba_v2 and U-Mamba turn the whole volume into this order: whd is
    that of arrays from SimpleITK (z, y, x), on which their authors train."""
    scan_path: Literal["raster", "snake", "morton", "hilbert"] = "raster"
    """The path of a scan through the volume, with `scan_axes` for its axes. raster: row by row.
    snake: every other row and slice in reverse, so that successive voxels touch. morton: octant by
    octant, by interleaved bits of the coordinates. hilbert: octant by octant, along a curve whose
    successive voxels touch in a cube of a power of two; other volumes are parts of such a cube."""
    norm: Literal["batch", "instance"] = "batch"
    """Normalisation of the conv blocks. The paper preset takes batch; nnU-Net and most of the field
    take instance."""
    upsample: Literal["transposed", "interpolate"] = "transposed"
    """How the decoder doubles the resolution. transposed: a 2x2x2 transposed convolution.
    interpolate: a 1x1x1 convolution and trilinear interpolation."""
    attention_gates: bool = False
    """Weigh the skips by attention gates (Oktay et al. 2018). False is off."""
    classes: Literal["auto", "glioma", "post_treatment", "pediatric"] = "auto"
    """What the labels tell apart, and what the network is scored on. auto: what the data's label
    convention has; a run's config.json then names it. glioma: NCR, ED and ET, scored on ET, TC and
    WT; labels with more classes are merged. post_treatment: NETC, SNFH, ET and the resection cavity
    RC, scored on ET, TC, WT and RC (BraTS 2024 on, GLI and MET). pediatric: ET, NETC, CC and ED,
    scored on ET, TC, WT, NETC, CC and ED (BraTS-PED 2024 on)."""
    outputs: Literal["classes", "regions"] = "classes"
    """What the network predicts. classes: the background and the classes, which exclude each other
    (softmax, cross entropy). regions: the evaluated regions, ET, TC, WT and further ones, which
    overlap (a sigmoid each, binary cross entropy; Isensee et al. 2020, nnU-Net for brain tumor
    segmentation)."""
    deep_supervision: int = 0
    """Further outputs of the decoder in training, at 1/2, 1/4 and 1/8 of the resolution; up to 3. 0
    is off."""
    checkpoint_stages: tuple[int, ...] = ()
    """Levels, 1 (full resolution, most memory) to 5 (bottleneck), whose activations the backward
    pass computes again. () is off."""
    planned_for: tuple[int, ...] = ()
    """The patch, in voxels along x, y and z, for which nnU-Net plans the strides of umamba_bot and
    umamba_enc: an axis is halved while 4 voxels remain. In umamba_enc, stages of fewer voxels than
    channels take the channels for tokens, so that its weights fit no other patch. (): the
    `data.patch_size` of the training, which config.json then names."""
    scan: Literal["auto", "sequential", "portable", "native", "mamba_ssm", "triton"] = "auto"
    """What computes the selective scan; the weights fit all. auto: the fastest that runs here.
    native: our kernels for a CPU, which need a C compiler. portable: plain PyTorch. sequential is
    for tests: slow, exact."""

    def __post_init__(self) -> None:
        require(
            self.base_channels >= 1, "model.base_channels", self.base_channels, "must be 1 or more"
        )
        require(
            min(self.conv_depths) >= 1,
            "model.conv_depths",
            self.conv_depths,
            "stages 1-3 need at least one conv block each",
        )
        require(
            min(self.mamba_depths) >= 0,
            "model.mamba_depths",
            self.mamba_depths,
            "must be 0 (no Mamba block) or more, per stage",
        )
        require_each(
            self,
            "model",
            ("d_state", "d_conv", "expand"),
            lambda value: value >= 1,
            "must be 1 or more",
        )
        require(
            0 <= self.deep_supervision <= LEVELS - 2,
            "model.deep_supervision",
            self.deep_supervision,
            "must lie in 0 (off) to 3",
        )
        require(
            set(self.checkpoint_stages) <= set(range(1, LEVELS + 1)),
            "model.checkpoint_stages",
            self.checkpoint_stages,
            f"levels are numbered 1 to {LEVELS}, the last being the bottleneck",
        )
        self._check_mixer()
        self._check_peers()

    def _check_mixer(self) -> None:
        """Refuse what the mixer does not read or cannot be computed by."""
        require(
            self.mixer in SCANNERS or self.scan_path == "raster",
            "model.scan_path",
            self.scan_path,
            f"has no effect on model.mixer = {self.mixer!r}, which scans nothing; leave it at "
            "'raster'",
        )
        require(
            self.direction_weights == "equal"
            or (self.mixer in SCANNERS and self.scan_order != "forward"),
            "model.direction_weights",
            self.direction_weights,
            "needs several directions to weigh: a model.mixer that scans, and model.scan_order = "
            "bidirectional or tri",
        )
        require(
            self.mixer != "mamba2" or self.scan in ("auto", "portable", "sequential"),
            "model.scan",
            self.scan,
            "computes the scan of model.mixer = 'mamba' alone; mamba2 takes auto or portable, "
            "products of matrices, or sequential",
        )

    def _check_peers(self) -> None:
        """Refuse settings that a network of other authors does not have."""
        require(
            self.name != "segresnet" or self.base_channels % 8 == 0,
            "model.base_channels",
            self.base_channels,
            "segresnet normalises in 8 groups of channels; choose a multiple of 8: 8, 16, 24, ...",
        )
        require(
            len(self.planned_for) in (0, 3) and all(side >= 1 for side in self.planned_for),
            "model.planned_for",
            self.planned_for,
            "must be three numbers of voxels, or none for data.patch_size",
        )
        for name in _ignored(self.name):
            value, default = getattr(self, name), getattr(ModelConfig, name)
            require(
                value == default,
                f"model.{name}",
                value,
                f"has no effect on {self.name}, which is built as its authors build it; "
                f"leave it at {default!r}",
            )


def _ignored(name: str) -> tuple[str, ...]:
    """Settings of our networks that another's does not read, and that no preset changes."""
    if name in OURS:
        return ()
    ignored: tuple[str, ...] = (
        "norm",
        "upsample",
        "attention_gates",
        "checkpoint_stages",
        "mixer",
        "direction_weights",
        "scan_path",
    )
    if name not in UMAMBAS:
        ignored = (*ignored, "deep_supervision")
    return (*ignored, "scan_order") if name in AUTHORS else ignored
