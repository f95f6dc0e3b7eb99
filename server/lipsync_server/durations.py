"""Writes durations for people: an estimate, a countdown, a limit. Knows numbers only."""

_SECONDS_BELOW_S = 90
_LIMIT_IN_SECONDS_BELOW_S = 120


def rounded(seconds: float) -> str:
    """A duration that is not known exactly: "45 s" below a minute and a half, then "3 min"."""
    return f"{seconds:.0f} s" if seconds < _SECONDS_BELOW_S else f"{seconds / 60:.0f} min"


def countdown(seconds: float) -> str:
    """The time that is left: "2 min 5 s"."""
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def limit(seconds: float) -> str:
    """A limit as its owner set it: "90 seconds", "10 minutes", "2.5 minutes"."""
    return f"{seconds / 60:g} minutes" if seconds >= _LIMIT_IN_SECONDS_BELOW_S else f"{seconds:g} seconds"
