"""Run a pair as a generator: some latents may be given, and nothing else is observed.

To make an image, the model runs with some latents given and the others at their means. The image is the
mean of the distribution at the site that observes the data. The code of a datum consists of the guide's
means of its latents, and of the modes of its classes. A changed latent changes those that depend on it:
with another class y, the z1 of M1+M2 is the mean of p(z1 | z2, y).

Where a function takes a `site`, None means the continuous latent that the model samples last before the
data: z, or z1 in M1+M2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Categorical
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.classes import ClassSite, class_site
from pyrovae.programs.devices import device_of
from pyrovae.programs.distributions import base_of
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, name_of_pair
from pyrovae.programs.reach import modules_of
from pyrovae.programs.running import at_means, traced
from pyrovae.programs.structure import Structure, structure

Codes = dict[str, Tensor]
"""Values of latents by site, `(N, *event_shape)` each."""

ROWS = 1000  # the number of data that pass through a program at a time


class Generator:
    """The programs of a pair, run to generate, with the facts about them that generation needs.

    Each fact is computed once, when it is first asked for. So a function makes one generator and passes it
    on.

    Args:
        pair: a trained pair. To generate, its programs need only the number of the data.
    """

    def __init__(self, pair: ModelAndGuide) -> None:
        self.pair = pair
        self.name = name_of_pair(pair)
        self.device = device_of(pair)

    # Facts

    @cached_property
    def structure(self) -> Structure:
        """The structure of the model when it is called without classes."""
        return structure(self.pair.model, self.placeholder(1))

    @cached_property
    def unobserved(self) -> Structure:
        """The structure of the model when nothing is observed."""
        return structure(poutine.uncondition(self.pair.model), self.placeholder(1))

    @property
    def data_site(self) -> str:
        """The site that observes the data: the model's last observed site."""
        return self.structure.observed[-1]

    @property
    def code_names(self) -> tuple[str, ...]:
        """The latents in order; in a model without latents (an autoencoder), the deterministic sites."""
        return self.structure.latents or self.structure.deterministic

    @property
    def classes(self) -> frozenset[str]:
        """The latents that are classes, that is, whole numbers."""
        return frozenset(self.structure.latents) - frozenset(self.structure.continuous)

    @cached_property
    def class_site(self) -> ClassSite | None:
        """The site that observes the classes when the model is called with them, if there is one."""
        return class_site(self.pair.model, self.placeholder(1))

    def known_class_site(self) -> ClassSite:
        """Return `class_site` for a model that must have one.

        Raises:
            InputError: the model has no classes.
        """
        if self.class_site is None:
            raise InputError(
                f"{self.name} has no classes: train m2, m1m2, pcvae or cpcvae on labelled data."
            )
        return self.class_site

    def descendants(self, name: str) -> set[str]:
        """Return the sites that depend on a site, directly or through others."""
        with evaluating(self.pair):
            return self.unobserved.descendants(name)

    def ancestors(self, name: str, given: Iterable[str]) -> set[str]:
        """Return the sites that a site depends on, directly or through sites that are not given."""
        with evaluating(self.pair):
            return self.unobserved.ancestors(name, given)

    def code_site(self, site: str | None = None) -> str:
        """Return the name of a continuous latent. None means the one that is sampled last before the data.

        Raises:
            InputError: there is no such latent.
        """
        names = [name for name in self.code_names if name not in self.classes]
        if not names or site not in (None, *names):
            asked = "" if site is None else f" '{site}'"
            known = ", ".join(repr(name) for name in names) or "none"
            raise InputError(f"{self.name} has no continuous latent{asked}; there are: {known}.")
        return site or names[-1]

    def prior_site(self, site: str | None = None) -> str:
        """Return the name of a latent as `code_site` does, and check that it has a prior.

        Raises:
            InputError: there is no such latent, or it has no prior because it is a function of the datum.
        """
        if not self.structure.latents:
            raise InputError(
                f"{self.name} has no prior over z, so it cannot generate: "
                "reconstruct or interpolate instead, or train a vae."
            )
        return self.code_site(site)

    # Runs

    def placeholder(self, count: int) -> Tensor:
        """Return `count` data of zeros, for programs that need only their number.

        If the model has a `likelihood.x_shape`, this is their shape, since an autoencoder encodes the
        placeholder even where the code is then replaced.
        """
        modules = modules_of(self.pair)
        likelihoods: Any = (getattr(module, "likelihood", None) for module in modules)
        x_shape = next((x.x_shape for x in likelihoods if hasattr(x, "x_shape")), ())
        parameters = (p for module in modules for p in module.parameters())
        dtype = next((p.dtype for p in parameters if p.is_floating_point()), None)
        return torch.zeros(count, *x_shape, dtype=dtype, device=self.device)

    def run(
        self, count: int, given: Mapping[str, Tensor], y: Tensor | None = None, means: bool = False
    ) -> Trace:
        """Run the model with nothing observed but the given latents.

        The caller puts the modules into evaluation mode.

        Args:
            count: N, the number of data.
            given: values `(N, *event_shape)` of latents.
            y: classes `(N,)`, the second argument of models that have a class site only if they are called
                with classes. To set the class, put it into `given` too.
            means: put the other latents at their means, classes at their modes. If false, they are drawn.
        """
        program = poutine.condition(poutine.uncondition(self.pair.model), data=dict(given))
        x = self.placeholder(count)
        return traced(at_means(program) if means else program, *((x,) if y is None else (x, y)))

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        """Return the codes of data `(N, *x_shape)`, on the CPU. See `generation.latent_codes`."""
        with evaluating(self.pair):
            return joined(self._codes(part.to(self.device)) for part in x.split(ROWS))

    def _codes(self, x: Tensor) -> Codes:
        guide_trace = poutine.trace(at_means(self.pair.guide)).get_trace(x)
        model_trace = poutine.trace(poutine.replay(self.pair.model, trace=guide_trace)).get_trace(x)
        return {name: model_trace.nodes[name]["value"].cpu() for name in self.code_names}

    @torch.no_grad()
    def images(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return E[x | codes], `(N, *x_shape)`, on the CPU. See `generation.images_of`."""
        parts = zip(*(values.to(self.device).split(ROWS) for values in codes.values()), strict=True)
        images = []
        with evaluating(self.pair):
            for part in parts:
                trace = self.run(len(part[0]), dict(zip(codes, part, strict=True)), means=True)
                images.append(_grey(trace.nodes[self.data_site]["fn"]).cpu())
        return torch.cat(images)

    def without_descendants(self, codes: Codes, changed: str) -> Codes:
        """Return the codes that stay valid when one of them is changed: those that do not depend on it."""
        gone = self.descendants(changed)
        return {name: values for name, values in codes.items() if name not in gone}


def _grey(fn: Any) -> Tensor:
    """Return a distribution's mean. For levels 0, 1, ..., L - 1 it is divided by L - 1."""
    pixels = base_of(fn)
    if not isinstance(pixels, Categorical):
        return fn.mean
    return pixels.probs @ torch.linspace(0, 1, pixels.probs.shape[-1]).to(pixels.probs)


def joined(parts: Iterable[Codes]) -> Codes:
    """Join the codes of several parts of the data."""
    whole = list(parts)
    return {name: torch.cat([part[name] for part in whole]) for name in whole[0]}
