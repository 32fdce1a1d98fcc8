"""Segment one case with an exported network: NIfTI in, NIfTI out, without segmamba.

    python segment_nifti.py net.onnx T1.nii.gz T1ce.nii.gz T2.nii.gz FLAIR.nii.gz OUT.nii.gz

net.onnx comes from `segmamba export --onnx net.onnx` and needs numpy, nibabel and onnxruntime;
net.pt2 comes from `--pt2 net.pt2` and needs torch in place of onnxruntime. net.onnx.json, which
export writes beside it, says all that is done here: channels, normalisation, grid, windows, labels.

The images are skull-stripped, of one grid, with 0 outside the brain. The result has the grid and
the header of the T1ce and the values of the file's label convention. It is that of `segmamba
predict`, but for voxels at which two classes are equally likely to the last digits.

Legend: K channels of the prediction, (x, y, z) a volume, canonical orientation (RAS+).
"""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]
"""Windows (B, 4, x, y, z) to probabilities (B, K, x, y, z), float32."""
Facts = dict[str, Any]
"""What net.onnx.json holds."""
RAS = np.array([[0, 1], [1, 1], [2, 1]])


def load_onnx(path: Path) -> Predict:
    """Load an ONNX file for the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda windows: session.run(["probabilities"], {"image": windows})[0]


def load_pt2(path: Path) -> Predict:
    """Load a package of torch.export and AOTInductor."""
    import torch

    network = torch._inductor.aoti_load_package(str(path))

    def predict(windows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            probabilities, _logits = network(torch.from_numpy(windows))
        return probabilities.numpy()

    return predict


def segment(predict: Predict, facts: Facts, images: np.ndarray, spacing_mm: Any) -> np.ndarray:
    """Segment a case.

    Args:
        predict: The network.
        facts: What net.onnx.json holds.
        images: float (4, x, y, z), in the order of facts["input"]["channels"].
        spacing_mm: Sides of a voxel.

    Returns:
        Class numbers, uint8 (x, y, z).
    """
    wanted = facts["preprocessing"]["spacing_mm"]
    working = np.stack([zscored(image) for image in images])
    if any(abs(side - wanted) > 1e-3 for side in spacing_mm):
        shape = [round(n * s / wanted) for n, s in zip(images.shape[1:], spacing_mm, strict=True)]
        working = resampled(working, shape)
    inside = working.any(axis=0)
    box = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    cut = tuple(slice(at[0], at[-1] + 1) for at in box)
    # the values that the network was trained on have half precision
    brain = working[(slice(None), *cut)].astype(np.float16).astype(np.float32)
    if facts["preprocessing"]["normalised_over"] == "box":
        brain = over_box(brain, images)
    probability = np.zeros((len(facts["output"]["channels"]), *inside.shape), np.float32)
    if facts["output"]["activation"] == "softmax":
        probability[0] = 1  # outside the box is background
    probability[(slice(None), *cut)] = over_windows(predict, facts["window"], brain)
    probability = resampled(probability, images.shape[1:])
    return without_small_parts(decided(probability, facts), facts)


def zscored(image: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 over the voxels that are not 0; these stay 0."""
    out, brain = np.zeros(image.shape, np.float32), image != 0
    if brain.any():
        values = image[brain].astype(np.float64)
        out[brain] = (values - values.mean()) / max(values.std(), 1e-8)
    return out


def over_box(brain: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The z-scores of a box with the background counted, where its intensity 0 stands for."""
    out = np.zeros_like(brain)
    for scores, image, target in zip(brain, images, out, strict=True):
        if image.any():
            values = image[image != 0].astype(np.float64)
            filled = np.where(scores != 0, scores, -values.mean() / max(values.std(), 1e-8))
            target[:] = (filled - filled.mean()) / max(filled.std(), 1e-8)
    return out


def resampled(volumes: np.ndarray, shape: Any) -> np.ndarray:
    """Linear interpolation of (K, x, y, z) along one axis after the other, edges on edges."""
    for axis, (old, new) in enumerate(zip(volumes.shape[1:], shape, strict=True), 1):
        if old == new:
            continue
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(place).astype(int)
        share = (place - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
        first = np.take(volumes, low, axis)
        volumes = first + share * (np.take(volumes, np.minimum(low + 1, old - 1), axis) - first)
    return volumes


def over_windows(predict: Predict, window: Facts, image: np.ndarray) -> np.ndarray:
    """The mean prediction of overlapping windows, weighted by a Gaussian around their centres."""
    size, shape = window["size"], image.shape[1:]
    padded = np.pad(
        image, [(0, 0), *((0, max(0, w - s)) for w, s in zip(size, shape, strict=True))]
    )
    starts = [
        window_starts(side, w, overlap)
        for side, w, overlap in zip(padded.shape[1:], size, window["overlap"], strict=True)
    ]
    weights = gaussian(size, window["sigma_share"], window["floor"])
    mirrors = [axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n)]
    mirrors = mirrors if window["flips"] else mirrors[:1]
    total = None
    share = np.zeros(padded.shape[1:], np.float32)
    for start in itertools.product(*starts):
        place = tuple(slice(first, first + w) for first, w in zip(start, size, strict=True))
        batch = padded[(slice(None), *place)][None]
        each = [np.flip(predict(np.ascontiguousarray(np.flip(batch, m))), m) for m in mirrors]
        if total is None:
            total = np.zeros((each[0].shape[1], *padded.shape[1:]), np.float32)
        total[(slice(None), *place)] += sum(each)[0] / len(each) * weights
        share[place] += weights
    assert total is not None, "there is a window"
    x, y, z = shape
    return (total / share)[:, :x, :y, :z]


def window_starts(side: int, window: int, overlap: float) -> list[int]:
    """The fewest windows, spread evenly, that overlap at least so far."""
    if side <= window:
        return [0]
    count = 1 + -(-(side - window) // max(1, int(window * (1 - overlap))))
    return [round(i * (side - window) / (count - 1)) for i in range(count)]


def gaussian(size: list[int], sigma_share: float, floor: float) -> np.ndarray:
    """The weights of a window's voxels, 1 at the most and `floor` at the least."""
    weights = np.ones((), np.float32)
    for side in size:
        offset = (np.arange(side) - (side - 1) / 2).astype(np.float32)
        weights = weights[..., None] * np.exp(-0.5 * (offset / (sigma_share * side)) ** 2)
    return np.maximum(weights / weights.max(), floor).astype(np.float32)


def decided(probability: np.ndarray, facts: Facts) -> np.ndarray:
    """The likeliest class, or the innermost region above its threshold; uint8 (x, y, z)."""
    labels, thresholds = facts["labels"], facts["postprocessing"]["thresholds"]
    if facts["output"]["activation"] == "softmax" and not thresholds:
        return probability.argmax(0).astype(np.uint8)
    if facts["output"]["activation"] == "softmax":
        regions = [probability[numbers].sum(0) for numbers in labels["regions"].values()]
    else:
        regions = list(probability)
    limits = [*thresholds, *[0.5] * (len(regions) - len(thresholds))]
    pairs = zip(labels["regions"], regions, limits, strict=True)
    above = {name: region > np.float32(limit) for name, region, limit in pairs}
    classes = np.zeros(probability.shape[1:], np.uint8)
    for region in labels["written"]:
        name, outer = region["region"], region["within"]
        above[name] = above[name] & above[outer] if outer else above[name]
        classes[above[name]] = region["class"]
    return classes


def without_small_parts(classes: np.ndarray, facts: Facts) -> np.ndarray:
    """Remove the components of regions, and the ET, that have too few voxels."""
    labels, done = facts["labels"], facts["postprocessing"]
    names = list(labels["regions"])
    limits = dict(zip(names, done["min_component_voxels"], strict=False))
    if any(limits.values()) and classes.any():
        box = [np.flatnonzero((classes > 0).any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        part = tuple(slice(at[0], at[-1] + 1) for at in box)
        kept = {n: np.isin(classes[part], numbers) for n, numbers in labels["regions"].items()}
        inside = np.zeros(kept[names[0]].shape, np.uint8)
        for region in labels["written"]:
            name, outer = region["region"], region["within"]
            kept[name] = kept[name] & kept[outer] if outer else kept[name]
            if limits.get(name):
                numbers = components(kept[name])
                kept[name] &= (np.bincount(numbers.ravel()) >= limits[name])[numbers]
            inside[kept[name]] = region["class"]
        classes = classes.copy()
        classes[part] = inside
    et = next(region for region in labels["written"] if region["region"] == "ET")
    around = next(region for region in labels["written"] if region["region"] == et["within"])
    if 0 < np.count_nonzero(classes == et["class"]) < done["min_et_voxels"]:
        classes = np.where(classes == et["class"], np.uint8(around["class"]), classes)
    return classes


def components(mask: np.ndarray) -> np.ndarray:
    """Number the components of a mask (x, y, z); voxels that share a corner belong together.

    Every voxel takes the largest number among its neighbours until nothing changes.
    """
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = numbers
        for axis in range(3):
            edge = [(1, 1) if a == axis else (0, 0) for a in range(3)]
            wide, side = np.pad(spread, edge), mask.shape[axis]
            parts = [np.take(wide, np.arange(n, n + side), axis) for n in range(3)]
            spread = np.maximum(np.maximum(parts[0], parts[1]), parts[2])
        spread = np.where(mask, spread, 0)
        # a voxel's number is the place of another one, which may know a larger number by now
        spread = np.where(mask, spread.ravel()[np.maximum(spread, 1) - 1], 0)
        if np.array_equal(spread, numbers):
            return (
                np.unique(numbers, return_inverse=True)[1].reshape(mask.shape)
                if mask.any()
                else numbers
            )
        numbers = spread


def read(paths: list[Path], facts: Facts) -> tuple[np.ndarray, nibabel.Nifti1Image]:
    """The images of a case in canonical orientation, and the file whose grid the result takes."""
    files = [nibabel.load(path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        if file.shape != files[0].shape or not np.allclose(file.affine, files[0].affine, atol=1e-2):
            sys.exit(
                f"{path}: lies on another grid than {paths[0]}; register and resample it first"
            )
    images = [np.asarray(nibabel.as_closest_canonical(f).dataobj, np.float32) for f in files]
    for path, image in zip(paths, images, strict=True):
        if not np.isfinite(image).all() or not image.any():
            sys.exit(f"{path}: is empty or has values that are not finite; repair the file")
    return np.stack(images), files[facts["input"]["channels"].index("T1ce")]


def write(path: Path, classes: np.ndarray, like: nibabel.Nifti1Image, facts: Facts) -> None:
    """Write class numbers as the values of the label convention, on the grid of `like`."""
    values = np.array(facts["labels"]["values"], np.uint8)[classes]
    stored = nibabel.orientations.ornt_transform(RAS, nibabel.io_orientation(like.affine))
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(None, None)
    header["cal_min"] = header["cal_max"] = 0
    values = nibabel.orientations.apply_orientation(values, stored)
    nibabel.save(type(like)(np.ascontiguousarray(values), like.affine, header), path)


def main(arguments: list[str]) -> None:
    """Read the command line, segment and write."""
    if len(arguments) != 6:
        sys.exit(f"usage: {(__doc__ or '').splitlines()[2].strip()}")
    model, *images, output = map(Path, arguments)
    beside = model.with_name(f"{model.name}.json")
    for path in (model, beside, *images):
        if not path.is_file():
            sys.exit(f"{path}: no such file")
    facts = json.loads(beside.read_text(encoding="utf-8"))
    if facts["window"]["scales"] != [1.0]:
        sys.exit(f"{model}: was trained for several scales, which this example does not average")
    predict = load_pt2(model) if model.suffix == ".pt2" else load_onnx(model)
    volumes, like = read(images, facts)
    spacing_mm = nibabel.affines.voxel_sizes(nibabel.as_closest_canonical(like).affine)
    write(output, segment(predict, facts, volumes, spacing_mm), like, facts)


if __name__ == "__main__":
    main(sys.argv[1:])
