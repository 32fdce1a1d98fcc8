"""How much of the phantom can be segmented from intensities alone?

    python benchmarks/phantom_difficulty.py [--json FILE]

A gradient-boosted classifier sees the four z-scored intensities of one voxel and nothing around it,
but its probabilities are smoothed afterwards. The phantom is a fair test of a network only where
the classifier stays clearly below what shape and context give. Both are trained and tested on the
demo preset's own split, the network by the product's own loop. It takes a minute and a half on one
core.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from figures import at_least, command_line, report
from segmamba.config import Config, preset
from segmamba.data.cases import find_cases
from segmamba.data.label_sets import GLIOMA
from segmamba.data.phantom import write_phantom
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import Split, split_cases
from segmamba.device import choose_device
from segmamba.evaluation.dice import dice
from segmamba.training.run import train_run
from segmamba.training.run_evaluation import evaluate_run
from segmamba.training.run_folder import RunFolder

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

# Mean Dice of the network above the classifier's; with a smaller gap the phantom would be too easy.
SMALLEST_GAP = 0.15
NETWORK_GOAL = 0.70  # mean test Dice
VOXELS_PER_CASE = 6000  # drawn from each training case, a tenth of its brain at 3 mm
CASES_TO_TUNE_ON = 8
SMOOTHINGS_VOXELS = (0.5, 0.7, 1.0)  # sd of the Gaussian over the probabilities
# Factors on the tumour classes' probabilities: Dice rewards finding a rare class more than accuracy
# does.
FAVOURS = (1, 2, 3, 5)

ImageAndClasses = tuple[np.ndarray, np.ndarray]
"""Image float (4, x, y, z) in the order of MODALITIES, 0 outside the brain; classes uint8
(x, y, z), internal values."""
MapsAndClasses = tuple[np.ndarray, np.ndarray]
"""Class probabilities (4, x, y, z), 0 outside the brain; true classes (x, y, z)."""


def intensity_classifier_dice(
    train_cases: list[ImageAndClasses], test_cases: list[ImageAndClasses]
) -> dict[str, float]:
    """Dice of a voxel-wise intensity classifier for ET, TC, WT and their mean.

    Smoothing and favour are those that give the best mean Dice on some of the training cases.

    Returns:
        Means over `test_cases`.
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


def _drawn_voxels(
    image: np.ndarray, classes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    brain = image[0] != 0
    picks = rng.permutation(np.count_nonzero(brain))[:VOXELS_PER_CASE]
    return _z_scored(image, brain)[picks], classes[brain][picks]


def _z_scored(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    values = image[:, brain].T
    return (values - values.mean(axis=0)) / values.std(axis=0)


def _predicted(
    model: HistGradientBoostingClassifier, cases: Sequence[ImageAndClasses]
) -> list[MapsAndClasses]:
    predicted = []
    for image, classes in cases:
        brain = image[0] != 0
        maps = np.zeros((len(GLIOMA.classes), *brain.shape), np.float32)
        maps[:, brain] = model.predict_proba(_z_scored(image, brain)).T
        predicted.append((maps, classes))
    return predicted


def _mean_dice(
    predicted: list[MapsAndClasses], smoothing_voxels: float, favour: float
) -> dict[str, float]:
    scores = []
    for maps, classes in predicted:
        smooth = np.stack([ndimage.gaussian_filter(m, smoothing_voxels) for m in maps])
        smooth[1:] *= favour
        decided = smooth.argmax(axis=0) * maps.any(axis=0)
        scores.append(dice(decided, classes, GLIOMA))
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def demo_split(folder: Path, config: Config) -> Split:
    """The demo preset's phantom, written, prepared below `folder` and split."""
    write_phantom(
        folder / "phantom",
        cases=config.phantom.cases,
        size=config.phantom.size,
        seed=config.phantom.seed,
    )
    return split_cases(
        prepare_cases(find_cases(folder / "phantom"), folder / "cache", config.data), config.data
    )


def network_dice(split: Split, folder: Path, config: Config) -> dict[str, float]:
    """Test Dice for ET, TC, WT and their mean of one run of the product's own training loop."""
    run, device = RunFolder(folder / "run"), choose_device()
    for epoch in train_run(config, split, run, device):
        print(
            f"  network: epoch {epoch.number} of {config.train.epochs}, "
            f"loss {epoch.metrics['train/loss']:.3f}",
            flush=True,
        )
    metrics = evaluate_run(config, split, run, device).metrics
    return {name: metrics[f"test/dice_{name}"] for name in ("ET", "TC", "WT", "mean")}


def main() -> None:
    parser = command_line(__doc__)
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
        gap = network[name] - classifier[name]
        print(f"{name:5} {network[name]:9.3f} {classifier[name]:12.3f} {gap:7.3f}")
    figures = {
        "network, mean Dice": at_least(network["mean"], NETWORK_GOAL, "Dice"),
        "network above intensity classifier": at_least(
            network["mean"] - classifier["mean"], SMALLEST_GAP, "Dice"
        ),
    }
    report(figures, options.json)


if __name__ == "__main__":
    main()
