"""Names for the classes in a figure."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyrovae.errors import InputError


def named_classes(y: Tensor, count: int, class_names: Sequence[str]) -> dict[int, str]:
    """Return the classes that occur, with their names.

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
    return {label: class_names[label] if class_names else str(label) for label in labels}
