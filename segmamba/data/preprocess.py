"""The preprocessing cache: each case once, z-scored, on one grid and cut to the brain, in files that a patch is read from
without the volume.

    <cache>/<case id>-<key>/image.npy           float16 (4, x, y, z), z-scored, 0 outside the brain
                            label.npy           uint8 (x, y, z), internal classes, the grid of image.npy
                            source_label.npy    uint8, the grid of the source; only where the case was resampled
                            tumour_voxels.npy   int32 flat indices into label.npy, at most CENTRES of them
                            class1_voxels.npy   the same for each class of tumour
                            brain_voxels.npy    the same for brain voxels that are no tumour
                            case.json           grids and offset, written first; the folder appears by one rename when all is complete

Three grids: the source's, in canonical orientation; the working grid, the source's extent at `spacing_mm`; and the box around brain
and tumour, cut out of the working grid at `offset`, which is what image.npy and label.npy hold. All that was cut away is 0.

The key is a digest of the settings and of each source file's name, size and times: nothing stale is ever served. Why plain .npy
and not a compressed format: benchmarks/README.md.
"""

import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segmamba.data.labels import REGION_CLASSES, convention
from segmamba.data.parallel import map_cases
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError

FORMAT = 2  # raise it when the meaning of a cached file changes
CENTRES = (
    50_000  # candidate patch centres kept per kind: more than any training run draws from one case
)
SAME_SPACING_MM = 1e-3
BUILDING = ".building-"
ABANDONED_S = 3600  # a case takes seconds: what has stood unfinished for so long belongs to a process that was killed


@dataclass(frozen=True)
class PreparedCase:
    """A cached case. Arrays are memory maps, opened at each access so that the object travels between processes."""

    id: str
    patient: str
    folder: Path
    shape: tuple
    """Of image and label: the box around the brain."""
    offset: tuple
    """The box's first voxel in the working grid."""
    working_shape: tuple
    source_shape: tuple
    source_spacing_mm: tuple
    source_affine: tuple
    """Rows of the affine of the source in canonical orientation."""
    classes: tuple
    """The internal classes of tumour that the label holds."""

    @property
    def margins(self):
        """((before, after), ...) along x, y, z: voxels of the working grid that were cut away, as np.pad takes them."""
        return tuple(
            (o, w - o - s)
            for o, w, s in zip(self.offset, self.working_shape, self.shape, strict=True)
        )

    def image(self):
        """float16 (4, x, y, z)."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    def label(self):
        """uint8 (x, y, z), the grid of `image`."""
        return np.load(self.folder / "label.npy", mmap_mode="r")

    def whole(self, array):
        """`array` (..., x, y, z) on the grid of `image`, put back into the working grid; zeros around it."""
        return np.pad(array, [(0, 0)] * (array.ndim - 3) + [*self.margins])

    def source_label(self):
        """uint8 (x, y, z), the source's own grid in canonical orientation: what a verdict is measured on."""
        path = self.folder / "source_label.npy"
        return np.load(path, mmap_mode="r") if path.exists() else self.whole(self.label())

    def voxels(self, kind):
        """Flat indices of candidate patch centres: kind is "tumour", "brain" or, for one of `classes`, "class1" and so on."""
        return np.load(self.folder / f"{kind}_voxels.npy", mmap_mode="r")


def prepare_cases(cases, cache, config, *, workers=0, progress=lambda done, total: None):
    """The cases as PreparedCases, in the same order; what the cache lacks is built, in parallel. `config` is a DataConfig.

    workers: at most so many processes; 0 is one for each core.
    Raises UserError for the first bad case, saying how many more there are; good cases stay in the cache.
    """
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(cache)
    missing = [case for case in cases if not _folder(case, cache, config).exists()]
    found = len(cases) - len(missing)
    build = functools.partial(_build, cache=cache, config=config)
    errors = map_cases(
        build,
        missing,
        lost=_lost,
        workers=workers,
        progress=lambda done, _: progress(found + done, len(cases)),
    )
    if errors := [error for error in errors if error]:
        raise UserError(
            errors[0] + (f" (and {len(errors) - 1} more cases fail)" if len(errors) > 1 else "")
        )
    return [_load(_folder(case, cache, config)) for case in cases]


def _lost(case):
    return f"{case.id}: not prepared, the process that built it or a case beside it was killed (memory?); free some memory or allow fewer --cpus"


def _build(case, cache, config):
    """Build one case; None, or the error message."""
    folder, spacing_mm = _folder(case, cache, config), config.spacing_mm
    if folder.exists():  # another process has built it meanwhile
        return None
    try:
        scan = read_scan(case)
    except UserError as error:
        return str(error)
    image, label, grids = to_working_grid(scan, spacing_mm)
    building = Path(tempfile.mkdtemp(prefix=BUILDING, dir=folder.parent))
    try:
        _write(building, case, grids, image, label)
        if label is not None and must_resample(scan, spacing_mm):
            np.save(building / "source_label.npy", scan.label)
        os.rename(building, folder)
    except OSError as error:
        if (
            not folder.exists()
        ):  # otherwise another process finished the same case first, and its result is ours
            return f"{case.id}: cannot be written to the cache in {folder.parent} ({error}); free space or choose another --output"
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return None


def _write(building, case, grids, image, label):
    """All files of a case but source_label.npy. image: float16 (4, x, y, z); label: uint8 (x, y, z), or None: then all brain is "brain"."""
    tumour = np.zeros(image.shape[1:], bool) if label is None else label > 0
    classes = [c for c in REGION_CLASSES["WT"] if label is not None and (label == c).any()]
    meta = {"id": case.id, "patient": case.patient, **grids, "classes": classes}
    (building / "case.json").write_text(json.dumps(meta, indent=1))
    np.save(building / "image.npy", image)
    if label is not None:
        np.save(building / "label.npy", label)
    np.save(building / "tumour_voxels.npy", _some(np.flatnonzero(tumour)))
    np.save(building / "brain_voxels.npy", _some(np.flatnonzero(image.any(axis=0) & ~tumour)))
    for c in classes:
        np.save(building / f"class{c}_voxels.npy", _some(np.flatnonzero(label == c)))


def must_resample(scan, spacing_mm):
    return any(abs(s - spacing_mm) > SAME_SPACING_MM for s in scan.spacing_mm)


def to_working_grid(scan, spacing_mm):
    """A Scan as (image float16 (4, x, y, z), label uint8 or None, grids), z-scored, resampled where need be, cut to brain and tumour.

    grids: the fields of a PreparedCase that say where the box lies.
    """
    image, label = zscore(scan.image), scan.label
    if must_resample(scan, spacing_mm):
        zoom = [s / spacing_mm for s in scan.spacing_mm]
        image = np.stack([resample(channel, zoom, order=1) for channel in image])
        label = None if label is None else resample(label, zoom, order=0)
    box = brain_box(image, label)
    grids = {
        "working_shape": image.shape[1:],
        "offset": tuple(side.start for side in box),
        "shape": tuple(side.stop - side.start for side in box),
        "source_shape": scan.image.shape[1:],
        "source_spacing_mm": scan.spacing_mm,
        "source_affine": scan.affine.tolist(),
    }
    return (
        image[(slice(None), *box)].astype(np.float16),
        None if label is None else np.ascontiguousarray(label[box]),
        grids,
    )


def brain_box(image, label):
    """Slices (x, y, z) of the smallest box that holds every non-zero voxel of the image (4, x, y, z) and of the label, if there is one."""
    inside = image.any(axis=0)
    if label is not None:
        inside |= label > 0  # real labels reach a few voxels beyond the brain
    filled = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in filled)


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
    keep = (
        np.linspace(0, len(indices) - 1, min(CENTRES, len(indices))).astype(np.int64)
        if len(indices)
        else slice(0)
    )
    return indices[keep].astype(np.int32)


def _folder(case, cache, config):
    return cache / f"{case.id}-{_key(case, config)}"


def _key(case, config):
    # The time of the last status change tells a file that was replaced by one of the same size and with its old modification time.
    try:
        stats = [
            (path.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            for path in case.files
            for s in [path.stat()]
        ]
    except OSError as error:
        raise UserError(
            f"{case.id}: {error.filename}: {error.strerror}; add the file or remove the case"
        ) from error
    values = sorted(convention(case.convention).values.items())
    text = json.dumps([FORMAT, config.spacing_mm, values, sorted(case.channels.items()), stats])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _clear_abandoned(cache):
    for folder in cache.glob(f"{BUILDING}*"):
        try:
            if time.time() - folder.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue  # its builder has just finished


def _load(folder):
    meta = json.loads((folder / "case.json").read_text())
    grids = {
        name: tuple(meta[name])
        for name in (
            "shape",
            "offset",
            "working_shape",
            "source_shape",
            "source_spacing_mm",
            "classes",
        )
    }
    return PreparedCase(
        meta["id"],
        meta["patient"],
        folder,
        source_affine=tuple(map(tuple, meta["source_affine"])),
        **grids,
    )


def check_patch_fits(cases, config):
    """A UserError naming the first case with a side below the patch, unless padding is on. `config` is a DataConfig.

    What counts is the volume before it was cut to the brain: where only the cut made it too small, the zeros come back as padding.
    """
    if config.pad_to_patch:
        return
    for case in cases:
        for axis, side, wanted in zip("xyz", case.working_shape, config.patch_size, strict=True):
            if side < wanted:
                raise UserError(
                    f"{case.id}: {side} voxels along {axis} at {config.spacing_mm:g} mm are fewer than the patch's {wanted}; "
                    f"choose a smaller data.patch_size (now {'x'.join(map(str, config.patch_size))}) or --set data.pad_to_patch=true"
                )
