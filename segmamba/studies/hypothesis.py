"""What a study claims: contrasts of arms on regions, a direction, and the smallest difference that matters."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from segmamba.errors import UserError

REGIONS = ("mean", "ET", "TC", "WT")
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Pair:
    """`arm` minus `versus`."""

    arm: str
    versus: str

    @property
    def weights(self):
        """{arm: weight} of the difference that is tested."""
        return {self.arm: 1.0, self.versus: -1.0} if self.arm != self.versus else {self.arm: 0.0}

    @property
    def label(self):
        return f"{self.arm} {MINUS} {self.versus}"


@dataclass(frozen=True)
class Trend:
    """A dose-response: the rise, from the lowest to the highest dose, of a straight line through the arms."""

    doses: dict
    """Arm to dose, a number, e.g. {"depth 0": 0, "depth 2": 2}."""

    @property
    def weights(self):
        """{arm: weight}: the least-squares slope times the span of the doses."""
        values = list(self.doses.values())
        centre = sum(values) / len(values)
        scale = (
            (max(values) - min(values)) / sum((v - centre) ** 2 for v in values)
            if len(set(values)) > 1
            else 0.0
        )
        return {arm: (dose - centre) * scale for arm, dose in self.doses.items()}

    @property
    def arm(self):
        return f"trend over {', '.join(self.doses)}"

    versus = ""

    @property
    def label(self):
        return self.arm


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A claim about the paired difference in test Dice, on average over patients and over runs with other seeds.

    One contrast: `better` and `than`. Several: `contrasts`, pairs (arm, versus) or a Trend; then Holm's adjustment is over all of them and
    all regions.
    """

    claim: str
    """One sentence, as it was stated beforehand."""
    region: str | tuple = "mean"
    """ET, TC, WT or mean: which test Dice decides; or several of them."""
    better: str = ""
    """The arm that is claimed to score higher ..."""
    than: str = ""
    """... than this arm."""
    contrasts: tuple = ()
    """Several claims at once, instead of `better` and `than`."""
    direction: Literal["better", "no better", "alike"] = "better"
    """better: at least one contrast gains what matters. no better: not one of them does. alike: none differs by it, either way."""
    margin: float = 0.005
    """Smallest difference in Dice (0 to 1) that matters; 0.005 is half a Dice point."""
    score: str = "dice"
    """Which column of the per-case table: `score`_`region`."""
    left_out: tuple = field(default=())
    """Contrasts whose arms are not part of this run, as text."""

    def __post_init__(self):
        pairs = ((self.better, self.than),) if self.better else self.contrasts
        object.__setattr__(self, "contrasts", tuple(_contrast(pair) for pair in pairs))
        for region in self.regions:
            if region not in REGIONS:
                raise UserError(f"hypothesis: region {region!r} is none of {', '.join(REGIONS)}")
        if self.direction not in ("better", "no better", "alike"):
            raise UserError(
                f"hypothesis: direction {self.direction!r} is none of better, no better, alike"
            )
        if not self.margin > 0:
            raise UserError(f"hypothesis: margin {self.margin}: must be above 0 (Dice from 0 to 1)")

    @property
    def regions(self):
        return (self.region,) if isinstance(self.region, str) else tuple(self.region)

    @property
    def arms(self):
        """Every arm that a contrast names."""
        return tuple(dict.fromkeys(arm for contrast in self.contrasts for arm in contrast.weights))

    def within(self, arms):
        """The claim about `arms` alone: contrasts that need another are left out, and named; a trend keeps the doses there are."""
        kept, left_out = [], []
        for contrast in self.contrasts:
            if isinstance(contrast, Trend):
                doses = {arm: dose for arm, dose in contrast.doses.items() if arm in arms}
                contrast = Trend(doses) if len(doses) > 1 else contrast
            (kept if set(contrast.weights) <= set(arms) else left_out).append(contrast)
        left_out = tuple(contrast.label for contrast in left_out)
        if left_out:
            return dataclasses.replace(
                self, better="", than="", contrasts=tuple(kept), left_out=self.left_out + left_out
            )
        return self if self.better else dataclasses.replace(self, contrasts=tuple(kept))


def _contrast(told):
    if isinstance(told, (Pair, Trend)):
        return told
    if isinstance(told, dict):  # as it comes back from JSON
        return Trend(told["doses"]) if "doses" in told else Pair(**told)
    return Pair(*told)


def hypothesis_from(stored):
    """The Hypothesis that `dataclasses.asdict` and JSON made of one."""
    region = stored.get("region", "mean")
    return Hypothesis(
        **stored
        | {
            "region": region if isinstance(region, str) else tuple(region),
            "contrasts": tuple(stored.get("contrasts", ())),
            "left_out": tuple(stored.get("left_out", ())),
        }
    )
