"""The user's mistakes: one line that names the thing, the place and the fix; commands turn it into exit code 2."""


class UserError(Exception):
    """Something the user can mend. The message is a single line."""

    def __init__(self, message):
        super().__init__(" ".join(str(message).split()))


class RunStopped(Exception):
    """A run that ended before its time, for a reason that one line tells; what it saved is good. Commands turn it into exit code 1."""


class Stopped(Exception):
    """Somebody asked a run to end, by the signal of this number; what it saved is good."""

    def __init__(self, number):
        super().__init__(f"signal {number}")
        self.number = number
