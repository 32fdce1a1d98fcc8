"""From a configuration to the cases that it names: found, preprocessed and divided into sets.

The cases are those of a data set, or the embedded phantom where `data.source` is empty.
"""

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segmamba.config import Config, DataConfig
from segmamba.data.case import Case
from segmamba.data.cases import find_cases, notes_on, notes_on_unused
from segmamba.data.common_classes import read_as
from segmamba.data.content import summarised
from segmamba.data.label_sets import LabelSet
from segmamba.data.layouts.templates import resolve_names
from segmamba.data.patients import describe_patients, with_patients
from segmamba.data.preprocess import PreparedCase, check_patch_fits, prepare_cases
from segmamba.data.same_images import SameImages, find_same_images
from segmamba.data.splits import Split, seeded, split_cases, with_training_share
from segmamba.data.strata import Stratum, strata_of
from segmamba.errors import UserError

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""
Steps = Callable[[str], Progress]
"""Makes the Progress of the work that a label names."""


@dataclass(frozen=True)
class FoundData:
    """The cases that a configuration names, as they were found; nothing but their names is read."""

    labelled: list[Case]
    unlabelled: list[Case]
    """Cases without a segmentation; empty unless a run learns from images alone."""
    source: str
    """What the cases are, in words: the path of the data set, or the phantom's description."""
    notes: list[str]
    """What a study must say about the cases, a line each. The notes of a split are its own."""

    @property
    def cases(self) -> list[Case]:
        """All cases, the labelled ones first."""
        return [*self.labelled, *self.unlabelled]

    @property
    def label_set(self) -> LabelSet:
        """The classes that the segmentations are read as, one set for all."""
        return self.labelled[0].label_set


@dataclass(frozen=True)
class PreparedData:
    """The cases that a configuration names, preprocessed, and ready to be divided into sets."""

    found: FoundData
    labelled: list[PreparedCase]
    """In the order of `found.labelled`, with the patients that `same_images` makes one."""
    unlabelled: list[PreparedCase]
    """In the order of `found.unlabelled`."""
    config: DataConfig
    """How the cases were preprocessed and, unless another is given, how they are divided."""
    same_images: SameImages
    """Which of the cases share an image."""

    @property
    def cases(self) -> list[Case]:
        """The cases as they were found, the labelled ones first."""
        return self.found.cases

    @property
    def label_set(self) -> LabelSet:
        """The classes that the segmentations are read as, one set for all."""
        return self.found.label_set

    def resolved(self, config: Config) -> Config:
        """Return a configuration whose network has the classes of these cases."""
        return config.changed({"model.classes": self.label_set.name})

    @property
    def prepared(self) -> list[PreparedCase]:
        """The preprocessed cases, in the order of `cases`."""
        return [*self.labelled, *self.unlabelled]

    @property
    def source(self) -> str:
        """What the cases are, in words."""
        return self.found.source

    @property
    def notes(self) -> list[str]:
        """What a study must say about the cases; the notes of a split are its own."""
        patients = describe_patients(self.cases, self.config.patients, self.same_images)
        counted = [patients] if self.config.source else []  # a phantom's cases are all different
        found = [*self.found.notes, *summarised([case.findings for case in self.prepared])]
        return [*counted, *self.same_images.notes, *found]

    def split(self, config: DataConfig | None = None) -> Split[PreparedCase]:
        """Divide the cases into sets.

        Args:
            config: How patients are divided, for example into the folds of a cross-validation;
                None is the configuration that the cases were prepared with.

        Returns:
            The sets of preprocessed cases.

        Raises:
            UserError: The cases cannot be divided as the configuration asks.
        """
        config = config or self.config
        strata = self.strata if config.folds or config.splits_file else None
        return split_cases(self.labelled, config, self.unlabelled, self.same_images.joined, strata)

    @functools.cached_property
    def strata(self) -> dict[str, Stratum]:
        """The stratum of each labelled patient; measured once for all folds and seeds."""
        return strata_of(self.labelled)


def prepare_split(
    config: Config,
    results: Path | str,
    *,
    steps: Steps,
    learners: Collection[Config] = (),
    cache: Path | str | None = None,
    workers: int = 0,
) -> PreparedData:
    """Find and preprocess the cases that a configuration names, ready to be divided.

    Args:
        config: Its sections `data` and `phantom` say which cases, and on which grid.
        results: Folder below which a phantom is made.
        steps: Shows the progress of the phantom and of the preprocessing.
        learners: Configurations of the runs that will train on the cases. Unlabelled cases are
            included where one of them learns from images alone, and each patch must fit the cases.
        cache: Folder of the preprocessed cases; None is `cache` in `results`.
        workers: Processes that preprocess at most; 0 is one for each core.

    Returns:
        The cases; `.split()` divides them.

    Raises:
        UserError: No labelled case is found, a case is faulty, or a learner's patch is larger than
            a case.
    """
    found = find_data(config, results, steps=steps, learners=learners)
    prepared = prepare_cases(
        found.cases,
        Path(results).resolve() / "cache" if cache is None else cache,
        config.data,
        workers=workers,
        progress=steps("preparing cases"),
    )
    for learner in learners:
        check_patch_fits(prepared, learner.data)
    same = find_same_images(prepared)
    prepared = [replace(case, patient=same.patient(case.patient)) for case in prepared]
    labelled = len(found.labelled)
    return PreparedData(
        found, prepared[:labelled], prepared[labelled:], seeded(config, config.seed), same
    )


def find_data(
    config: Config,
    results: Path | str,
    *,
    steps: Steps,
    learners: Collection[Config] = (),
) -> FoundData:
    """Find the cases that a configuration names.

    Args:
        config: Its sections `data` and `phantom` say which cases.
        results: Folder below which a phantom is made.
        steps: Shows the progress of the phantom.
        learners: Configurations of the runs that will train on the cases. Unlabelled cases are
            included where one of them learns from images alone.

    Returns:
        The cases, which are not read yet.

    Raises:
        UserError: No labelled case is found.
    """
    labelled, source, left_out = labelled_cases(config, results, steps)
    unlabelled = unlabelled_cases(config, learners)
    unused = unused_of(config.data)
    notes = [*([] if unlabelled else left_out), *unused, *notes_on(labelled)]
    return FoundData(labelled, unlabelled, source, notes)


def cases_of(data: DataConfig) -> list[Case]:
    """Find every case of the data set that a configuration names.

    Args:
        data: Its `source`, `labels`, `names`, `missing` and `patients` say which cases, and whose;
            the rest how headers are read.

    Returns:
        The cases, sorted by id.

    Raises:
        UserError: No case is found, one is faulty, or `patients` does not fit them.
    """
    cases = find_cases(
        data.source, data.labels, data.names, data.header_rules, missing=data.missing
    )
    return with_patients(cases, data.patients)


def unused_of(data: DataConfig) -> list[str]:
    """Say which image files of the data set that a configuration names no case uses.

    Args:
        data: Its `source`, `labels`, `names` and `missing` say which cases.

    Returns:
        A line for each thing to say.
    """
    return notes_on_unused(data.source, data.labels, data.names, missing=data.missing)


def labelled_cases(
    config: Config, results: Path | str, steps: Steps
) -> tuple[list[Case], str, list[str]]:
    """Find the labelled cases of a configuration, or make those of the phantom.

    Args:
        config: Its sections `data` and `phantom` say which cases.
        results: Folder below which a phantom is made.
        steps: Shows the progress of the phantom.

    Returns:
        The cases, what they are in words, and notes on cases that are left out.

    Raises:
        UserError: No case of the data set has a segmentation, or the segmentations cannot be read
            as `model.classes`.
    """
    if not config.data.source:
        return _phantom_cases(config, results, steps)
    cases = cases_of(config.data)
    labelled = [case for case in cases if case.label]
    if not labelled:
        raise UserError(
            f"{config.data.source}: {len(cases)} cases but none has a segmentation "
            "(..._seg.nii.gz); training needs labelled cases"
        )
    left_out = (
        [f"{len(cases) - len(labelled)} cases without a segmentation are left out"]
        if len(labelled) < len(cases)
        else []
    )
    return read_as(labelled, config.model.classes), config.data.source, left_out


def _phantom_cases(
    config: Config, results: Path | str, steps: Steps
) -> tuple[list[Case], str, list[str]]:
    from segmamba.data.phantom import GENERATOR_VERSION, write_phantom

    phantom = config.phantom
    size = "x".join(map(str, phantom.size))
    kind = "" if phantom.kind == "glioma" else f"{phantom.kind}_"
    name = f"v{GENERATOR_VERSION}_{kind}{phantom.cases}_cases_{size}_seed{phantom.seed}"
    folder = Path(results).resolve() / "phantom" / name
    write_phantom(
        folder,
        cases=phantom.cases,
        size=phantom.size,
        seed=phantom.seed,
        kind=phantom.kind,
        progress=steps("making phantom cases"),
    )
    kind = "" if phantom.kind == "glioma" else f"{phantom.kind}, "
    source = f"phantom ({kind}{phantom.cases} cases of {size} voxels, seed {phantom.seed})"
    found = find_cases(folder, config.data.labels, header=config.data.header_rules)
    cases = with_patients(found, config.data.patients)
    return read_as(cases, config.model.classes), source, []


def source_changes(
    data: Path | str | None, labels: str, names: Sequence[str] = ()
) -> dict[str, object]:
    """Translate a command's --data, --labels and --names into changes of the configuration.

    Args:
        data: Path of a data set; None is the phantom.
        labels: A label convention, auto or mixed.
        names: Templates of the files' names, or a file of them, as `resolve_names` takes them.

    Returns:
        The changes by dotted name; the path is made absolute.

    Raises:
        UserError: A template is wrong.
    """
    if names and not data:
        raise UserError("--names: says how the files of --data are named; give --data too")
    return {
        "data.source": str(Path(data).resolve()) if data else "",
        "data.labels": labels,
        "data.names": resolve_names(names),
    }


def unlabelled_cases(config: Config, learners: Collection[Config] | None = None) -> list[Case]:
    """Find the cases of the data set that have no segmentation; the phantom has none.

    Args:
        config: Its section `data` says which data set.
        learners: Configurations of which one must learn from images alone, else the result is
            empty; None asks no such thing.

    Returns:
        The cases, sorted by id.
    """
    wanted = learners is None or any(learner.learning.from_images for learner in learners)
    if not (wanted and config.data.source):
        return []
    return [case for case in cases_of(config.data) if not case.label]


def images_to_learn_from(
    config: Config, results: Path | str, *, steps: Steps
) -> tuple[list[PreparedCase], list[str]]:
    """Choose the cases whose images a run may learn from: unlabelled ones and those trained on.

    A data set without any labels serves whole.

    Args:
        config: Its sections `data` and `phantom` say which cases and how they are divided, and
            `learning` that the run learns from images alone.
        results: Folder below which a phantom is made and the preprocessed cases are kept.
        steps: Shows the progress of the phantom and of the preprocessing.

    Returns:
        The preprocessed cases, and what is to be said of them and of the split.

    Raises:
        UserError: A case is faulty, or the cases cannot be divided as the configuration asks.
    """
    source = config.data
    if source.source:
        cases = cases_of(source)
        if not any(case.label for case in cases):
            cache = Path(results).resolve() / "cache"
            prepared = prepare_cases(cases, cache, source, progress=steps("preparing cases"))
            found = summarised([case.findings for case in prepared])
            return prepared, [*unused_of(source), *found]
    data = prepare_split(config, results, steps=steps, learners=[config])
    split = with_training_share(data.split(), config)
    return [*split.train, *split.unlabelled], [*data.notes, *split.notes]
