"""Numbers as people read them; what was not measured is a dash, never a zero."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal

UNKNOWN = "–"
NO_BOUND = "no bound"

_STEP = 1024.0
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_MINUTE_SECONDS = 60
_HOUR_SECONDS = 3600


def format_epsilon(epsilon: float | None) -> str:
    """Epsilon to three decimals, rounded up so that it never promises too much.

    Args:
        epsilon: the bound; None or infinity where there is none.
    """
    if epsilon is None or not math.isfinite(epsilon):
        return NO_BOUND
    return str(Decimal(repr(epsilon)).quantize(Decimal("0.001"), rounding=ROUND_CEILING))


def format_number(value: float | None, decimals: int = 4) -> str:
    """A plain number; very small ones in powers of ten."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value != 0 and abs(value) < 10.0**-decimals:
        return f"{value:.2e}"
    return f"{value:.{decimals}f}"


def format_share(value: float | None) -> str:
    """A share in [0, 1] as a percentage."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def format_bytes(count: float | None) -> str:
    """A number of bytes in binary units."""
    if count is None:
        return UNKNOWN
    size = float(count)
    for unit in _BYTE_UNITS[:-1]:
        if size < _STEP:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _STEP
    return f"{size:.1f} {_BYTE_UNITS[-1]}"


def format_seconds(seconds: float | None) -> str:
    """A duration: seconds below a minute, else minutes or hours."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = round(seconds)
    if whole < _MINUTE_SECONDS:
        return f"{seconds:.1f} s"
    if whole < _HOUR_SECONDS:
        return f"{whole // _MINUTE_SECONDS} min {whole % _MINUTE_SECONDS:02d} s"
    minutes = round(seconds / _MINUTE_SECONDS)
    return f"{minutes // _MINUTE_SECONDS} h {minutes % _MINUTE_SECONDS:02d} min"
