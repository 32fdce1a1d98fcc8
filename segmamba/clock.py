"""The time of day as a process began to see it: setting the machine's clock moves it no more."""

import time

_BEGAN_S = time.time() - time.monotonic()


def steady_s() -> float:
    """Return seconds since 1970, by the machine's clock as it was when this process began.

    Between two calls passes what has really passed, though the clock be set meanwhile.
    """
    return _BEGAN_S + time.monotonic()
