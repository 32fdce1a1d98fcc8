"""A run as a MONAI bundle, which MONAI's own tools load and run. The network still comes from this package, which the bundle names as required.

DIR/configs/metadata.json    what the network takes and gives
DIR/configs/inference.json   cases to segmentations: python -m monai.bundle run --config_file configs/inference.json --dataset_dir ...
DIR/models/model.pt          weights;  config.json, postprocessing.json  what they belong to
DIR/docs/README.md, LICENSE
"""

import importlib.metadata
import json
import shutil
import tempfile
from pathlib import Path

import torch

from segmamba.config import PostprocessConfig, load_config, load_postprocess
from segmamba.config.postprocess import FILE_NAME as POSTPROCESS_FILE
from segmamba.data.labels import CLASSES, MODALITIES, convention
from segmamba.errors import UserError
from segmamba.inference.bundle import BundleNetwork
from segmamba.inference.predictor import find_checkpoint, load_member, postprocess_file
from segmamba.models.outputs import output_channels

TEMPLATES = Path(__file__).parent / "templates"
LICENCE = Path(__file__).parents[2] / "LICENSE"
NEEDED = ("nibabel", "scipy")


def export_bundle(checkpoint, folder, *, labels="brats2023"):
    """Write the bundle of one checkpoint, found as `load_predictor` finds it, as a new folder; returns its Path.

    labels: the convention of the values it writes. UserError for a folder that exists and for post-processing that a bundle cannot do.
    """
    folder, known = Path(folder), convention(labels)
    if folder.exists():
        raise UserError(f"--bundle {folder}: exists already; choose another folder or remove it")
    weights, config_file = find_checkpoint(checkpoint)
    config, postprocessing = load_config(config_file), _postprocessing(checkpoint)
    member = load_member(
        checkpoint, torch.device("cpu")
    )  # refuses weights that do not fit before anything is written
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name in ("configs", "models", "docs"):
            (building / name).mkdir()
        shutil.copy(config_file, building / "models" / "config.json")
        (building / "models" / POSTPROCESS_FILE).write_text(postprocessing.to_json())
        network = BundleNetwork(config_file)
        network.network.load_state_dict(_state(weights))
        torch.save(network.state_dict(), building / "models" / "model.pt")
        _write_json(building / "configs" / "metadata.json", metadata(config, known))
        _write_json(building / "configs" / "inference.json", inference_config(member.config, known))
        (building / "docs" / "README.md").write_text(readme(config, known))
        shutil.copy(_licence(), building / "LICENSE")
        building.chmod(0o755)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _state(weights):
    from segmamba.models.weights import load_checkpoint

    state = load_checkpoint(weights)
    return state.get("model", state)


def _postprocessing(checkpoint):
    file = postprocess_file(checkpoint)
    postprocessing = load_postprocess(file) if file else PostprocessConfig()
    if postprocessing.crf_steps:
        raise UserError(f"{file}: a bundle has no CRF; export with postprocess.crf_steps 0")
    return postprocessing


def metadata(config, known):
    """The bundle's metadata.json."""
    channels = output_channels(config.model)
    versions = {
        name: importlib.metadata.version(name) for name in ("segmamba", "torch", "numpy", *NEEDED)
    }
    step = 16
    patch = {
        "num_channels": len(MODALITIES),
        "spatial_shape": [f"{step}*n"] * 3,
        "dtype": "float32",
        "is_patch_data": True,
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
        "description": "A 3-D U-Net with Mamba blocks in its deep stages, trained by the segmamba package.",
        "authors": "the segmamba package's users",
        "copyright": "of the one who trained the weights",
        "intended_use": "Research only",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "MR",
                    **patch,
                    "value_range": [-10, 10],
                    "channel_def": {str(place): name for place, name in enumerate(MODALITIES)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    **patch,
                    "num_channels": len(channels),
                    "value_range": [0, 1],
                    "channel_def": {str(place): name for place, name in enumerate(channels)},
                }
            },
        },
        "labels": {
            str(value): name for value, name in known.names.items() if value not in known.merged
        },
    }


def inference_config(config, known):
    """The bundle's inference.json: MONAI's transforms, sliding window and writer around the network; no ignite needed."""
    spacing = [config.data.spacing_mm] * 3
    models = "@bundle_root + '/models/"
    return {
        "imports": ["$import numpy", "$import torch", "$from segmamba.inference import bundle"],
        "bundle_root": ".",
        "dataset_dir": "data",
        "output_dir": "$@bundle_root + '/predictions'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "segmamba.inference.bundle.BundleNetwork",
            "config_file": f"${models}config.json'",
        },
        "network": "$@network_def.to(@device)",
        "load": f"$@network.load_state_dict(torch.load({models}model.pt', map_location=@device, weights_only=True))",
        "labels": {
            "_target_": "segmamba.inference.bundle.Labels",
            "config_file": f"${models}config.json'",
            "convention_name": known.name,
            "postprocess_file": f"${models}{POSTPROCESS_FILE}'",
        },
        "preprocessing": {
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
                {"_target_": "Spacingd", "keys": "image", "pixdim": spacing, "mode": "bilinear"},
                {
                    "_target_": "CropForegroundd",
                    "keys": "image",
                    "source_key": "image",
                    "select_fn": "$lambda x: x != 0",
                    "allow_smaller": True,
                },
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$bundle.datalist(@dataset_dir)",
            "transform": "@preprocessing",
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(config.data.patch_size),
            "sw_batch_size": 2,
            "overlap": list(config.inference.overlaps(config.data.patch_size)),
            "mode": "gaussian",
        },
        "postprocessing": {
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
        },
        "infer": "$torch.inference_mode()(lambda image: @inferer(image[None].to(@device), @network)[0])",
        "run": [
            "$@load",
            "$@network.eval()",
            "$[@postprocessing({**item, 'pred': @infer(item['image'])}) for item in @dataset]",
        ],
    }


def readme(config, known):
    """The bundle's docs/README.md."""
    return (
        (TEMPLATES / "bundle_readme.md")
        .read_text()
        .format(
            modalities=", ".join(MODALITIES),
            channels=", ".join(output_channels(config.model)),
            spacing_mm=f"{config.data.spacing_mm:g}",
            window=" x ".join(map(str, config.data.patch_size)),
            values=", ".join(
                f"{value} {name}"
                for value, name in known.names.items()
                if value not in known.merged
            ),
            classes=", ".join(CLASSES),
        )
    )


def _licence():
    """The package's LICENSE, from a checkout or from an installed distribution."""
    if LICENCE.is_file():
        return LICENCE
    return next(
        file.locate() for file in importlib.metadata.files("segmamba") if file.name == "LICENSE"
    )


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")
