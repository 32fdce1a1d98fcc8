"""Small cases with the classes of other label sets than glioma's."""

import nibabel
import numpy as np

from tests.conftest import BRATS_AFFINE, NEW_NAMES, write_case

POST_TREATMENT_IDS = [f"BraTS-GLI-{number:05d}-100" for number in range(4)]
PEDIATRIC_IDS = [f"BraTS-PED-{number:05d}-000" for number in range(4)]


def write_labelled(folder, case_id, values, **options):
    """Write a case whose segmentation has a box of each of `values`, in the values of its files.

    Args:
        folder: Where the case's folder goes.
        case_id: Its id, from which the layouts tell the convention.
        values: A value for each of the boxes, which lie beside one another.
        options: What `write_case` takes.
    """
    target = write_case(folder, case_id, names=NEW_NAMES, **options)
    label = np.zeros(options.get("shape", (48, 48, 32)), np.uint8)
    for place, value in enumerate(values):
        label[10 + 6 * place : 16 + 6 * place, 14:24, 10:20] = value
    path = target / f"{case_id}{NEW_NAMES['label']}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(label, BRATS_AFFINE), path)
    return target


def write_post_treatment(folder, ids=POST_TREATMENT_IDS):
    """Cases of BraTS 2024 GLI with all of NETC, SNFH, ET and RC; return the folder."""
    for seed, case_id in enumerate(ids):
        write_labelled(folder, case_id, (1, 2, 3, 4), seed=seed)
    return folder


def write_pediatric(folder, ids=PEDIATRIC_IDS):
    """Cases of BraTS-PED 2024 with all of ET, NETC, CC and ED; return the folder."""
    for seed, case_id in enumerate(ids):
        write_labelled(folder, case_id, (1, 2, 3, 4), seed=seed)
    return folder
