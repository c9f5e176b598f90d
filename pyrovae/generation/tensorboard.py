"""Images for TensorBoard while a pair is trained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyrovae.errors import InputError, check_counts
from pyrovae.generation.images import only_site, reconstruct, sample_images
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.training import EpochEnd

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardImages:
    """A callback of `fit` that writes samples and reconstructions for TensorBoard.

    TensorBoard shows them as a run of their own. All epochs have the same data and the same draws of z. A
    model without a prior to draw from has reconstructions only.

    Args:
        pair: the pair that makes the images: the one that is trained, or one that it is a part of.
        folder: the folder of TensorBoard's files for these images alone.
        x: the data to reconstruct, `(N, C, H, W)`. There are N samples too.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each datum. None means nothing.
        shown: the data as TensorBoard shows them, `(N, C, H, W)` in [0, 1]. None means `x`.
        every: the number of epochs between two writings.
        seed: the seed of the draws of z.

    Raises:
        InputError: `x` are no images, or the pair cannot reconstruct them.

    Example:
        >>> images = TensorBoardImages(vae, "board/images", x[:8], every=5)      # doctest: +SKIP
        >>> fit(vae, x, tensorboard="board/scalars", callbacks=[images])         # doctest: +SKIP
    """

    def __init__(
        self,
        pair: ModelAndGuide,
        folder: str | Path,
        x: Tensor,
        *,
        given: Mapping[str, Any] | None = None,
        shown: Tensor | None = None,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        check_counts(every=every)
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise InputError(
                f"TensorBoard shows images with 1 or 3 channels, (N, C, H, W), but x has shape "
                f"{tuple(x.shape)}: leave images for TensorBoard out."
            )
        self.pair, self.folder, self.x, self.given = pair, str(folder), x, given
        self.every, self.seed = every, seed
        self._shown = x if shown is None else shown
        self._writer: SummaryWriter | None = None
        self._images()  # what cannot be made is refused before the first epoch

    def on_epoch_end(self, state: EpochEnd) -> None:
        """Write the images of an epoch, if it is its turn."""
        if state.epoch % self.every:
            return
        step = int(state.row["step"])
        images = self._images()
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and rarely needed

            self._writer = SummaryWriter(self.folder, purge_step=step)
            images["data"] = self._shown
        for name, values in images.items():
            self._writer.add_images(name, values.clamp(0, 1), step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file of images."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _images(self) -> dict[str, Tensor]:
        found = {"reconstructions": only_site(reconstruct(self.pair, self.x, given=self.given))}
        with suppress(InputError):  # there is no prior
            drawn = sample_images(self.pair, len(self.x), self.seed, given=self.given)
            found["samples"] = only_site(drawn)
        return found
