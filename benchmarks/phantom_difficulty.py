"""How much of the phantom can be segmented from intensities alone?

    python benchmarks/phantom_difficulty.py [--json FILE]

A gradient-boosted classifier sees the four z-scored intensities of one voxel and nothing around it, but its probabilities are
smoothed afterwards. The phantom is a fair stage for a network only where this stays clearly below what shape and context give.
Both are trained and tested on the demo preset's own split, the network by the product's own loop; a minute and a half on one core.
"""

import argparse
import itertools
import json
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from segmamba.config import preset
from segmamba.data.cases import find_cases
from segmamba.data.labels import CLASSES
from segmamba.data.phantom import write_phantom
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import split_cases
from segmamba.device import choose_device
from segmamba.evaluation.dice import dice
from segmamba.training.run import train_run
from segmamba.training.run_evaluation import evaluate_run
from segmamba.training.run_folder import RunFolder

SMALLEST_GAP = (
    0.15  # mean Dice of the network above the classifier: below it the phantom would be too easy
)
VOXELS_PER_CASE = 6000  # drawn from each training case, a tenth of its brain at 3 mm
CASES_TO_TUNE_ON = 8
SMOOTHINGS_VOXELS = (0.5, 0.7, 1.0)  # sd of the Gaussian over the probabilities
FAVOURS = (
    1,
    2,
    3,
    5,
)  # factor on the tumour classes' probabilities: Dice rewards finding a rare class more than accuracy does


def intensity_classifier_dice(train_cases, test_cases):
    """Dice of a voxel-wise intensity classifier, as {"ET", "TC", "WT", "mean"}: means over test_cases.

    Both: lists of (image, classes); image float (4, x, y, z) in MODALITIES order, 0 outside the brain; classes uint8 (x, y, z), internal.
    Smoothing and favour are those that give the best mean Dice on some of the training cases.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    drawn = [_drawn_voxels(image, classes, rng) for image, classes in train_cases]
    features, labels = (np.concatenate(part) for part in zip(*drawn, strict=True))
    model = HistGradientBoostingClassifier(max_iter=80, max_leaf_nodes=15, random_state=0).fit(
        features, labels
    )
    tuned_on = _predicted(model, train_cases[:CASES_TO_TUNE_ON])
    choice = max(
        itertools.product(SMOOTHINGS_VOXELS, FAVOURS),
        key=lambda choice: _mean_dice(tuned_on, *choice)["mean"],
    )
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


def demo_split(folder, config):
    """The demo preset's phantom, written and prepared below `folder`, as a Split of PreparedCases."""
    write_phantom(
        folder / "phantom",
        cases=config.phantom.cases,
        size=config.phantom.size,
        seed=config.phantom.seed,
    )
    return split_cases(
        prepare_cases(find_cases(folder / "phantom"), folder / "cache", config.data), config.data
    )


def network_dice(split, folder, config):
    """Test Dice of one training run with the product's own loop, as {"ET", "TC", "WT", "mean"}."""
    run, device = RunFolder(folder / "run"), choose_device()
    for epoch in train_run(config, split, run, device):
        print(
            f"  network: epoch {epoch.number} of {config.train.epochs}, loss {epoch.metrics['train/loss']:.3f}",
            flush=True,
        )
    metrics = evaluate_run(config, split, run, device).metrics
    return {name: metrics[f"test/dice_{name}"] for name in ("ET", "TC", "WT", "mean")}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = preset("demo")
    with tempfile.TemporaryDirectory() as scratch:
        split = demo_split(Path(scratch), config)
        train, tested = (
            [(np.float32(case.image()), np.array(case.label())) for case in cases]
            for cases in (split.train, split.test)
        )
        classifier = intensity_classifier_dice(train, tested)
        network = network_dice(split, Path(scratch), config)
    print(f"Dice on the demo phantom: {len(train)} cases to train on, {len(tested)} tested")
    print("       network  intensities     gap")
    for name in network:
        print(
            f"{name:5} {network[name]:9.3f} {classifier[name]:12.3f} {network[name] - classifier[name]:7.3f}"
        )
    gap = network["mean"] - classifier["mean"]
    figures = {
        "network, mean Dice": {
            "value": network["mean"],
            "unit": "Dice",
            "goal": ">= 0.70",
            "holds": network["mean"] >= 0.70,
        },
        "network above intensity classifier": {
            "value": gap,
            "unit": "Dice",
            "goal": f">= {SMALLEST_GAP}",
            "holds": gap >= SMALLEST_GAP,
        },
    }
    if options.json:
        machine = {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        }
        options.json.write_text(
            json.dumps({"figures": figures, "machine": machine}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
