"""What a study may give a setting instead of a plain value.

A search draws a value from a distribution: Between or OneOf. An arm takes a multiple of the
preset's value: Times. These are plain values, so a study's file imports nothing heavy.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from segmamba.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# What population-based training multiplies a number by (Jaderberg et al. 2017, section 4).
FACTORS = (0.8, 1.2)


class Distribution(Protocol):
    """What a search may draw a setting's value from; Between and OneOf are such distributions."""

    def to_optuna(self) -> BaseDistribution:
        """The same distribution as an object of Optuna."""

    def draw(self, rng: random.Random) -> Any:
        """A random value of the setting."""

    def near(self, value: Any, rng: random.Random) -> Any:
        """Another value of the setting, close to `value`."""

    def to_setting(self, value: Any) -> Any:
        """The setting's value for a value of Optuna."""

    def from_setting(self, value: Any) -> Any:
        """Optuna's value for a value of the setting; UserError where the space lacks it."""


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both included.

    It is a whole number where both ends are. With `log`, each factor of ten is equally likely.

    Raises:
        UserError: If low is not below high, or not above 0 on a log scale.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UserError(
                f"search space: from {self.low} to {self.high}: low must be below high, "
                "and above 0 on a log scale"
            )

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', log' if self.log else ''}"

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def to_optuna(self) -> BaseDistribution:
        """The same distribution as an object of Optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def draw(self, rng: random.Random) -> float:
        """A random number.

        Args:
            rng: The source of randomness; its state advances.

        Returns:
            A number from `low` to `high`.
        """
        if self.log:
            return self._within(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return rng.randint(self.low, self.high)
        return rng.uniform(self.low, self.high)

    def near(self, value: float, rng: random.Random) -> float:
        """Another number close to `value`.

        Args:
            value: The present number.
            rng: The source of randomness; its state advances.

        Returns:
            A number that is a fifth smaller or larger, within the ends; a random one where that
            changes nothing, as from 0.
        """
        near = [other for factor in FACTORS if (other := self._within(value * factor)) != value]
        return rng.choice(near) if near else self.draw(rng)

    def _within(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value

    def to_setting(self, value: float) -> float:
        """The setting's value for a value of Optuna: the same number."""
        return value

    def from_setting(self, value: float) -> float:
        """Optuna's value for a value of the setting: the same number.

        Args:
            value: What the baseline has.

        Returns:
            The number.

        Raises:
            UserError: If it lies outside the space.
        """
        if not self.low <= value <= self.high:
            raise UserError(f"search space: the baseline's {value} lies outside {self}; widen it")
        return value


@dataclass(frozen=True)
class OneOf:
    """One of several values: numbers, words or tuples.

    Raises:
        UserError: If there are fewer than two different values.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if len(set(self.values)) < 2:
            raise UserError(f"search space: {self.values}: give at least two different values")

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))

    def to_optuna(self) -> BaseDistribution:
        """The same distribution as an object of Optuna, with the values as text."""
        from optuna.distributions import CategoricalDistribution

        # Optuna takes no tuples as choices.
        return CategoricalDistribution([str(value) for value in self.values])

    def draw(self, rng: random.Random) -> Any:
        """A random one of the values.

        Args:
            rng: The source of randomness; its state advances.

        Returns:
            The value.
        """
        return rng.choice(self.values)

    def near(self, value: Any, rng: random.Random) -> Any:
        """A neighbour of `value` in the order given.

        Args:
            value: The present value.
            rng: The source of randomness; its state advances.

        Returns:
            The value before or after it.
        """
        at = self.values.index(value)
        return rng.choice([self.values[i] for i in (at - 1, at + 1) if 0 <= i < len(self.values)])

    def to_setting(self, value: str) -> Any:
        """The setting's value for a value of Optuna, which is its text."""
        return {str(known): known for known in self.values}[value]

    def from_setting(self, value: Any) -> str:
        """Optuna's value for a value of the setting: its text.

        Args:
            value: What the baseline has.

        Returns:
            The text.

        Raises:
            UserError: If the space lacks the value.
        """
        if value not in self.values:
            raise UserError(
                f"search space: the baseline's {value!r} is none of "
                f"{', '.join(map(str, self.values))}; add it"
            )
        return str(value)


@dataclass(frozen=True)
class Times:
    """A multiple of what the preset, or the user's `--set`, gives a setting."""

    factor: float

    def of(self, value: float) -> float:
        """The plain number.

        Args:
            value: What all arms share.

        Returns:
            The multiple, rounded where the setting is a whole number.
        """
        return round(self.factor * value) if isinstance(value, int) else self.factor * value

    def note(self, name: str, value: float, tolerance: float) -> str:
        """Say how far rounding moves the number.

        Args:
            name: Dotted name of the setting.
            value: What all arms share.
            tolerance: The share of the exact number that rounding may move it without a note.

        Returns:
            A sentence, or "" where rounding moves it by less.
        """
        exact, rounded = self.factor * value, self.of(value)
        if abs(rounded - exact) <= tolerance * abs(exact):
            return ""
        off = f"{abs(rounded / exact - 1):.1%} {'more' if rounded > exact else 'less'}"
        return f"{name} is {rounded}, a whole number: {off} than {self.factor:.4g} times {value}"
