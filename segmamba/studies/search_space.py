"""What a study may give a setting beside a plain value: a distribution that a search draws from, or a multiple of the preset's value.

Plain values, so that a study's file imports nothing heavy.
"""

import math
from dataclasses import dataclass

from segmamba.errors import UserError

FACTORS = (
    0.8,
    1.2,
)  # of a number that population-based training changes (Jaderberg et al. 2017, section 4)


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`; whole where both are whole. With `log`, each factor of ten is as likely as the next."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self):
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UserError(
                f"search space: from {self.low} to {self.high}: low must be below high, and above 0 on a log scale"
            )

    def __str__(self):
        return f"{self.low:g} to {self.high:g}{', log' if self.log else ''}"

    @property
    def whole(self):
        return isinstance(self.low, int) and isinstance(self.high, int)

    def to_optuna(self):
        from optuna.distributions import FloatDistribution, IntDistribution

        return (IntDistribution if self.whole else FloatDistribution)(
            self.low, self.high, log=self.log
        )

    def draw(self, rng):
        """A value at random; rng: a random.Random."""
        if self.log:
            return self._within(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return rng.randint(self.low, self.high) if self.whole else rng.uniform(self.low, self.high)

    def near(self, value, rng):
        """Another value, smaller or larger by a fifth; any other where that leads nowhere, as from 0."""
        near = [other for factor in FACTORS if (other := self._within(value * factor)) != value]
        return rng.choice(near) if near else self.draw(rng)

    def _within(self, value):
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value

    def to_setting(self, value):
        return value

    def from_setting(self, value):
        if not self.low <= value <= self.high:
            raise UserError(f"search space: the baseline's {value} lies outside {self}; widen it")
        return value


@dataclass(frozen=True)
class OneOf:
    """One of the values given: numbers, words or tuples."""

    values: tuple

    def __post_init__(self):
        object.__setattr__(self, "values", tuple(self.values))
        if len(set(self.values)) < 2:
            raise UserError(f"search space: {self.values}: give at least two different values")

    def __str__(self):
        return ", ".join(map(str, self.values))

    def to_optuna(self):
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(
            [str(value) for value in self.values]
        )  # tuples are no choices of Optuna's

    def draw(self, rng):
        """A value at random; rng: a random.Random."""
        return rng.choice(self.values)

    def near(self, value, rng):
        """The value before or after it."""
        at = self.values.index(value)
        return rng.choice([self.values[i] for i in (at - 1, at + 1) if 0 <= i < len(self.values)])

    def to_setting(self, value):
        return {str(known): known for known in self.values}[value]

    def from_setting(self, value):
        if value not in self.values:
            raise UserError(
                f"search space: the baseline's {value!r} is none of {', '.join(map(str, self.values))}; add it"
            )
        return str(value)


@dataclass(frozen=True)
class Times:
    """So many times what the preset has, or what --set made of it; rounded where the setting is a whole number."""

    factor: float

    def of(self, value):
        """The plain number; value: the setting's."""
        return round(self.factor * value) if isinstance(value, int) else self.factor * value

    def note(self, name, value, tolerance):
        """A sentence where rounding moves it by more than the share `tolerance`, or ""."""
        exact, found = self.factor * value, self.of(value)
        if abs(found - exact) <= tolerance * abs(exact):
            return ""
        off = f"{abs(found / exact - 1):.1%} {'more' if found > exact else 'less'}"
        return f"{name} is {found}, a whole number: {off} than {self.factor:.4g} times {value}"
