"""What a study claims: contrasts of arms, the regions, a direction and the margin that matters."""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from segmamba.data.label_sets import EVERY_REGION, MEAN
from segmamba.errors import UserError
from segmamba.studies.metrics import METRICS

MINUS = "\N{MINUS SIGN}"
DIRECTIONS = ("better", "no better", "alike")


@dataclass(frozen=True)
class PairwiseContrast:
    """The difference of two arms: `arm` minus `versus`."""

    arm: str
    versus: str

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each arm in the difference that is tested."""
        return {self.arm: 1.0, self.versus: -1.0} if self.arm != self.versus else {self.arm: 0.0}

    @property
    def label(self) -> str:
        """The contrast as reports show it."""
        return f"{self.arm} {MINUS} {self.versus}"


@dataclass(frozen=True)
class Trend:
    """A dose-response contrast: the rise of a straight line through the arms.

    The rise is measured from the lowest to the highest dose.
    """

    doses: dict[str, float]
    """The dose of each arm, for example {"depth 0": 0, "depth 2": 2}."""

    versus: ClassVar[str] = ""
    """Empty: a trend has no second arm."""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each arm: the least-squares slope times the span of the doses."""
        values = list(self.doses.values())
        centre = sum(values) / len(values)
        scale = (
            (max(values) - min(values)) / sum((v - centre) ** 2 for v in values)
            if len(set(values)) > 1
            else 0.0
        )
        return {arm: (dose - centre) * scale for arm, dose in self.doses.items()}

    @property
    def arm(self) -> str:
        """The name that stands in the place of an arm's name."""
        return f"trend over {', '.join(self.doses)}"

    @property
    def label(self) -> str:
        """The contrast as reports show it."""
        return self.arm


Contrast: TypeAlias = PairwiseContrast | Trend
"""What a claim is about: a weighted sum of the scores of its arms."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A claim about the paired difference in test Dice, averaged over patients and over seeds.

    A claim about one contrast names the arms `better` and `than`. A claim about several contrasts
    lists them in `contrasts`; Holm's adjustment then covers all contrasts and all regions.

    Raises:
        UserError: If a region or the direction is unknown, or the margin is not above 0.
    """

    claim: str
    """One sentence, as it was stated before the study ran."""
    region: str | Sequence[str] = "mean"
    """The region whose test score decides, or several: ET, TC, WT, another that the data have, or
    mean."""
    metric: Literal["dice", "nsd_1mm", "hd95", "dice_one_missing"] = "dice"
    """The score that decides: Dice, the surface Dice at 1 mm (NSD), HD95, or the mean Dice over the
    subsets that lack one modality, where `train.test_subsets` is on."""
    better: str = ""
    """The arm that is claimed to be better than `than`: to score higher, or to have less HD95."""
    than: str = ""
    """The arm that `better` is compared with."""
    contrasts: Sequence[Any] = ()  # Any: pairs may be given, Contrasts are kept
    """Several contrasts in place of `better` and `than`: pairs (arm, versus) or a Trend.

    After construction it is a tuple of Contrasts, whatever was given.
    """
    direction: Literal["better", "no better", "alike"] = "better"
    """What is claimed of the contrasts.

    better: at least one contrast gains the margin. no better: none of them does. alike: none
    differs by the margin, up or down.
    """
    margin: float = None  # type: ignore[assignment]  # the metric's own after construction
    """Smallest difference that matters, in Dice or NSD (0 to 1; 0.005 is half a point) or in mm.

    None takes the metric's: 0.005, and 1 mm of HD95.
    """
    left_out: tuple[str, ...] = field(default=())
    """Labels of the contrasts whose arms are not part of this run."""
    exploratory: str = ""
    """Why its errors are not controlled; empty where it was declared before the study ran."""

    def __post_init__(self) -> None:
        given = ((self.better, self.than),) if self.better else self.contrasts
        object.__setattr__(self, "contrasts", tuple(_contrast(value) for value in given))
        if self.metric not in METRICS:
            raise UserError(f"hypothesis: metric {self.metric!r} is none of {', '.join(METRICS)}")
        if self.margin is None:
            object.__setattr__(self, "margin", METRICS[self.metric].margin)
        for region in self.regions:
            known = (*EVERY_REGION, MEAN)
            if region not in known:
                raise UserError(f"hypothesis: region {region!r} is none of {', '.join(known)}")
        if self.direction not in DIRECTIONS:
            raise UserError(
                f"hypothesis: direction {self.direction!r} is none of {', '.join(DIRECTIONS)}"
            )
        if not self.margin > 0:
            raise UserError(f"hypothesis: margin {self.margin}: must be above 0 (Dice from 0 to 1)")

    @property
    def score(self) -> str:
        """How the columns of the metric begin in the per-case tables."""
        return METRICS[self.metric].column

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that decide, as a tuple."""
        return (self.region,) if isinstance(self.region, str) else tuple(self.region)

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that a contrast names."""
        return tuple(dict.fromkeys(arm for contrast in self.contrasts for arm in contrast.weights))

    def within(self, arms: Container[str]) -> "Hypothesis":
        """Restrict the claim to some of the arms.

        A contrast that needs another arm is left out and named in `left_out`. A trend keeps the
        doses whose arms are there, as long as there are two.

        Args:
            arms: Names of the arms that run.

        Returns:
            The claim about these arms.
        """
        kept: list[Contrast] = []
        left_out: list[Contrast] = []
        for contrast in self.contrasts:
            if isinstance(contrast, Trend):
                doses = {arm: dose for arm, dose in contrast.doses.items() if arm in arms}
                contrast = Trend(doses) if len(doses) > 1 else contrast
            complete = all(arm in arms for arm in contrast.weights)
            (kept if complete else left_out).append(contrast)
        if left_out:
            return dataclasses.replace(
                self,
                better="",
                than="",
                contrasts=tuple(kept),
                left_out=self.left_out + tuple(contrast.label for contrast in left_out),
            )
        return self if self.better else dataclasses.replace(self, contrasts=tuple(kept))


def _contrast(value: Any) -> Contrast:
    """A contrast from an object, a pair of arm names, or the dict that JSON made of one."""
    if isinstance(value, (PairwiseContrast, Trend)):
        return value
    if isinstance(value, dict):
        return Trend(value["doses"]) if "doses" in value else PairwiseContrast(**value)
    return PairwiseContrast(*value)


def hypothesis_from(stored: Mapping[str, Any]) -> Hypothesis:
    """Restore the Hypothesis that `dataclasses.asdict` and JSON made a dict of.

    Args:
        stored: The dict.

    Returns:
        The Hypothesis, equal to the one that was stored.
    """
    region = stored.get("region", "mean")
    fields = {name: value for name, value in stored.items() if name != "score"}  # before 0.3
    return Hypothesis(
        **{
            **fields,
            "region": region if isinstance(region, str) else tuple(region),
            "contrasts": tuple(stored.get("contrasts", ())),
            "left_out": tuple(stored.get("left_out", ())),
        }
    )
