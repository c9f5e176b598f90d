"""Names for the classes in a figure."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyrovae.errors import InputError, one_line

_LONGEST = 30  # characters


def named_classes(y: Tensor, count: int, class_names: Sequence[str]) -> dict[int, str]:
    """Return the classes that occur, with their names as figures show them.

    Args:
        y: classes `(N,)` counted from 0.
        count: the number of data that the classes are for.
        class_names: the names of the classes 0, 1, ...; if empty, classes are called by their numbers.

    Raises:
        InputError: there is not one class for each datum, or a class is negative or has no name.
    """
    if len(y) != count:
        raise InputError(f"there are {count} data and {len(y)} classes; expected one for each datum.")
    labels = [int(label) for label in y.unique()]
    if labels[0] < 0 or (class_names and labels[-1] >= len(class_names)):
        raise InputError(
            f"the classes go from {labels[0]} to {labels[-1]}, and {len(class_names)} have names: give "
            "classes counted from 0, and a name for each."
        )
    return {label: shown_name(class_names[label]) if class_names else str(label) for label in labels}


def shown_name(name: str) -> str:
    """Return the name of a class as a figure shows it: on one line, the middle of a long one left out.

    Matplotlib would read a dollar sign as the beginning of a formula, and would leave a name that begins
    with an underscore out of a legend.
    """
    plain = one_line(name)
    if len(plain) > _LONGEST:
        plain = f"{plain[: _LONGEST - 11]}…{plain[-10:]}"
    return (" " if plain.startswith("_") else "") + plain.replace("$", r"\$")
