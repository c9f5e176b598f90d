"""Images of a conditional model that are shown with what was given in its place."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Complete = Callable[[Tensor, Tensor], Tensor]
"""A function from images `(N, *x_shape)`, and the rows `(N,)` of what was given with them, to the images
that are shown, such as `lambda images, rows: images.where(observed[rows], c[rows])`."""


def completed(images: Tensor, rows: Tensor, complete: Complete | None) -> Tensor:
    """Return images as figures show them.

    Args:
        images: images `(*leading, *x_shape)`.
        rows: the row of what was given with each one, `(*leading,)`.
        complete: the function that completes images. None means that they are shown as they are.
    """
    if complete is None:
        return images
    return complete(images.flatten(0, rows.dim() - 1), rows.flatten()).view_as(images)
