"""What the benchmarks of nnU-Net share: its raw format, its planner and its preprocessing.

torch and nnU-Net are imported where they are used: the processes that convert cases import this
module too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel

from segmamba.data.case import Case
from segmamba.data.label_sets import BACKGROUND, LabelSet
from segmamba.data.labels import MODALITIES
from segmamba.data.volumes import read_scan

DATASET = 1
NAME = f"Dataset{DATASET:03d}_Cases"
CONFIGURATION = "3d_fullres"
ENDING = ".nii"


def set_folders(root: Path) -> None:
    """Tell nnU-Net to keep its raw cases, preprocessed cases and results below `root`."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(root / name)  # read when nnU-Net is imported, or later


def write_raw(cases: Sequence[Case], folder: Path, *, regions: bool = False) -> None:
    """Write cases in nnU-Net's raw format: imagesTr, labelsTr and dataset.json in `folder`.

    Args:
        cases: Labelled cases.
        folder: Must not be there yet.
        regions: Whether nnU-Net shall learn the regions in place of the classes.
    """
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    with get_context("spawn").Pool(min(len(cases), os.cpu_count())) as pool:
        pool.starmap(write_raw_case, [(case, folder) for case in cases], chunksize=1)
    content = dataset_json(cases) | (region_labels(cases[0].label_set) if regions else {})
    (folder / "dataset.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_raw_case(case: Case, folder: Path) -> None:
    """Write a case: a file for each modality, in the order of MODALITIES, and its classes."""
    scan = read_scan(case)
    for channel, image in enumerate(scan.image):
        name = f"{case.id}_{channel:04d}{ENDING}"
        nibabel.save(nibabel.Nifti1Image(image, scan.affine), folder / "imagesTr" / name)
    label = nibabel.Nifti1Image(scan.label, scan.affine)
    nibabel.save(label, folder / "labelsTr" / f"{case.id}{ENDING}")


def dataset_json(cases: Sequence[Case]) -> dict[str, object]:
    """What nnU-Net must know of cases that `write_raw_case` writes."""
    return {
        "channel_names": {str(number): name for number, name in enumerate(MODALITIES)},
        "labels": {name: number for number, name in enumerate(cases[0].label_set.classes)},
        "numTraining": len(cases),
        "file_ending": ENDING,
    }


def region_labels(labels: LabelSet) -> dict[str, object]:
    """What dataset.json says of labels where nnU-Net learns regions, as it does for BraTS."""
    regions = {region: list(labels.members[region]) for region, _ in labels.written}
    return {
        "labels": {BACKGROUND: 0} | regions,
        "regions_class_order": [labels.number(name) for _, name in labels.written],
    }


def plan_and_preprocess(
    cases: int, patch: Sequence[int] | None, batch_size: int | None
) -> dict[str, Any]:
    """Run nnU-Net's planner and preprocessing, as `nnUNetv2_plan_and_preprocess` does.

    Args:
        cases: How many there are.
        patch: Voxels of a patch along x, y and z; None leaves them to the planner.
        batch_size: Patches of a step; None leaves them to the planner.

    Returns:
        The plans.
    """
    import setuptools  # noqa: F401  # nnU-Net imports distutils, which is setuptools' since 3.12
    from nnunetv2.experiment_planning import plan_and_preprocess_api as steps
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )

    class Planner(ExperimentPlanner):
        """nnU-Net's planner, which may be told the patch and the batch."""

        def get_plans_for_configuration(
            self, spacing: Any, shape: Any, identifier: str, *others: Any, **named: Any
        ) -> dict[str, Any]:
            # The planner's first choice is a patch as large as the median case.
            if patch and identifier.endswith(CONFIGURATION):
                backwards = patch[::-1]  # nnU-Net's arrays are (z, y, x)
                shape = [backwards[axis] for axis in self.determine_transpose()[0]]
            plan = super().get_plans_for_configuration(spacing, shape, identifier, *others, **named)
            if patch and identifier.endswith(CONFIGURATION) and list(plan["patch_size"]) != shape:
                raise SystemExit(
                    f"--patch: of {shape} (z, y, x) nnU-Net's planner makes "
                    f"{list(map(int, plan['patch_size']))}; give that"
                )
            return plan | ({"batch_size": batch_size} if batch_size else {})

    processes = min(cases, os.cpu_count())
    steps.extract_fingerprints(
        [DATASET], num_processes=processes, verbose=False, show_progress_bar=False
    )
    plans, name = steps.plan_experiment_dataset(DATASET, Planner)
    steps.preprocess(
        [DATASET], name, (CONFIGURATION,), num_processes=[processes], show_progress_bar=False
    )
    return plans
