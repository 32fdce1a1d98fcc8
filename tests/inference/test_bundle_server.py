"""An exported bundle in MONAI's own command, and as MONAI Label's server loads it for 3D Slicer.

The server (monailabel/tasks/infer/bundle.py and basic_infer.py of MONAI Label 0.8) reads the keys
`network_def`, `preprocessing`, `inferer` and `postprocessing` of configs/inference.json, each by
itself, and inputs, outputs, channel_def, spatial_shape, description and version of
configs/metadata.json. It sets `bundle_root` and `device`, loads models/model.pt strictly, leaves
out what writes files, and hands the transforms one file, of all channels.
"""

import json
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch

from segmamba.data.cases import find_cases
from segmamba.data.volumes import read_scan
from segmamba.inference.export import export_bundle
from segmamba.inference.predictor import load_predictor
from tests.conftest import write_case
from tests.inference.conftest import write_run

pytest.importorskip("monai.bundle")


@pytest.fixture
def bundle(tmp_path):
    folder, _ = write_run(tmp_path / "run")
    write_case(tmp_path / "data", "X", shape=(52, 36, 36), label=False)
    return export_bundle(folder, tmp_path / "bundle")


def expected(tmp_path):
    (case,) = find_cases(tmp_path / "data")
    return case, load_predictor(tmp_path / "run", "cpu").predict(read_scan(case))


def test_the_command_of_the_bundles_readme_runs_as_a_process(bundle, tmp_path):
    text = (bundle / "docs" / "README.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("python -m monai.bundle run")]
    words = line.replace("/path/to/cases", str(tmp_path / "data")).split()[1:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=bundle, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    _, classes = expected(tmp_path)
    written = nibabel.as_closest_canonical(nibabel.load(bundle / "predictions" / "X.nii.gz"))
    assert (np.asanyarray(written.dataobj) == classes).mean() > 0.99
    assert len(np.unique(classes)) > 2


def test_the_bundle_loads_and_predicts_as_in_monai_labels_server(bundle, tmp_path):
    from monai.bundle import ConfigParser
    from monai.data import decollate_batch
    from monai.transforms import Compose, SaveImaged

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.config.update({"bundle_root": str(bundle), "device": "cpu"})
    network = parser.get_parsed_content("network_def", instantiate=True)
    state = torch.load(bundle / "models" / "model.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(state.get("model", state), strict=True)
    network.eval()

    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    (image_key, image), *_ = metadata["network_data_format"]["inputs"].items()
    (pred_key, pred), *_ = metadata["network_data_format"]["outputs"].items()
    assert len(image["spatial_shape"]) == 3 and metadata["description"] and metadata["version"]

    case, classes = expected(tmp_path)
    whole = np.stack(
        [
            np.asanyarray(nibabel.load(case.images[m]).dataobj)
            for m in image["channel_def"].values()
        ],
        axis=-1,
    )
    affine = nibabel.load(case.images["T1"]).affine
    nibabel.save(nibabel.Nifti1Image(whole, affine), tmp_path / "X.nii.gz")

    before = parser.get_parsed_content("preprocessing", instantiate=True)
    data = {image_key: str(tmp_path / "X.nii.gz")}
    for transform in before.transforms if isinstance(before, Compose) else before:
        data = transform(data)
    inferer = parser.get_parsed_content("inferer", instantiate=True)
    with torch.no_grad():
        outputs = inferer(data[image_key][None], network)
    data[pred_key] = decollate_batch(outputs)[0]
    after = parser.get_parsed_content("postprocessing", instantiate=True)
    kept = [step for step in after.transforms if not isinstance(step, SaveImaged)]
    assert len(kept) == len(after.transforms) - 1
    for transform in kept:
        data = transform(data)
    written = np.asarray(data[pred_key])
    assert written.shape == (1, *whole.shape[:3]) and written.dtype == np.uint8
    # the server's numbers of the labels are places in channel_def
    assert list(pred["channel_def"].values()) == ["background", "NCR", "ED", "ET"]
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(written[0], affine))
    assert (np.asanyarray(canonical.dataobj) == classes).mean() > 0.99
