"""Fields of delimited text as numbers."""

from __future__ import annotations

from collections.abc import Sequence


def numbers(fields: Sequence[str]) -> list[float]:
    """The fields as floats. Raises ValueError naming the first that is none."""
    try:
        return [float(field) for field in fields]
    except ValueError:
        for field in fields:
            try:
                float(field)
            except ValueError:
                raise ValueError(f"{field!r} is not a number") from None
        raise


_FAR = 1e12


def tidy(value: float, step: float = 2.0**-12) -> float:
    """`value` without the noise of arithmetic: rounded to `step` pixels."""
    return round(value / step) * step if abs(value) < _FAR else value


def text(value: float) -> str:
    """A coordinate as written in text formats: no trailing zeros, exact for float32."""
    return str(int(value)) if value == int(value) else repr(round(value, 6))
