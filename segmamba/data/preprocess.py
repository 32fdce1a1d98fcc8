"""The preprocessing cache: each case once, z-scored and on one grid, in files that a patch is read from without the volume.

    <cache>/<case id>-<key>/image.npy           float16 (4, x, y, z), z-scored, 0 outside the brain
                            label.npy           uint8 (x, y, z), internal classes, the grid of image.npy
                            source_label.npy    uint8, the grid of the source; only where the two grids differ
                            tumour_voxels.npy   int32 flat indices into label.npy, at most CENTRES of them
                            brain_voxels.npy    the same for brain voxels that are no tumour
                            case.json           written first; the folder appears by one rename when all is complete

The key is a digest of the settings and of each source file's name, size and modification time: nothing stale is ever served.
"""

import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from segmamba.data.labels import REGION_CLASSES
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError

FORMAT = 1  # raise it when the meaning of a cached file changes
CENTRES = 50_000  # candidate patch centres kept per kind: more than any training run draws from one case
SAME_SPACING_MM = 1e-3
SERIAL_BYTES = 32 * 2**20  # below this, starting worker processes costs more than it saves


@dataclass(frozen=True)
class PreparedCase:
    """A cached case. Arrays are memory maps, opened at each access so that the object travels between processes."""

    id: str
    patient: str
    folder: Path
    shape: tuple
    source_shape: tuple
    source_spacing_mm: tuple

    def image(self):
        """float16 (4, x, y, z)."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    def label(self):
        """uint8 (x, y, z), the grid of `image`."""
        return np.load(self.folder / "label.npy", mmap_mode="r")

    def source_label(self):
        """uint8 (x, y, z), the source's own grid in canonical orientation: what a verdict is measured on."""
        path = self.folder / "source_label.npy"
        return np.load(path if path.exists() else self.folder / "label.npy", mmap_mode="r")

    def voxels(self, kind):
        """Flat indices of candidate patch centres: kind is "tumour" or "brain"."""
        return np.load(self.folder / f"{kind}_voxels.npy", mmap_mode="r")


def prepare_cases(cases, cache, config, *, progress=lambda done, total: None):
    """The cases as PreparedCases, in the same order; what the cache lacks is built, in parallel. `config` is a DataConfig.

    Raises UserError for the first bad case, saying how many more there are; good cases stay in the cache.
    """
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    folders = {case.id: cache / f"{case.id}-{_key(case, config)}" for case in cases}
    missing = [case for case in cases if not folders[case.id].exists()]
    errors = []
    for done, error in enumerate(_build(missing, folders, config.spacing_mm), len(cases) - len(missing) + 1):
        errors += [error] if error else []
        progress(done, len(cases))
    if errors:
        raise UserError(errors[0] + (f" (and {len(errors) - 1} more cases fail)" if len(errors) > 1 else ""))
    return [_load(folders[case.id]) for case in cases]


def _build(cases, folders, spacing_mm):
    """Build each case; yields None or the error message for each, as they finish."""
    if sum(f.stat().st_size for case in cases for f in case.files) < SERIAL_BYTES:
        yield from (_build_one(case, folders[case.id], spacing_mm) for case in cases)
        return
    with ProcessPoolExecutor(min(len(cases), os.cpu_count()), mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_build_one, case, folders[case.id], spacing_mm) for case in cases]
        try:
            yield from (job.result() for job in as_completed(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _build_one(case, folder, spacing_mm):
    try:
        scan = read_scan(case)
    except UserError as error:
        return str(error)
    image, label = zscore(scan.image), scan.label
    resampled = any(abs(s - spacing_mm) > SAME_SPACING_MM for s in scan.spacing_mm)
    if resampled:
        zoom = [s / spacing_mm for s in scan.spacing_mm]
        image = np.stack([resample(channel, zoom, order=1) for channel in image])
        label = None if label is None else resample(label, zoom, order=0)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        meta = {
            "id": case.id, "patient": case.patient, "shape": image.shape[1:],
            "source_shape": scan.image.shape[1:], "source_spacing_mm": scan.spacing_mm, "source_affine": scan.affine.tolist(),
        }  # fmt: skip
        (building / "case.json").write_text(json.dumps(meta, indent=1))
        np.save(building / "image.npy", image.astype(np.float16))
        if label is not None:
            np.save(building / "label.npy", label)
            if resampled:
                np.save(building / "source_label.npy", scan.label)
            tumour = np.isin(label, REGION_CLASSES["WT"])
            np.save(building / "tumour_voxels.npy", _some(np.flatnonzero(tumour)))
            np.save(building / "brain_voxels.npy", _some(np.flatnonzero(image.any(axis=0) & ~tumour)))
        os.rename(building, folder)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        if not folder.exists():  # otherwise another process finished the same case first, and its result is ours
            raise
    return None


def zscore(image):
    """Per-channel (x - mean) / std over the channel's non-zero voxels, float32; zeros stay 0. image: (4, x, y, z)."""
    out = np.zeros_like(image, np.float32)
    for source, target in zip(image, out, strict=True):
        brain = source != 0
        values = source[brain].astype(np.float64)
        target[brain] = (values - values.mean()) / max(values.std(), 1e-8)
    return out


def resample(array, zoom, *, order):
    """(x, y, z) scaled by `zoom` per axis, edges on edges; order 1 is trilinear, 0 nearest."""
    from scipy.ndimage import zoom as scale

    return scale(array, zoom, order=order, mode="nearest", grid_mode=True)


def _some(indices):
    """At most CENTRES of the sorted indices, evenly spread: which ones depends on nothing but the case."""
    keep = np.linspace(0, len(indices) - 1, min(CENTRES, len(indices))).astype(np.int64) if len(indices) else slice(0)
    return indices[keep].astype(np.int32)


def _key(case, config):
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in case.files]
    text = json.dumps([FORMAT, config.spacing_mm, case.convention, stats])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _load(folder):
    meta = json.loads((folder / "case.json").read_text())
    return PreparedCase(
        meta["id"], meta["patient"], folder, tuple(meta["shape"]), tuple(meta["source_shape"]), tuple(meta["source_spacing_mm"])
    )


def check_patch_fits(cases, config):
    """A UserError naming the first case with a side below the patch, unless padding is on. `config` is a DataConfig."""
    if config.pad_to_patch:
        return
    for case in cases:
        for axis, side, wanted in zip("xyz", case.shape, config.patch_size, strict=True):
            if side < wanted:
                raise UserError(
                    f"{case.id}: {side} voxels along {axis} at {config.spacing_mm:g} mm are fewer than the patch's {wanted}; "
                    f"choose a smaller data.patch_size (now {'x'.join(map(str, config.patch_size))}) or --set data.pad_to_patch=true"
                )
