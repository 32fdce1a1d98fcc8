"""What keeps arms comparable: which settings may vary, and that no two arms are the same."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from segmamba.config import Config
from segmamba.data.label_sets import LabelSet
from segmamba.errors import UserError
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.search_space import Times

# All arms of a study share these settings ...
FIXED = ("data.", "phantom.", "model.classes", "seed")
# ... except for those that only decide how training uses the cases.
FREE = (
    "data.patch_size",
    "data.pad_to_patch",
    "data.tumour_centre_share",
    "data.balance_classes",
    "data.workers",
)
WITH_MAMBA_BLOCKS = ("segmamba", "control")  # the networks that read the settings of the blocks
BLOCKS = ("model.mamba_depths", "model.mixer", "model.scan_path")


class DeclaredArms(Protocol):
    """What a study declares of its arms; a StudySpec does."""

    @property
    def name(self) -> str:
        """The study's name."""

    @property
    def arms(self) -> Mapping[str, Mapping[str, Any]]:
        """Arm name to its dotted changes."""

    @property
    def space(self) -> Mapping[str, object]:
        """In a search, the settings that are searched."""

    @property
    def asks_for(self) -> Collection[str]:
        """Settings that the user gives although arms vary them."""


def check_chosen(study: DeclaredArms, chosen: Collection[str]) -> None:
    """Refuse the user's value of a setting that the study itself varies or searches.

    Args:
        study: The study.
        chosen: Dotted names of the settings that the user gave values.

    Raises:
        UserError: If an arm has a plain value of its own that the study does not ask the user for,
            or the search space has the setting.
    """
    unasked = set(chosen) - set(study.asks_for)
    for arm, changes in study.arms.items():
        for name, value in changes.items():
            if name in unasked and not isinstance(value, Times):
                raise UserError(
                    f"--set {name}: the study {study.name} varies this setting itself "
                    f"(arm {arm!r} has {value!r}); leave --set {name} out"
                )
    for name in study.space:
        if name in chosen:
            raise UserError(
                f"--set {name}: the study {study.name} searches this setting itself; "
                "leave it to the study"
            )


def check_may_vary(study: DeclaredArms) -> None:
    """Refuse a study whose arms would not share their cases and splits.

    Args:
        study: The study.

    Raises:
        UserError: If an arm or the search space changes a setting that all arms share.
    """
    # Members of an ensemble are arms with seeds of their own.
    varied = [name for changes in study.arms.values() for name in changes if name != "seed"]
    for name in (*study.space, *varied):
        if name.startswith(FIXED) and name not in FREE:
            raise UserError(
                f"study {study.name}: {name} may not vary, since all arms share cases and splits"
            )


def check_regions(study: str, claims: Iterable[Hypothesis], labels: LabelSet) -> None:
    """Refuse a claim about a region that the data do not have.

    Args:
        study: The study's name.
        claims: What it claims.
        labels: The label set of its data.

    Raises:
        UserError: It names the region and those that there are.
    """
    for claim in claims:
        for region in claim.regions:
            if region not in labels.scores:
                raise UserError(
                    f"study {study}: its hypothesis is about {region}, and the data "
                    f"({labels.name}) are scored on {', '.join(labels.scores)}; change the "
                    "region, or the data and model.classes"
                )


def check_different(study: DeclaredArms, configs: Mapping[str, Config]) -> None:
    """Refuse a study of which two arms differ in nothing that their networks read.

    Args:
        study: The study.
        configs: The Config of each arm.

    Raises:
        UserError: If two arms would be the same.
    """
    for (arm, config), (other, rival) in itertools.combinations(configs.items(), 2):
        blockless = (
            config.model.name == rival.model.name and config.model.name not in WITH_MAMBA_BLOCKS
        )
        unread = dict.fromkeys(BLOCKS) if blockless else {}
        if config.to_flat_dict() | unread != rival.to_flat_dict() | unread:
            continue
        why = (
            f"--set model.name: {config.model.name} has no Mamba blocks, so "
            if blockless
            else f"study {study.name}: "
        )
        changes = {**study.arms[arm], **study.arms[other]}
        rounded = [name for name, value in changes.items() if isinstance(value, Times)]
        fix = f"; set {' and '.join(rounded)} higher: rounding makes them one" if rounded else ""
        raise UserError(
            f"{why}the arms {arm!r} and {other!r} of {study.name} would be the same{fix}"
        )
