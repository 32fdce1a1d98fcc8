"""What a search may try: one distribution for a setting. Plain values, so that a study's file imports nothing heavy."""

from dataclasses import dataclass

from segmamba.errors import UserError


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`; whole where both are whole. With `log`, each factor of ten is as likely as the next."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self):
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UserError(f"search space: from {self.low} to {self.high}: low must be below high, and above 0 on a log scale")

    def __str__(self):
        return f"{self.low:g} to {self.high:g}{', log' if self.log else ''}"

    def to_optuna(self):
        from optuna.distributions import FloatDistribution, IntDistribution

        whole = isinstance(self.low, int) and isinstance(self.high, int)
        return (IntDistribution if whole else FloatDistribution)(self.low, self.high, log=self.log)

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

        return CategoricalDistribution([str(value) for value in self.values])  # tuples are no choices of Optuna's

    def to_setting(self, value):
        return {str(known): known for known in self.values}[value]

    def from_setting(self, value):
        if value not in self.values:
            raise UserError(f"search space: the baseline's {value!r} is none of {', '.join(map(str, self.values))}; add it")
        return str(value)
