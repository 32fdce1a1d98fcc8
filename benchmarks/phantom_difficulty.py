"""How much of the phantom can be segmented from intensities alone?

    python benchmarks/phantom_difficulty.py [--json FILE]

A gradient-boosted classifier sees the four z-scored intensities of one voxel and nothing around it, but its probabilities are
smoothed afterwards. The phantom is a fair stage for a network only where this stays clearly below what shape and context give.
Trained and judged on the demo preset's own split; half a minute on one core.
"""

import argparse
import itertools
import json
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

from segmamba.config import preset
from segmamba.data.cases import find_cases
from segmamba.data.labels import CLASSES
from segmamba.data.phantom import write_phantom
from segmamba.data.splits import split_cases
from segmamba.data.volumes import read_scan
from segmamba.evaluation.dice import dice

MOST_MEAN_DICE = 0.55  # the demo's network must reach 0.70, and 0.15 more than this classifier
VOXELS_PER_CASE = 6000  # drawn from each training case, a tenth of its brain at 3 mm
CASES_TO_TUNE_ON = 8
SMOOTHINGS_VOXELS = (0.5, 0.7, 1.0)  # sd of the Gaussian over the probabilities
FAVOURS = (1, 2, 3, 5)  # factor on the tumour classes' probabilities: Dice rewards finding a rare class more than accuracy does


def intensity_classifier_dice(train_cases, test_cases):
    """Dice of a voxel-wise intensity classifier, as {"ET", "TC", "WT", "mean"}: means over test_cases.

    Both: lists of (image, classes); image float (4, x, y, z) in MODALITIES order, 0 outside the brain; classes uint8 (x, y, z), internal.
    Smoothing and favour are those that give the best mean Dice on some of the training cases.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    drawn = [_drawn_voxels(image, classes, rng) for image, classes in train_cases]
    features, labels = (np.concatenate(part) for part in zip(*drawn, strict=True))
    model = HistGradientBoostingClassifier(max_iter=80, max_leaf_nodes=15, random_state=0).fit(features, labels)
    tuned_on = _predicted(model, train_cases[:CASES_TO_TUNE_ON])
    choice = max(itertools.product(SMOOTHINGS_VOXELS, FAVOURS), key=lambda choice: _mean_dice(tuned_on, *choice)["mean"])
    return _mean_dice(_predicted(model, test_cases), *choice)


def _drawn_voxels(image, classes, rng):
    brain = image[0] != 0
    picks = rng.permutation(np.count_nonzero(brain))[:VOXELS_PER_CASE]
    return _z_scored(image, brain)[picks], classes[brain][picks]


def _z_scored(image, brain):
    values = image[:, brain].T
    return (values - values.mean(axis=0)) / values.std(axis=0)


def _predicted(model, cases):
    """Per case (class probabilities (4, x, y, z), 0 outside the brain; true classes)."""
    predicted = []
    for image, classes in cases:
        brain = image[0] != 0
        maps = np.zeros((len(CLASSES), *brain.shape), np.float32)
        maps[:, brain] = model.predict_proba(_z_scored(image, brain)).T
        predicted.append((maps, classes))
    return predicted


def _mean_dice(predicted, smoothing_voxels, favour):
    scores = []
    for maps, classes in predicted:
        smooth = np.stack([ndimage.gaussian_filter(m, smoothing_voxels) for m in maps])
        smooth[1:] *= favour
        found = smooth.argmax(axis=0) * maps.any(axis=0)
        scores.append(dice(found, classes))
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def demo_cases(folder):
    """The demo preset's phantom, written to `folder`, as (training cases, judged cases): lists of (image, classes)."""
    config = preset("demo")
    write_phantom(folder, cases=config.phantom.cases, size=config.phantom.size, seed=config.phantom.seed)
    split = split_cases(find_cases(folder), config.data)
    return tuple([(scan.image, scan.label) for scan in map(read_scan, cases)] for cases in (split.train, split.judge))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        train, judged = demo_cases(Path(scratch, "phantom"))
        scores = intensity_classifier_dice(train, judged)
    print(f"Dice of an intensity classifier on the demo phantom: {len(train)} cases to train on, {len(judged)} judged")
    figures = {}
    for name, value in scores.items():
        goal = f"<= {MOST_MEAN_DICE}" if name == "mean" else None
        figures[f"intensity classifier, Dice {name}"] = {"value": value, "unit": "Dice", "goal": goal, "holds": goal and value <= MOST_MEAN_DICE}
        print(f"{name:5} {value:.3f}   {f'goal {goal}' if goal else ''}")
    if options.json:
        machine = {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()}
        options.json.write_text(json.dumps({"figures": figures, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
