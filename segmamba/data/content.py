"""What the voxels of a case say about its images: backgrounds, copies, masks.

An error is what makes numbers wrong: an image that is constant or a mask, and two modalities that
are one image. A warning is what may: two modalities that differ by brightness and contrast alone, a
border that is not background, images that disagree about where the brain is. A background that is
not 0 is information, since it is used.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from segmamba.data.background import Background, find_background, sample
from segmamba.data.case import ERROR, INFORMATION, WARNING, Case, Finding
from segmamba.data.missing import IS_MISSING

MASK_VALUES = 8
"""An image with no more values beside its background is a mask: a segmentation has up to five."""
SAMPLED_MASK_VALUES = 16  # only with so few in the sample are all voxels counted
SAME_VALUE_SHARE = 0.5
"""Of the brain. A mask that was interpolated has other values on its rim alone."""
LINEAR_CORRELATION = 0.9999
"""T1 and T1ce of one patient reach 0.97; a copy that was rounded to 200 grey values, 0.99998."""
LEAST_COMPARED = 100  # voxels; fewer may be alike by chance
AGREEING_SHARE = 0.5
"""Of the brains of two images, intersection over union: skull-stripped modalities reach 0.95."""
MOST_EXAMPLES = 3
LARGEST_VALUE = float(np.finfo(np.float32).max) / 2


def examine(
    case: Case,
    channels: Mapping[str, np.ndarray],
    label: np.ndarray | None,
) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """Bring the background of each image to 0, and say what its voxels show.

    Args:
        case: The case.
        channels: Modality to image (x, y, z) as stored.
        label: uint8 (x, y, z), internal classes, on the grid of the images; None without one.

    Returns:
        (channels, findings): the images with 0 outside the brain, and what is to say. Images that
        are not finite, too large for single precision or empty are left as they are.
    """
    usable = {m: v for m, v in channels.items() if _has_numbers(v)}
    masks = {m: text for m, v in usable.items() if (text := mask_of(v, label))}
    images = {m: v for m, v in usable.items() if m not in masks}
    backgrounds = {m: find_background(v) for m, v in images.items()}
    images = {m: backgrounds[m].removed_from(v) for m, v in images.items()}
    saturated = {m: text for m, v in images.items() if (text := saturation_of(sample(v)))}
    findings = [
        *(
            Finding(ERROR, "not an image", f"{case.id}: {_where(case, m)} {text}")
            for m, text in (masks | saturated).items()
        ),
        *_copies(case, {m: v for m, v in images.items() if m not in saturated}),
        *_backgrounds(case, backgrounds),
        *_brains(case, images),
    ]
    return {**channels, **images}, findings


def _has_numbers(volume: np.ndarray) -> bool:
    """Whether single precision holds all voxels and their differences, and one is not 0."""
    low, high = float(volume.min()), float(volume.max())
    return -LARGEST_VALUE <= low <= high <= LARGEST_VALUE and (low, high) != (0, 0)


def _where(case: Case, modality: str) -> str:
    """The file of a modality and, where files hold several, its place."""
    place = f", channel {case.channels[modality]}" if case.channels else ""
    return f"{case.images[modality]}{place} ({modality})"


def mask_of(volume: np.ndarray, label: np.ndarray | None) -> str:
    """Say why an image is none, by its few values.

    Args:
        volume: The image (x, y, z) as stored; not all 0.
        label: Internal classes (x, y, z), or None.

    Returns:
        What it is and what to do, or "" for an image.
    """
    if np.unique(sample(volume)).size > SAMPLED_MASK_VALUES:
        return ""
    values, counts = np.unique(volume, return_counts=True)
    if values.size == 1:
        return f"is constant (every voxel is {values[0]:g}); replace the file or remove the case"
    if values.size > MASK_VALUES + 1:
        return ""
    outside = values[counts.argmax()]
    if label is not None and label.any() and np.array_equal(volume != outside, label > 0):
        return "is the segmentation; give the image in its place"
    shown = ", ".join(f"{value:g}" for value in values)
    return f"is a mask or nearly constant (its values are {shown}); give the image in its place"


def saturation_of(volume: np.ndarray) -> str:
    """Say that one value is most of the brain.

    Args:
        volume: Voxels of an image, 0 outside the brain.

    Returns:
        What it is and what to do, or "" for an image.
    """
    values, counts = np.unique(volume[volume != 0], return_counts=True)
    if not values.size or counts.max() <= SAME_VALUE_SHARE * counts.sum():
        return ""
    share = 100 * counts.max() / counts.sum()
    return (
        f"has one value in {share:.0f} % of its brain: it is a mask or saturated, or has a second "
        "background; give the original image"
    )


def _copies(case: Case, images: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Report modalities that are one image, or one but for brightness and contrast."""
    few = {m: sample(v) for m, v in images.items()}
    for one, other in itertools.combinations(images, 2):
        both = f"{_where(case, one)} and {_where(case, other)}"
        alike = np.array_equal(few[one], few[other])
        if alike and np.array_equal(images[one], images[other]):
            yield Finding(
                ERROR,
                "same image",
                f"{case.id}: {both} are one image, voxel by voxel; give each modality its own",
            )
        elif abs(_correlation(few[one], few[other])) > LINEAR_CORRELATION:
            yield Finding(
                WARNING,
                "same image",
                f"{case.id}: {both} differ in brightness and contrast alone and look like copies "
                "of one image; check that each modality has its own",
            )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, over the voxels that are brain in both; 0 where they are too few to tell."""
    inside = (a != 0) & (b != 0)
    x, y = a[inside].astype(np.float64), b[inside].astype(np.float64)
    if x.size < LEAST_COMPARED or not (np.ptp(x) and np.ptp(y)):
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _backgrounds(case: Case, backgrounds: Mapping[str, Background]) -> Iterator[Finding]:
    """Report backgrounds that are not 0, and borders that are none."""
    other = {m: found for m, found in backgrounds.items() if not found.is_zero}
    if other:
        shown = ", ".join(f"{modality} {found}" for modality, found in other.items())
        several = any(len(found.values) > 1 or found.tolerance for found in other.values())
        yield Finding(
            WARNING if several else INFORMATION,
            "background not 0",
            f"{case.id}: the background is not 0 ({shown}); it is taken to be outside the brain",
        )
    full = {m: f for m, f in backgrounds.items() if f.border_brain_share > SAME_VALUE_SHARE}
    if full:
        shown = ", ".join(f"{m} {100 * f.border_brain_share:.0f} %" for m, f in full.items())
        yield Finding(
            WARNING,
            "no background",
            f"{case.id}: most of the border is no background ({shown}), so that the image is not "
            "skull-stripped or fills its field of view; every voxel but the background counts as "
            "brain. Strip the skull unless the network was trained on such images",
        )


def _brains(case: Case, images: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Report images whose brain lies elsewhere than that of at least half of the images."""
    brains = {m: sample(v) != 0 for m, v in images.items()}
    if len(brains) < 2:
        return
    votes = np.sum([*brains.values()], axis=0, dtype=np.uint8)
    usual = votes * 2 >= len(brains)
    shares: dict[str, float] = {
        m: int((brain & usual).sum()) / max(int((brain | usual).sum()), 1)
        for m, brain in brains.items()
    }
    for modality, share in shares.items():
        if share < AGREEING_SHARE:
            yield Finding(
                WARNING,
                "brain elsewhere",
                f"{case.id}: the brain of {_where(case, modality)} is not where the other images "
                f"have theirs ({100 * share:.0f} % in common); register the images and strip the "
                "skull of all or none",
            )


def summarised(findings: Sequence[Sequence[Finding]]) -> list[str]:
    """Say what several cases have to say, a line for each kind.

    Args:
        findings: The findings of each case.

    Returns:
        The text itself for up to `MOST_EXAMPLES` cases of a kind, else a count and an example.
    """
    texts: dict[tuple[str, str], list[str]] = {}
    for finding in itertools.chain.from_iterable(findings):
        texts.setdefault((finding.severity, finding.kind), []).append(finding.text)
    counts = Counter(
        (finding.severity, finding.kind)
        for case in findings
        for finding in {(f.severity, f.kind): f for f in case}.values()
    )
    lines = []
    for key, found in texts.items():
        if key[1].endswith(IS_MISSING):
            lines.append(f"{key[1]} in {counts[key]} of {len(findings)} cases")
        elif len(found) <= MOST_EXAMPLES:
            lines += found
        else:
            lines.append(f"{key[1]} in {counts[key]} of {len(findings)} cases, as {found[0]}")
    return lines
