"""The user's mistakes: one line that names the thing, the place and the fix; commands turn it into exit code 2."""


class UserError(Exception):
    """Something the user can mend. The message is a single line."""

    def __init__(self, message):
        super().__init__(" ".join(str(message).split()))
