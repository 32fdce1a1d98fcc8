"""What all trials of a study share, and where each of them keeps its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.errors import UserError
from segmamba.studies.spec import FOUND, Stage, TrialPlan

if TYPE_CHECKING:
    from segmamba.config import Config
    from segmamba.data.case import Case
    from segmamba.data.source import PreparedData
    from segmamba.data.splits import Split
    from segmamba.orchestration.tracking.study_run import StudyRun

TrialFunction = Callable[[dict[str, TrialPlan], "StudyContext"], None]
"""A trial as Ray runs it: it gets {"trial": TrialPlan} and what all trials of the study share."""
PLAIN_ARM = re.compile(r"[A-Za-z0-9_(][A-Za-z0-9_.:°+=,()' ]{0,79}")  # at most 160 bytes
DIGEST_CHARACTERS = 12
READABLE_CHARACTERS = 60  # of a name that ends in a digest


@dataclass(frozen=True)
class StudyContext:
    """What all trials of a study share; it travels to every trial's process.

    Raises:
        UserError: Two arms would share a folder on a file system that ignores case.
    """

    configs: dict[str, Config]
    """Arm name to Config; the trial adds its seed and fold. A search's trials change the Config
    of `baseline`."""
    folds: dict[int | None, tuple[dict[str, object], Split]]
    """Fold to (dotted changes of the configuration, Split of PreparedCases). Without folds the
    only key is None."""
    folder: Path
    """The study's folder; each trial has a folder of its own below `trials/`."""
    run: StudyRun
    """The study's run in MLflow."""
    tags: dict[str, str]
    """Of every trial's run."""
    threads: int
    """CPU threads for torch in one trial."""
    compile: str
    """The value of `train.compile` for every trial: all arms run the same way."""
    baseline: str
    compiler: str = ""
    """Folder of the compiler's cache; empty leaves it where torch has it."""
    workers: int | None = None
    """The most processes of a trial's loader; None is what its configuration says."""
    data: PreparedData | None = None
    """The cases, where each seed divides them anew (data.split_by_seed); None where the splits of
    `folds` serve all seeds."""
    cases: tuple[Case, ...] = ()
    """The Cases of all splits where each node has a cache of its own, otherwise ()."""
    cache: str | None = None
    """The path of each node's own cache; None where the splits name the prepared files."""
    schedule: tuple[Stage, ...] = ()
    """The Stages that population-based training found and that train the arm FOUND; () where
    its settings never change."""

    def __post_init__(self) -> None:
        arms_by_folder: dict[str, str] = {}
        for arm in self.configs:
            other = arms_by_folder.setdefault(arm_folder_name(arm).casefold(), arm)
            if other != arm:
                raise UserError(
                    f"the arms {other!r} and {arm!r} differ only in capital letters and would "
                    "share a folder on some file systems; rename one"
                )

    def stages(self, plan: TrialPlan) -> tuple[Stage, ...]:
        """The Stages of a trial, the first from epoch 0 on; () where its settings never change."""
        return plan.stages or (self.schedule if plan.arm == FOUND else ())

    def config(self, plan: TrialPlan) -> Config:
        """The Config with which a trial begins.

        The seed of the plan is added to the seed of the arm's configuration.
        """
        stages = self.stages(plan)
        changes = stages[0].changes if stages else plan.changes
        config = (
            self.configs[self.baseline].changed(changes)
            if changes is not None
            else self.configs[plan.arm]
        )
        wanted = config.data.workers
        return config.changed(
            {
                "seed": config.seed + plan.seed,
                "train.compile": self.compile,
                "data.workers": wanted if self.workers is None else min(wanted, self.workers),
            }
            | self.folds[plan.fold][0]
        )

    def split(self, plan: TrialPlan) -> Split:
        """The Split of a trial, with the PreparedCases of this node."""
        from segmamba.data.splits import seeded
        from segmamba.orchestration.engine.caching import split_on_this_node

        split, config = self.folds[plan.fold][1], self.config(plan)
        if self.data is not None:
            split = self.data.split(seeded(config, config.seed))
        if self.cache is None:
            return split
        return split_on_this_node(split, list(self.cases), self.cache, config.data)

    def trial_tags(self, plan: TrialPlan) -> dict[str, str]:
        """The tags by which a trial's run can be found."""
        from segmamba.orchestration.tracking.reuse import (
            DIGEST_TAG,
            MADE_WITH_TAG,
            made_with,
            trial_digest,
        )
        from segmamba.orchestration.tracking.study_run import CHANGES_TAG

        config = self.config(plan)
        tags = self.tags | {"arm": plan.arm, "seed": str(config.seed)}
        if plan.changes is None:  # the trials of a search are not tested
            split = self.split(plan)
            tags[MADE_WITH_TAG] = json.dumps(made_with(split))
            if not self.stages(plan):  # a schedule is more than its configuration
                tags[DIGEST_TAG] = trial_digest(config, split)
        if plan.fold is not None:
            tags["fold"] = str(plan.fold)
        if plan.changes is not None:
            tags |= {"stage": "search", CHANGES_TAG: json.dumps(plan.changes)}
        return tags


def trial_folder(study_folder: Path | str, plan: TrialPlan) -> Path:
    """The folder of a trial: no two trials of a study share one.

    Args:
        study_folder: The study's folder.
        plan: The trial; its arm, seed and fold name the folder.

    Returns:
        `study_folder/trials/ARM_seedN` or `…/ARM_seedN_foldM`, where ARM is `arm_folder_name`.
        The numbers stand at the end, so that no name of an arm can be mistaken for a seed.
    """
    fold = f"_fold{plan.fold}" if plan.fold is not None else ""
    return Path(study_folder) / "trials" / f"{arm_folder_name(plan.arm)}_seed{plan.seed}{fold}"


def arm_folder_name(arm: str) -> str:
    """The part of a folder's name that stands for an arm; different arms have different ones.

    In a plain name (PLAIN_ARM) a space becomes `-`, which no plain name contains, so that the
    name can be read back. Any other name keeps what is readable of it and ends in `~` and a
    digest of the whole name; no plain name contains `~`.

    >>> arm_folder_name("depth 2")
    'depth-2'
    >>> arm_folder_name("three-way scan")
    'three-way-scan~1626afd90d84'
    """
    if PLAIN_ARM.fullmatch(arm):
        return arm.replace(" ", "-")
    readable = re.sub(r"[^A-Za-z0-9_.+=,()']+", "-", arm)[:READABLE_CHARACTERS].lstrip("-.")
    digest = hashlib.sha256(arm.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{readable}~{digest[:DIGEST_CHARACTERS]}"
