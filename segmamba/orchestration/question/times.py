"""An arm's value that follows a setting which all arms share: `--set` of that setting scales it."""

from dataclasses import dataclass


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
