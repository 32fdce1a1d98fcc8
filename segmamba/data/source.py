"""The cases that a configuration names: those of a data set, or the embedded phantom."""

from pathlib import Path

from segmamba.data.cases import find_cases
from segmamba.data.splits import SourceCase, split_cases
from segmamba.errors import UserError


def labelled_cases(config, results, steps):
    """(labelled cases, what they are in words, notes on those left out). `config` is a Config.

    results: folder below which a phantom is made. steps: steps(label) gives a function (done, in all) that shows progress.
    """
    if not config.data.source:
        from segmamba.data.phantom import GENERATOR_VERSION, write_phantom

        phantom = config.phantom
        size = "x".join(map(str, phantom.size))
        folder = (
            Path(results).resolve()
            / "phantom"
            / f"v{GENERATOR_VERSION}_{phantom.cases}_cases_{size}_seed{phantom.seed}"
        )
        write_phantom(
            folder,
            cases=phantom.cases,
            size=phantom.size,
            seed=phantom.seed,
            progress=steps("making phantom cases"),
        )
        return (
            find_cases(folder, config.data.labels),
            f"phantom ({phantom.cases} cases of {size} voxels, seed {phantom.seed})",
            [],
        )
    found = find_cases(config.data.source, config.data.labels)
    labelled = [case for case in found if case.label]
    if not labelled:
        raise UserError(
            f"{config.data.source}: {len(found)} cases but none has a segmentation (..._seg.nii.gz); training needs labelled cases"
        )
    left_out = (
        [f"{len(found) - len(labelled)} cases without a segmentation are left out"]
        if len(labelled) < len(found)
        else []
    )
    return labelled, config.data.source, left_out


def source_changes(data, labels):
    """The dotted changes that a command's --data (None: the phantom) and --labels stand for; the folder as an absolute path."""
    return {"data.source": str(Path(data).resolve()) if data else "", "data.labels": labels}


def unlabelled_cases(config, learners=None):
    """The cases of the data set that have no segmentation; none of the phantom's. `config` is a Config.

    learners: Configs, of which one must learn from images alone; else there are none either.
    """
    wanted = learners is None or any(learner.learning.from_images for learner in learners)
    return (
        [case for case in find_cases(config.data.source, config.data.labels) if not case.label]
        if wanted and config.data.source
        else []
    )


def images_to_learn_from(config, results, steps):
    """(cases whose images a run may learn from, notes): unlabelled ones, and labelled ones that are trained on. The rest as `labelled_cases`.

    A data set without any labels serves whole.
    """
    unlabelled = unlabelled_cases(config)
    if unlabelled and len(unlabelled) == len(find_cases(config.data.source, config.data.labels)):
        return unlabelled, []
    labelled, _, _ = labelled_cases(config, results, steps)
    split = split_cases(
        [SourceCase(case) for case in labelled],
        config.data,
        [SourceCase(case) for case in unlabelled],
    )
    return [case.case for case in [*split.train, *split.unlabelled]], list(split.notes)
