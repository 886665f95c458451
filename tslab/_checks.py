"""Checks of arguments that every public function shares, so that each refuses a bad value in the same words.

A message names the argument, the value it got and what would be right. `require` checks for packages that only some of
tslab needs: they are imported where they are used, and the message names the extra that brings them.
"""

import importlib
import math
from collections.abc import Iterable
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Number = TypeVar("Number", int, float)


def check_number(
    name: str,
    value: Number,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> Number:
    """Return ``value`` if it is a finite number within the bounds, else raise `ValueError`.

    Args:
        name: of the argument, as the caller wrote it.
        value: anything; truth values and text are no numbers.
        at_least, above, at_most, below: bounds; ``above`` and ``below`` exclude the bound itself.
        hint: what to do instead, after a semicolon.

    Raises:
        ValueError: no number, NaN, infinite, or out of bounds.
    """
    bounds = {
        "at least": (at_least, lambda v, b: v >= b),
        "above": (above, lambda v, b: v > b),
        "at most": (at_most, lambda v, b: v <= b),
        "below": (below, lambda v, b: v < b),
    }
    asked = [(word, bound, holds) for word, (bound, holds) in bounds.items() if bound is not None]
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and all(holds(value, bound) for _, bound, holds in asked):
        return value
    wanted = " and".join(f" {word} {bound:g}" for word, bound, _ in asked)
    raise ValueError(f"{name} must be a finite number{wanted}, got {value!r}{'; ' if hint else ''}{hint}")


def check_count(name: str, value: int, *, at_least: int = 1, at_most: int | None = None, hint: str = "") -> int:
    """Return ``value`` as an int if it is a whole number within the bounds, else raise `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {value!r}{'; ' if hint else ''}{hint}")
    return int(check_number(name, int(value), at_least=at_least, at_most=at_most, hint=hint))


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return ``value`` if it is one of ``choices``, else raise `ValueError` with all of them."""
    known = list(choices)
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in known):
        raise ValueError(f"{name} {value!r} is not known; choose one of {', '.join(map(str, known))}")
    return value


def check_finite(what: str, values: Tensor, rows: Tensor | None = None) -> None:
    """Raise `ValueError` if a row of ``values``, (n,) or (n, d), holds NaN or an infinite number.

    Args:
        what: they are, for the message.
        values: one row for each example.
        rows: number of each row in its table; counted from 0 if None.
    """
    bad = ~torch.isfinite(values)
    bad = bad if bad.ndim == 1 else bad.flatten(1).any(1)
    if not bool(bad.any()):
        return
    row = int((bad.nonzero()[:, 0] if rows is None else rows[bad])[0])
    hint = "leave those rows out with table.where(...), or fill them"
    raise ValueError(f"{what} in row {row} of the table: NaN or infinite ({int(bad.sum())} such rows); {hint}")


def require(package: str, extra: str) -> ModuleType:
    """Import ``package``.

    Raises:
        ImportError: it is not installed (or does not load); names ``tslab[extra]``.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this needs {package}: pip install 'tslab[{extra}]' ({error})") from error
