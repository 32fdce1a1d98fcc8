"""The texts of an exported MONAI bundle: metadata, the inference configuration and the README."""

import importlib.metadata
from pathlib import Path
from typing import Any

from segmamba.config import Config
from segmamba.config.postprocess import FILE_NAME as POSTPROCESS_FILE
from segmamba.data.label_sets import LabelSet
from segmamba.data.labels import MODALITIES, Convention, written_values
from segmamba.models.outputs import output_channels

TEMPLATES = Path(__file__).parent / "templates"
NEEDED = ("nibabel", "scipy")
MODELS = "@bundle_root + '/models/"
SIDE_MULTIPLE = 16
"""Sides of a network's input are multiples of it."""


def metadata(config: Config, convention: Convention) -> dict[str, Any]:
    """The bundle's metadata.json, as MONAI's schema wants it.

    Args:
        config: The Config of the run.
        convention: The label convention of what the bundle writes.

    Returns:
        What json.dump takes.
    """
    channels = output_channels(config.model)
    versions = {
        name: importlib.metadata.version(name) for name in ("segmamba", "torch", "numpy", *NEEDED)
    }
    return {
        "version": versions["segmamba"],
        "changelog": {versions["segmamba"]: "exported by segmamba export"},
        "monai_version": "1.6.1",
        "pytorch_version": versions["torch"].partition("+")[0],
        "numpy_version": versions["numpy"],
        "required_packages_version": {name: versions[name] for name in ("segmamba", *NEEDED)},
        "name": "SegMamba",
        "task": "Brain tumour segmentation from T1, T1ce, T2 and FLAIR",
        "description": (
            "A 3-D U-Net with Mamba blocks in its deep stages, trained by the segmamba package."
        ),
        "authors": "the segmamba package's users",
        "copyright": "of the one who trained the weights",
        "intended_use": "Research only",
        "network_data_format": _network_data_format(channels.names),
        "labels": {str(v): name for v, name in _values(convention, channels.labels).items()},
    }


def _network_data_format(channels: tuple[str, ...]) -> dict[str, Any]:
    patch = {
        "num_channels": len(MODALITIES),
        "spatial_shape": [f"{SIDE_MULTIPLE}*n"] * 3,
        "dtype": "float32",
        "is_patch_data": True,
    }
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        **patch,
        "value_range": [-10, 10],
        "channel_def": {str(place): name for place, name in enumerate(MODALITIES)},
    }
    prediction = {
        "type": "image",
        "format": "segmentation",
        **patch,
        "num_channels": len(channels),
        "value_range": [0, 1],
        "channel_def": {str(place): name for place, name in enumerate(channels)},
    }
    return {"inputs": {"image": image}, "outputs": {"pred": prediction}}


def inference_config(config: Config, convention: Convention) -> dict[str, Any]:
    """The bundle's inference.json.

    It puts MONAI's transforms, sliding window and writer around the network; ignite is not needed.

    Args:
        config: The Config of the run.
        convention: The label convention of what the bundle writes.

    Returns:
        What json.dump takes.
    """
    return {
        "imports": ["$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "data",
        "output_dir": "$@bundle_root + '/predictions'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "segmamba.inference.bundle.BundleNetwork",
            "config_file": f"${MODELS}config.json'",
        },
        "network": "$@network_def.to(@device)",
        "load": (
            f"$@network.load_state_dict(torch.load({MODELS}model.pt', "
            "map_location=@device, weights_only=True))"
        ),
        "labels": {
            "_target_": "segmamba.inference.bundle.Labels",
            "config_file": f"${MODELS}config.json'",
            "convention_name": convention.name,
            "postprocess_file": f"${MODELS}{POSTPROCESS_FILE}'",
        },
        "preprocessing": _preprocessing(config.data.spacing_mm),
        "dataset": {
            "_target_": "Dataset",
            # a target, since MONAI imports modules of a package only where they are loaded already
            "data": {"_target_": "segmamba.inference.bundle.datalist", "source": "@dataset_dir"},
            "transform": "@preprocessing",
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(config.data.patch_size),
            "sw_batch_size": 2,
            "overlap": list(config.inference.overlaps(config.data.patch_size)),
            "mode": "gaussian",
        },
        "postprocessing": _postprocessing(),
        "infer": (
            "$torch.inference_mode()(lambda image: @inferer(image[None].to(@device), @network)[0])"
        ),
        "run": [
            "$@load",
            "$@network.eval()",
            "$[@postprocessing({**item, 'pred': @infer(item['image'])}) for item in @dataset]",
        ],
    }


def _preprocessing(spacing_mm: float) -> dict[str, Any]:
    """Canonical orientation, z-scores over the brain, the working spacing, the brain's box."""
    return {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
            {
                "_target_": "NormalizeIntensityd",
                "keys": "image",
                "nonzero": True,
                "channel_wise": True,
            },
            {
                "_target_": "Spacingd",
                "keys": "image",
                "pixdim": [spacing_mm] * 3,
                "mode": "bilinear",
            },
            {
                "_target_": "CropForegroundd",
                "keys": "image",
                "source_key": "image",
                "select_fn": "$lambda x: x != 0",
                "allow_smaller": True,
            },
        ],
    }


def _postprocessing() -> dict[str, Any]:
    """Back to the source's grid, to labels, and to a file."""
    return {
        "_target_": "Compose",
        "transforms": [
            {
                "_target_": "Invertd",
                "keys": "pred",
                "orig_keys": "image",
                "transform": "@preprocessing",
                "nearest_interp": False,
                "to_tensor": True,
            },
            {"_target_": "Lambdad", "keys": "pred", "func": "@labels"},
            {
                "_target_": "SaveImaged",
                "keys": "pred",
                "output_dir": "@output_dir",
                "output_postfix": "",
                "output_dtype": "$numpy.uint8",
                "resample": False,
                "separate_folder": False,
            },
        ],
    }


def readme(config: Config, convention: Convention) -> str:
    """The bundle's docs/README.md.

    Args:
        config: The Config of the run.
        convention: The label convention of what the bundle writes.

    Returns:
        Markdown.
    """
    channels = output_channels(config.model)
    values = ", ".join(f"{v} {name}" for v, name in _values(convention, channels.labels).items())
    return (
        (TEMPLATES / "bundle_readme.md")
        .read_text(encoding="utf-8")
        .format(
            modalities=", ".join(MODALITIES),
            channels=", ".join(channels.names),
            spacing_mm=f"{config.data.spacing_mm:g}",
            window=" x ".join(map(str, config.data.patch_size)),
            values=values,
            classes=", ".join(channels.labels.classes),
        )
    )


def _values(convention: Convention, labels: LabelSet) -> dict[int, str]:
    """The values that are written, with the data set's names; what no class becomes never is."""
    written = set(written_values(convention.name, labels).tolist())
    return {value: name for value, name in convention.names.items() if value in written}
