"""MONAI's own tools load and run an exported bundle."""

import json
import warnings

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from segmamba.config import PostprocessConfig
from segmamba.data.cases import find_cases
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.inference.export import export_bundle
from segmamba.inference.predictor import load_predictor
from tests.conftest import write_case
from tests.inference.conftest import write_run

monai_bundle = pytest.importorskip("monai.bundle")
TURNED = np.array([[0, 0, -1.0], [1.0, 0, 0], [0, -1.0, 0]])
OBLIQUE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.05, 0.02, -0.1) @ TURNED, (3, 4, 5)
)


def run_bundle(bundle, data, output):
    """`python -m monai.bundle run` with the arguments of the bundle's README."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai_bundle.run(
            config_file=str(bundle / "configs" / "inference.json"),
            meta_file=str(bundle / "configs" / "metadata.json"),
            bundle_root=str(bundle),
            dataset_dir=str(data),
            output_dir=str(output),
        )


@pytest.mark.parametrize("outputs", ["classes", "regions"])
def test_monai_runs_a_bundle_to_the_labels_of_segmamba_predict(tmp_path, outputs):
    """The brain is 48x48x32, which windows of 32x32x16 cover alike by MONAI's rule and by ours."""
    folder, _ = write_run(tmp_path / "run", **{"model.outputs": outputs})
    (folder / "postprocessing.json").write_text(
        PostprocessConfig(min_component_voxels=(5, 5, 5)).to_json()
    )
    write_case(tmp_path / "data", "X", shape=(52, 36, 52), affine=OBLIQUE, label=False)
    bundle = export_bundle(folder, tmp_path / "bundle", labels="brats2018")
    run_bundle(bundle, tmp_path / "data", tmp_path / "out")
    (case,) = find_cases(tmp_path / "data")
    written, source = nibabel.load(tmp_path / "out" / "X.nii.gz"), nibabel.load(case.images["T1ce"])
    assert (
        written.shape == source.shape
        and np.allclose(written.affine, source.affine, atol=1e-5)
        and written.get_data_dtype() == np.uint8
    )
    theirs = np.asanyarray(nibabel.as_closest_canonical(written).dataobj)
    expected = np.array([0, 1, 2, 4], np.uint8)[
        load_predictor(folder, "cpu").predict(read_scan(case))
    ]
    assert len(np.unique(expected)) > 2 and (theirs == expected).mean() > 0.999


def test_a_bundle_of_a_coarser_grid_gives_nearly_the_labels_of_segmamba_predict(tmp_path):
    """MONAI resamples half a voxel beside us at the borders: smooth images change little."""
    folder, _ = write_run(tmp_path / "run", **{"data.spacing_mm": 2.0})
    target = tmp_path / "data" / "X"
    target.mkdir(parents=True)
    for seed, name in enumerate(("t1", "t1ce", "t2", "flair")):
        image = np.zeros((44, 48, 40), np.float32)
        image[4:-4, 4:-4, 4:-4] = 100 + 4000 * gaussian_filter(
            np.random.default_rng(seed).normal(size=(36, 40, 32)), 5
        )
        nibabel.save(
            nibabel.Nifti1Image(image, np.diag([-1.0, -1.0, 1.0, 1.0])), target / f"X_{name}.nii.gz"
        )
    run_bundle(
        export_bundle(folder, tmp_path / "bundle", labels="brats2018"),
        tmp_path / "data",
        tmp_path / "out",
    )
    (case,) = find_cases(tmp_path / "data")
    theirs = np.asanyarray(
        nibabel.as_closest_canonical(nibabel.load(tmp_path / "out" / "X.nii.gz")).dataobj
    )
    expected = np.array([0, 1, 2, 4], np.uint8)[
        load_predictor(folder, "cpu").predict(read_scan(case))
    ]
    assert (theirs == expected).mean() > 0.8, "of a random network, which is all boundary"


def test_monai_finds_the_network_to_take_and_give_what_the_metadata_say(run, tmp_path):
    bundle = export_bundle(run, tmp_path / "bundle")
    files = {
        "config_file": str(bundle / "configs" / "inference.json"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai_bundle.verify_net_in_out(
            "network_def", **files, device="cpu", n=2, bundle_root=str(bundle)
        )
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    needed = {
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "required_packages_version",
        "task",
        "description",
        "authors",
        "copyright",
        "network_data_format",
    }
    assert needed <= set(metadata)
    assert metadata["network_data_format"]["inputs"]["image"]["channel_def"] == {
        "0": "T1",
        "1": "T1ce",
        "2": "T2",
        "3": "FLAIR",
    }


def test_a_bundle_holds_what_monai_requires_and_only_tensors(run, tmp_path):
    bundle = export_bundle(run, tmp_path / "bundle")
    for name in (
        "configs/metadata.json",
        "configs/inference.json",
        "models/model.pt",
        "LICENSE",
        "docs/README.md",
    ):
        assert (bundle / name).stat().st_size > 0
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(name.startswith("network.") for name in state)
    assert "{" not in (bundle / "docs" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] in (["run", "bundle"], ["bundle", "run"]), (
        "nothing half-made is left"
    )


def with_crf(run):
    (run / "postprocessing.json").write_text(PostprocessConfig(crf_steps=2).to_json())


def without_config(run):
    (run / "config.json").unlink()


@pytest.mark.parametrize(
    ("break_it", "message"), [(with_crf, "a bundle has no CRF"), (without_config, "no config.json")]
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(run, tmp_path, break_it, message):
    break_it(run)
    with pytest.raises(UserError, match=message):
        export_bundle(run, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_existing_folder_is_not_touched(run, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        export_bundle(run, tmp_path)
