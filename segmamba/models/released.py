"""Weights that the authors of the field's Mamba networks released, without a config.json of ours.

Which network it is follows from the names of the weights, its sizes from their shapes. SegMamba's
files hold weights alone, so its channels, labels and axes are those of its repository; nnU-Net's
files, U-Mamba's, hold plan and data set beside the weights. The channels are brought into our
order. Weights that this program could not use as they were meant are refused.

Legend: E inner channels of a Mamba layer, N states.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from segmamba.config import Config
from segmamba.data.label_sets import GLIOMA, LABEL_SETS, LabelSet, counterpart
from segmamba.data.labels import MODALITIES
from segmamba.data.layouts.declared_names import class_of, modality_of, numbered_channels
from segmamba.errors import UserError
from segmamba.models.nnunet_plan import planned_strides
from segmamba.models.transfer import HEADS, INPUTS, Channels

XING_CHANNELS = Channels(("T2", "FLAIR", "T1", "T1ce"), GLIOMA.classes)
"""The inputs of 2_preprocessing_mri.py (t2w, t2f, t1n, t1c), and the labels of BraTS 2023."""
XING_PATCH = (128, 128, 128)
XING_STEM = 1.5
"""Channels of the stem, per base channel."""
AXES = "whd"
"""Both read images by SimpleITK, as arrays (z, y, x)."""
SPACING_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class Kind:
    """How the weights of one network are known, and where its sizes stand."""

    name: str
    """As `model.name`."""
    title: str
    """As a message calls it."""
    mark: str
    """A weight that no other network has."""
    mamba: str
    """A Mamba layer that reads voxels."""
    stem: str
    """The weight whose shape is (stem's channels, image's channels, ...)."""
    head: str
    """The weight whose shape is (output channels, ...)."""


KINDS = (
    Kind(
        "segmamba_xing",
        "SegMamba (ge-xing/SegMamba)",
        "vit.stages.0.0.mamba.A_s_log",
        "vit.stages.0.0.mamba.",
        "encoder1.layer.conv1.conv.weight",
        "out.conv.conv.weight",
    ),
    Kind(
        "segmamba_v2",
        "SegMamba-V2 (ge-xing/SegMamba-V2)",
        "vit.gscs.0.0.se.fc.0.weight",
        "vit.stages.2.0.mamba.",
        "encoder1.layer.conv1.conv.weight",
        "out.conv.conv.weight",
    ),
    Kind(
        "umamba_bot",
        "U-Mamba_Bot (bowang-lab/U-Mamba)",
        "mamba_layer.mamba.A_log",
        "mamba_layer.mamba.",
        "encoder.stem.0.conv1.weight",
        "decoder.seg_layers.0.weight",
    ),
    Kind(
        "umamba_enc",
        "U-Mamba_Enc (bowang-lab/U-Mamba)",
        "encoder.mamba_layers.0.mamba.A_log",
        "encoder.mamba_layers.0.mamba.",
        "encoder.stem.0.conv1.weight",
        "decoder.seg_layers.0.weight",
    ),
)


@dataclass(frozen=True)
class Released:
    """Released weights as this program uses them."""

    config: Config
    """The network, its patch and its voxels; the rest is the paper preset's."""
    tensors: dict[str, Tensor]
    """For images in the order of MODALITIES and outputs in the order of the label set."""
    note: str
    """One line for the user."""


def kind_of(tensors: Mapping[str, Tensor]) -> Kind | None:
    """Tell whose network some weights are of; None where it is none that has been released."""
    return next((kind for kind in KINDS if kind.mark in tensors), None)


def released_channels(
    content: Any, tensors: Mapping[str, Tensor], source: str | Path
) -> tuple[Channels, str] | None:
    """Name the channels of released weights.

    Args:
        content: What `load_checkpoint` returned.
        tensors: The weights in it.
        source: The file, for messages.

    Returns:
        The names and a line on where they are from; None where the weights are no released ones or
        nothing names their channels.

    Raises:
        UserError: What should name them is damaged.
    """
    kind = kind_of(tensors)
    if kind is None:
        return None
    if kind.name.startswith("segmamba"):
        channels = XING_CHANNELS
    elif isinstance(content, Mapping) and "init_args" in content:
        channels = _nnunet_channels(content, str(source))
    else:
        return None
    line = (
        f"{source}: {_described(kind, channels)}; trained on arrays (z, y, x), which are those of "
    )
    return channels, f"{line}model.scan_axes={AXES}"


def released_network(content: Any, tensors: Mapping[str, Tensor], source: str | Path) -> Released:
    """Prepare released weights for prediction.

    Args:
        content: What `load_checkpoint` returned.
        tensors: The weights in it, of which `kind_of` knows the network.
        source: The file, for messages.

    Returns:
        Configuration, weights and a line for the user.

    Raises:
        UserError: They are of a network, of images or of labels that this program does not have.
    """
    kind, file = kind_of(tensors), str(source)
    assert kind is not None, "asked for"
    changes = {"model.name": kind.name, **_sizes(kind, tensors, file), "model.scan_axes": AXES}
    if kind.name.startswith("segmamba"):
        channels = XING_CHANNELS
        changes |= {"data.patch_size": XING_PATCH, "data.spacing_mm": 1.0}
        changes["inference.normalise_over"] = "box"
    elif isinstance(content, Mapping) and "init_args" in content:
        channels = _nnunet_channels(content, file)
        changes |= _nnunet_plan(content, file)
    else:
        raise UserError(
            f"{file}: weights of {kind.title} alone, without nnU-Net's plan; give nnU-Net's "
            'checkpoint_final.pth, whose "init_args" hold it, or put a config.json beside it'
        )
    labels = _label_set(channels, file)
    _check_counts(kind, tensors, channels, file)
    try:
        config = Config().changed({**changes, "model.classes": labels.name})
    except UserError as error:
        raise UserError(
            f"{file}: meant for settings that this program refuses ({error})"
        ) from error
    wanted = Channels(MODALITIES, labels.classes)
    given = Channels(channels.inputs, tuple(counterpart(c, labels) for c in channels.outputs))
    ordered = {name: _ordered(name, tensor, given, wanted) for name, tensor in tensors.items()}
    side = " x ".join(map(str, config.data.patch_size))
    note = (
        f"{file}: {_described(kind, channels)}; meant for windows of {side} voxels of "
        f"{config.data.spacing_mm:g} mm, arrays (z, y, x)"
    )
    if config.inference.normalise_over == "box":
        note += ", z-scored with the background of the box around the brain"
    return Released(config, ordered, note)


def _described(kind: Kind, channels: Channels) -> str:
    labels = ", ".join(f"{value} {name}" for value, name in enumerate(channels.outputs))
    return (
        f"read as {kind.title}, whose inputs are {', '.join(channels.inputs)} and labels {labels}"
    )


def _sizes(kind: Kind, tensors: Mapping[str, Tensor], file: str) -> dict[str, object]:
    """The settings that follow from shapes."""
    names = (kind.stem, *(f"{kind.mamba}{leaf}" for leaf in ("in_proj.weight", "conv1d.weight")))
    missing = [name for name in (*names, f"{kind.mamba}A_log", kind.head) if name not in tensors]
    if missing:
        raise UserError(f"{file}: weights of {kind.title} that lack {', '.join(missing)}")
    stem, in_proj, conv1d = (tensors[name] for name in names)
    if stem.ndim != 5:
        raise UserError(f"{file}: a {stem.ndim - 2}-D network; this program takes 3-D ones")
    base = stem.shape[0] / (XING_STEM if kind.name.startswith("segmamba") else 1)
    return {
        "model.base_channels": round(base),
        "model.d_state": tensors[f"{kind.mamba}A_log"].shape[1],
        "model.d_conv": conv1d.shape[-1],
        "model.expand": in_proj.shape[0] // 2 // in_proj.shape[1],
    }


def _check_counts(kind: Kind, tensors: Mapping[str, Tensor], channels: Channels, file: str) -> None:
    """Refuse weights with other numbers of channels than the ones that have names."""
    inputs, outputs = tensors[kind.stem].shape[1], tensors[kind.head].shape[0]
    if inputs != len(channels.inputs) or outputs != len(channels.outputs):
        raise UserError(
            f"{file}: {kind.title} of {inputs} inputs and {outputs} outputs; it should have the "
            f"inputs {', '.join(channels.inputs)} and the outputs {', '.join(channels.outputs)}"
        )


def _label_set(channels: Channels, file: str) -> LabelSet:
    """The label set whose classes the outputs are, in any order."""
    if sorted(channels.inputs) != sorted(MODALITIES):
        raise UserError(
            f"{file}: its inputs are {', '.join(channels.inputs)}; this program predicts from "
            f"{', '.join(MODALITIES)}"
        )
    for labels in LABEL_SETS.values():
        if sorted(counterpart(c, labels) for c in channels.outputs) == sorted(labels.classes):
            return labels
    sets = "; ".join(", ".join(labels.classes) for labels in LABEL_SETS.values())
    raise UserError(
        f"{file}: its labels are {', '.join(channels.outputs)}; this program predicts {sets}"
    )


def _ordered(name: str, tensor: Tensor, given: Channels, wanted: Channels) -> Tensor:
    """A weight with the channels of the image or of the output in our order."""
    if name.endswith(INPUTS) and tensor.ndim == 5 and tensor.shape[1] == len(given.inputs):
        return tensor[:, [given.inputs.index(modality) for modality in wanted.inputs]]
    if name.startswith(HEADS):
        return tensor[[given.outputs.index(label) for label in wanted.outputs]]
    return tensor


def _nnunet_channels(content: Mapping[str, Any], file: str) -> Channels:
    """The names in the data set's description that nnU-Net keeps with the weights."""
    dataset = _entry(content, file, "init_args", "dataset_json")
    named = dataset.get("channel_names", dataset.get("modality"))
    labels = dataset.get("labels")
    if not isinstance(named, (Mapping, list)) or not isinstance(labels, Mapping):
        raise UserError(f"{file}: its dataset_json names no channels or no labels")
    if any(not isinstance(value, int) for value in labels.values()):
        raise UserError(
            f"{file}: its outputs are regions of nnU-Net; this program reads those with one value "
            "a label"
        )
    by_value = {value: name for name, value in labels.items()}
    by_number = numbered_channels(dict(named) if isinstance(named, Mapping) else named)
    return Channels(
        tuple(modality_of(by_number[n]) or str(by_number[n]) for n in sorted(by_number)),
        tuple(class_of(by_value[v]) or str(by_value[v]) for v in sorted(by_value)),
    )


def _nnunet_plan(content: Mapping[str, Any], file: str) -> dict[str, object]:
    """The patch and the voxels of nnU-Net's plan; others than this program's are refused."""
    plans = _entry(content, file, "init_args", "plans")
    name = _entry(content, file, "init_args").get("configuration")
    plan: dict[str, Any] = {}
    while isinstance(name, str):
        part = _entry(plans, file, "configurations", name)
        if part.items() <= plan.items():
            break  # it inherits from itself
        plan, name = {**part, **plan}, part.get("inherits_from")
    patch, spacing = (_three(plan.get(key), key, file) for key in ("patch_size", "spacing"))
    masked = {bool(within) for within in plan.get("use_mask_for_norm", ())}
    strides = planned_strides([int(side) for side in patch])
    reasons = {
        "voxels of unequal sides": max(spacing) - min(spacing) > SPACING_TOLERANCE_MM,
        "turned axes": list(plans.get("transpose_forward", (0, 1, 2))) != [0, 1, 2],
        "other strides than nnU-Net plans for voxels of equal sides": [
            list(stride) for stride in plan.get("pool_op_kernel_sizes", ())
        ]
        != [list(stride) for stride in strides],
        "images that are not z-scored": any(
            scheme != "ZScoreNormalization" for scheme in plan.get("normalization_schemes", ())
        ),
        "some images z-scored over the brain and some with the background": len(masked) > 1,
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise UserError(f"{file}: planned for {'; '.join(wrong)}, which this program does not have")
    z, y, x = (int(side) for side in patch)
    return {
        "data.patch_size": (x, y, z),
        "model.planned_for": (x, y, z),
        "data.spacing_mm": float(spacing[0]),
        "inference.normalise_over": "box" if masked == {False} else "brain",
    }


def _three(value: object, key: str, file: str) -> list[float]:
    numbers = [n for n in value if isinstance(n, (int, float))] if isinstance(value, list) else []
    if len(numbers) != 3 or min(numbers) <= 0:
        raise UserError(
            f"{file}: its plan has no {key} of three numbers; give a network of 3d_fullres"
        )
    return numbers


def _entry(content: Any, file: str, *keys: str) -> Mapping[str, Any]:
    """A mapping inside mappings."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping):
        raise UserError(f"{file}: holds no {'.'.join(keys)}, as nnU-Net's checkpoints do")
    return content
