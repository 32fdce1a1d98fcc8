"""The user's mistakes and early ends, which the commands turn into a line and an exit code."""

from segmamba.redaction import redacted


class UserError(Exception):
    """Something that the user can mend; the exit code is 2.

    Args:
        message: Names the thing, the place and the fix. It becomes a single line without passwords.
    """

    def __init__(self, message: object) -> None:
        super().__init__(redacted(" ".join(str(message).split())))


class RunStopped(Exception):
    """A run ended early, for a reason that one line gives; the exit code is 1.

    What the run has saved is good.
    """


class Stopped(Exception):
    """A signal asked a run to end. What the run has saved is good.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number
