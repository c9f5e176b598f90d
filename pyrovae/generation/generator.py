"""Run a pair as a generator: some latents may be given, and so may data.

To make an image, the model runs with some latents given and the others at their means. The image is the
mean of the distribution at the site that observes the data, or a dictionary of such means if several sites
do. The code of a datum consists of the guide's means of its latents, and of the modes of its classes. A
changed latent changes those that depend on it: with another class y, the z1 of M1+M2 is the mean of
p(z1 | z2, y).

A mean without a closed form is the average of `programs.distributions.MEAN_DRAWS` draws. All draws have a
seed, so each call gives the same, and the caller's random stream does not change.

A model may read the data, as does a likelihood with a library size. It gets the data where data are given.
Otherwise they are drawn in the order that `order` finds, or the model is refused.

A latent that all data share, outside of their plate, such as the weights of a Bayesian regression, has one
value for all rows: its mean under the guide, or one draw of the guide, which is its posterior. Its value is
the same in all images of a call, and comes in its own shape.

Codes and images have a row for each datum, whatever dimension the data's plate has. `by_rows` brings this
dimension to the front, and `in_place` puts it back before a program gets the values.

Where a function takes a `site`, None means the continuous latent that the model samples last before the
data: z, or z1 in M1+M2. Latents that all data share come after the others.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from operator import itemgetter
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Categorical
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.data.checks import check_classes, check_data, holds_classes
from pyrovae.errors import InputError, cause, warn
from pyrovae.evaluation.chunking import in_chunks
from pyrovae.generation.order import TRIALS, Order, order_of
from pyrovae.generation.placeholders import ROWS as TRIED
from pyrovae.generation.placeholders import data_sites_of, shape_of_a_datum
from pyrovae.programs.classes import ClassSite, categorical_latents, labelled_call
from pyrovae.programs.dependence import Edge
from pyrovae.programs.devices import device_of
from pyrovae.programs.distributions import base_of, in_form_of, is_class, mean_of, name_of
from pyrovae.programs.given import given_of
from pyrovae.programs.modes import evaluating, nothing_moves
from pyrovae.programs.pair import ModelAndGuide, Program, data_plate_of, name_of_pair
from pyrovae.programs.reach import modules_of
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import AtMeans, traced
from pyrovae.programs.sites import observed_sites
from pyrovae.programs.structure import Structure

Codes = dict[str, Tensor]
"""Values of latents by site, `(N, *event_shape)` each; one value, in its own shape, if all share it."""

Images = Tensor | dict[str, Tensor]
"""The values of the site that observes the data, or of several such sites by name."""

ROWS = 1000  # the number of data that pass through a program at a time


class Generator:
    """The programs of a pair, run to generate, with the facts about them that generation needs.

    Each fact is computed once, when it is first asked for. So a function makes one generator and passes it
    on.

    Attributes:
        without_mean: the sites that were drawn since they have no mean, with their distributions' names.

    Args:
        pair: a trained pair.
        given: further arguments of both programs by name. Tensors with N rows are cut with the data.
        x: the data, `(N, *x_shape)`. None means that there are none.
        count: N, the number of draws, where there are no data.

    Raises:
        InputError: the data are not usable; or `given` is not, or lacks an argument of the programs.
    """

    def __init__(
        self,
        pair: ModelAndGuide,
        given: Mapping[str, Any] | None = None,
        x: Tensor | None = None,
        count: int = 1,
    ) -> None:
        if x is not None:
            check_data(x, given=given)
        self.x, self.size = x, count if x is None else len(x)
        self.name = name_of_pair(pair)
        self.device = device_of(pair, otherwise="cpu" if x is None else x.device)
        found = given_of(pair, given, self.size)
        self.pair, self._given_rows = found.bound_to(pair, self.device), found.rows
        self._orders: dict[frozenset[str], Order | None] = {}
        self.without_mean: dict[str, str] = {}
        self._check_whole(found.whole)

    # Arguments

    def _check_whole(self, whole: Mapping[str, Any]) -> None:
        """Refuse a tensor that has no row for each datum or draw, if the programs fail with it."""
        tensors = {n: value for n, value in whole.items() if isinstance(value, Tensor) and value.dim()}
        if not tensors:
            return
        try:
            _ = self.structure.traces
            self._check_together({len(value) for value in tensors.values()})
        except Exception as error:  # programs raise errors of any type
            name, value = next(iter(tensors.items()))
            raise InputError(
                f"given['{name}'] has shape {tuple(value.shape)}, and there are {self.size} data or "
                "draws, so it was passed whole, and the programs fail: give one row for each of them. "
                f"({cause(error)})"
            ) from error

    def _check_together(self, lengths: Collection[int]) -> None:
        """Run the programs on another number of data than all these lengths, which would fit by chance."""
        count = next(n for n in itertools.count(2) if n not in lengths)
        with_data = self.x is not None
        arguments = self.arguments(torch.arange(count) % self.size) if with_data else self.few(count)
        traces = Structure(self.pair if with_data else self.pair.model, *arguments).traces
        for name in observed_sites(traces.model):
            site = traces.model.nodes[name]
            torch.broadcast_shapes(site["value"].shape, site["fn"].shape())  # fails if they differ

    def arguments(self, rows: Tensor) -> Arguments:
        """Return the arguments of both programs for some of the N data, by index. Without data, x is 0."""
        x = self.placeholder(len(rows)) if self.x is None else self.x[rows.to(self.x.device)]
        return Arguments((x.to(self.device),), self._given(rows))

    def _given(self, rows: Tensor) -> dict[str, Tensor]:
        rows_of = self._given_rows.items()
        return {name: values[rows.to(values.device)].to(self.device) for name, values in rows_of}

    def placeholder(self, count: int) -> Tensor:
        """Return `count` data whose values do not matter, in the shape and type of the data.

        They are zeros. If the model fails on zeros, they are rows of the data, or ones without data.
        """
        zeros = self._like.new_zeros(count, *self._x_shape)
        if self._takes_zeros:
            return zeros
        return zeros + 1 if self.x is None else self.x[torch.arange(count) % self.size].to(self.device)

    @cached_property
    def _takes_zeros(self) -> bool:
        """Whether the model runs on zeros, and draws data from what it computes from them."""
        model, given = self.pair.model, self._given(torch.zeros(1, dtype=torch.long))
        zeros = self._like.new_zeros(1, *self._x_shape)
        try:
            observed = Structure(model, (zeros,), given).observed
            _ = Structure(_unobserved(model, observed), (zeros,), given).traces
        except Exception:  # such as that of a multinomial distribution of no words
            return False
        return True

    @cached_property
    def _like(self) -> Tensor:
        if self.x is not None:
            return self.x.new_empty(0, device=self.device)
        parameters = (p for module in modules_of(self.pair) for p in module.parameters())
        dtype = next((p.dtype for p in parameters if p.is_floating_point()), None)
        return torch.empty(0, dtype=dtype, device=self.device)

    @cached_property
    def _x_shape(self) -> tuple[int, ...]:
        if self.x is not None:
            return tuple(self.x.shape[1:])
        return shape_of_a_datum(self.pair, self._like, self._given(torch.arange(TRIED) % self.size))

    def few(self, count: int) -> Arguments:
        """Return arguments for a few data, the values of which do not matter."""
        rows = torch.arange(count) % self.size
        return self.arguments(rows)._replace(args=(self.placeholder(count),))

    # Facts

    @cached_property
    def structure(self) -> Structure:
        """The structure of the model when it is called without classes."""
        return Structure(self.pair.model, *self.few(1))

    @cached_property
    def unobserved(self) -> Structure:
        """The structure of the model when no data are observed."""
        return Structure(_unobserved(self.pair.model, self.data_sites), *self.few(1))

    @cached_property
    def data_sites(self) -> tuple[str, ...]:
        """The sites that observe the data, in order; see `data_sites_of`."""
        (x,), given = self.few(1)
        return tuple(data_sites_of(self.pair.model, x, given))

    @cached_property
    def _places(self) -> dict[str, Tensor]:
        """The place in a row of the site's values of each value of a datum, `(*x_shape,)`.

        This is for the sites that observe all of a datum, perhaps in another shape and order.
        """
        x = self.placeholder(1)
        x += torch.arange(x.numel(), device=x.device).view(x.shape) / x.numel()
        nodes, found = Structure(self.pair.model, (x,), self.structure.kwargs).traces.model.nodes, {}
        in_x = x.flatten().sort(stable=True)
        for name in self.data_sites:
            in_row = self.by_rows(name, nodes[name]["value"]).flatten().sort(stable=True)
            if in_row.values.equal(in_x.values):
                places = torch.empty_like(in_x.indices)
                places[in_x.indices] = in_row.indices
                found[name] = places.view(x.shape[1:]).cpu()
        return found

    @property
    def levels(self) -> int | None:
        """L, the number of levels, if a single site observes the data as levels; else None."""
        if len(self.data_sites) != 1:
            return None
        pixels = base_of(self.structure.traces.model.nodes[self.data_sites[0]]["fn"])
        return pixels.probs.shape[-1] if isinstance(pixels, Categorical) else None

    @cached_property
    def latents(self) -> tuple[str, ...]:
        """The model's latents in order, without predictions, such as a y that is not given."""
        found = self.structure.latents
        if all(self.unobserved.children(name) for name in found):
            return found
        predicted = Structure(self.pair, *self.few(1)).predicted
        return tuple(name for name in found if name not in predicted)

    @property
    def code_names(self) -> tuple[str, ...]:
        """The latents in order; in a model without latents (an autoencoder), the deterministic sites."""
        return self.latents or self.structure.deterministic

    @cached_property
    def shared(self) -> frozenset[str]:
        """The latents that all data share: outside of their plate, of one shape for any number of data."""
        nodes, others = (of.traces.model.nodes for of in (self.structure, self._of_two))
        same = [name for name in self.latents if nodes[name]["value"].shape == others[name]["value"].shape]
        return frozenset(name for name in same if self._of_two[name].scope == "global")

    @cached_property
    def _of_two(self) -> Structure:
        """The structure of the model for two data, which shows the dimension of their plate."""
        return Structure(self.pair.model, *self.few(2), data_plate=data_plate_of(self.pair))

    @cached_property
    def discrete(self) -> frozenset[str]:
        """The latents with discrete values: classes, counts, or numbers that are 0 or 1."""
        return frozenset(self.latents) - frozenset(self.structure.continuous)

    @cached_property
    def classes(self) -> frozenset[str]:
        """The latents of data that are classes: whole numbers, or one-hot vectors."""
        nodes = self.structure.traces.model.nodes
        return frozenset(n for n in self.discrete - self.shared if is_class(nodes[n]["fn"]))

    @cached_property
    def class_site(self) -> ClassSite | None:
        """The site of the classes, if there is one.

        It is the site that observes the classes when the model is called with them, or else the only latent
        of classes.
        """
        if self._labelled is not None:
            return self._labelled[0]
        names = [name for name in categorical_latents(self.structure) if name in self.latents]
        if len(names) != 1:
            return None
        fn = self.structure.traces.model.nodes[names[0]]["fn"]
        return ClassSite(names[0], base_of(fn).probs.shape[-1])

    @cached_property
    def _labelled(self) -> tuple[ClassSite, Structure] | None:
        """The site that observes the classes in a call with them, and the structure of this call."""
        (x,), given = self.few(1)
        return labelled_call(self.pair.model, x, given)

    def known_class_site(self) -> ClassSite:
        """Return `class_site` for a model that must have one.

        Raises:
            InputError: the model has no classes, or has several latents of classes.
        """
        if self.class_site is None:
            if len(self.classes) > 1:
                raise InputError(
                    f"{self.name} has several latents of classes, {', '.join(sorted(self.classes))}: give "
                    "the values of all of them by name, images_of(pair, codes)."
                )
            further = "".join(
                f" It is conditional on '{name}': for images of each class, draw samples(pair, n, "
                f"given={{'{name}': ...}}) with a class in each of n rows."
                for name in [*self._given_rows][:1]
            )
            raise InputError(
                f"{self.name} has no classes: train m2, m1m2, pcvae or cpcvae on labelled data.{further}"
            )
        return self.class_site

    @cached_property
    def predicts_class(self) -> bool:
        """Whether the distribution at the class site depends on latents, as in the PC-VAE.

        Raises:
            InputError: it depends on the data.
        """
        name, _ = self.known_class_site()
        before = self._with_classes.ancestors(name)
        if before.intersection(self.data_sites):
            raise InputError(
                f"the class '{name}' of {self.name} is predicted from the data, so it cannot be chosen "
                "before they are drawn: draw data without a class, and classify them."
            )
        return bool(before.intersection(self.latents))

    @property
    def differs_by_row(self) -> bool:
        """Whether the programs may get other arguments for other rows."""
        return self.x is not None or bool(self._given_rows)

    def check_classes(self, y: Tensor, count: int) -> None:
        """Refuse anything but `count` whole numbers of classes that the model has.

        Raises:
            InputError: y is something else.
        """
        _, num_classes = self.known_class_site()
        check_classes(y, count)
        if not holds_classes(y):
            raise InputError(
                f"the classes y have type {y.dtype} and shape {tuple(y.shape)}; expected one whole number "
                f"for each draw, ({count},): give y.argmax(1) of one-hot rows, y.long() of whole numbers."
            )
        if y.min() < 0 or y.max() >= num_classes:
            raise InputError(
                f"the classes go from {int(y.min())} to {int(y.max())}; there are {num_classes}, "
                "counted from 0."
            )

    def class_values(self, classes: Tensor) -> Tensor:
        """Return classes `(N,)` as values of the class site by rows. They may be one-hot vectors."""
        name, _ = self.known_class_site()
        values = in_form_of(self._with_classes.traces.model.nodes[name]["fn"], classes.to(self.device))
        return self._with_all_dimensions(name, values)

    @property
    def _with_classes(self) -> Structure:
        """The structure of a call that has the class site. Some models have it only with classes."""
        return self.structure if self._labelled is None else self._labelled[1]

    def descendants(self, name: str) -> set[str]:
        """Return the sites that depend on a site, directly or through others."""
        return self.unobserved.descendants(name)

    def classes_behind(self, site: str) -> set[str]:
        """Return the class sites that the data depend on, directly or through latents other than `site`."""
        before = (self.unobserved.ancestors(name, {site}) for name in self.data_sites)
        return set().union(*before) & self.classes

    def code_site(self, site: str | None = None) -> str:
        """Return the name of a continuous latent. None means the one that is sampled last before the data.

        Latents that all data share come after the others.

        Raises:
            InputError: there is no such latent.
        """
        names = [name for name in self.code_names if name not in self.discrete]
        if not names or site not in (None, *names):
            asked = "" if site is None else f" '{site}'"
            known = ", ".join(repr(name) for name in names) or "none"
            others = ", ".join(repr(name) for name in self.code_names if name in self.discrete)
            of_others = (
                f" The discrete ones are {others}: latent_codes(pair, x) gives their modes, and "
                "images_of(pair, codes) decodes values of them by name."
                if others
                else ""
            )
            raise InputError(f"{self.name} has no continuous latent{asked}; there are: {known}.{of_others}")
        return site or ([name for name in names if name not in self.shared] or names)[-1]

    def site_of_data(self, site: str | None = None) -> str:
        """Return the name of a latent as `code_site` does, and check that each datum has a value of it.

        Raises:
            InputError: there is no such latent, or all data share its value.
        """
        if (name := self.code_site(site)) in self.shared:
            raise InputError(
                f"all data share '{name}' of {self.name}, so there is one value and none for each datum: "
                f"latent_means(pair, x, site='{name}') gives its posterior mean, and draw_latents(pair, "
                f"1)['{name}'] a draw of its posterior; images_of(pair, {{'{name}': value}}) decodes one."
            )
        return name

    def check_prior(self) -> None:
        """Refuse a model without latents.

        Raises:
            InputError: the model has no latent.
        """
        if not self.latents:
            raise InputError(
                f"{self.name} has no prior over z, so it cannot generate: "
                "reconstruct or interpolate instead, or train a vae."
            )

    def prior_site(self, site: str | None = None) -> str:
        """Return the name of a latent as `site_of_data` does, and check that it has a prior.

        Raises:
            InputError: there is no such latent, all data share it, or it has no prior because it is a
                function of the datum.
        """
        self.check_prior()
        return self.site_of_data(site)

    # Latents that all data share

    @cached_property
    def shared_means(self) -> Codes:
        """The means under the guide of the latents that all data share."""
        return self._shared_values(AtMeans())

    @cached_property
    def shared_draws(self) -> Codes:
        """One draw of the guide for the latents that all data share. The caller sets the seed."""
        return self._shared_values(None)

    def _shared_values(self, centre: AtMeans | None) -> Codes:
        """Return the values of shared latents in a run of the guide, and of the model for those it lacks.

        Raises:
            InputError: the guide computes one of them from the data, and there are none.
        """
        if not self.shared:
            return {}
        arguments = self.few(1)
        if read := [name for name in self.latents if name in self.shared and self._reads_data(name)]:
            if self.x is None:
                raise InputError(
                    f"the guide of {self.name} computes '{read[0]}', which all data share, from the data, "
                    "and there are none: give its value by name, images_of(pair, codes), or call a "
                    "function that takes data, such as reconstruct."
                )
            arguments = self.arguments(torch.arange(self.size))
        guide = poutine.trace(self.pair.guide if centre is None else centre(self.pair.guide))
        by_guide = guide.get_trace(*arguments.args, **arguments.kwargs)
        model = poutine.replay(self.pair.model, trace=by_guide)
        nodes = traced(
            model if centre is None else centre(model), *arguments.args, **arguments.kwargs
        ).nodes
        shared = [name for name in self.latents if name in self.shared]
        found = {name: nodes[name]["value"].detach().clone() for name in shared}  # it may be a parameter
        if centre is not None:
            self.without_mean |= {name: fn for name, fn in centre.drawn.items() if name in found}
        return found

    def _reads_data(self, name: str) -> bool:
        """Whether the guide computes a latent from the data."""
        return bool(self.before_in_guide(name).intersection(self.data_sites))

    def before_in_guide(self, name: str) -> set[str]:
        """Return the sites that a latent depends on in the guide, the data too."""
        found = {name}
        while new := {parent for parent, child in self._guide_edges if child in found} - found:
            found |= new
        return found - {name}

    @cached_property
    def _guide_edges(self) -> frozenset[Edge]:
        return Structure(self.pair, *self.few(2)).inference_edges

    def each_of_data(self, codes: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> Codes:
        """Apply a function to the codes that have a row for each datum."""
        return {n: values if n in self.shared else change(values) for n, values in codes.items()}

    # The dimension of the data

    def by_rows(self, name: str, values: Tensor) -> Tensor:
        """Return values of a site, as they are in a run, with a row for each datum: `(N, ...)`."""
        axis = self._axis(name)
        return values if axis is None or values.dim() < -axis else values.movedim(axis, 0)

    def in_place(self, name: str, values: Tensor) -> Tensor:
        """Return values with a row for each datum, `(N, ...)`, in the layout that they have in a run."""
        axis = self._axis(name)
        if axis is None:
            return values
        values = self._with_all_dimensions(name, values)
        return values if values.dim() < -axis else values.movedim(0, axis)

    def _with_all_dimensions(self, name: str, values: Tensor) -> Tensor:
        """Return rows in the shape that the site's rows have, if they lack dimensions of size 1."""
        row = self.by_rows(name, self._site(name)["value"])[0]
        fits = values.dim() <= row.dim() and values[0].numel() == row.numel()
        return values.reshape(len(values), *row.shape) if fits else values

    def _axis(self, name: str) -> int | None:
        known = name in self._of_two.traces.model.nodes
        return (self._of_two if known else self._with_classes).data_axis(name)

    def _site(self, name: str) -> Mapping[str, Any]:
        nodes = self.structure.traces.model.nodes
        site: Mapping[str, Any] = (
            nodes[name] if name in nodes else self._with_classes.traces.model.nodes[name]
        )
        return site

    # Runs

    def order(self, given: Iterable[str]) -> Order | None:
        """Return the order in which data are drawn if some latents are given; None if one run draws all.

        Raises:
            InputError: the model cannot generate without data.
        """
        key = frozenset(given) | self.shared
        if self.x is None and key not in self._orders:
            wanted = {*self.data_sites, *self.latents} - key
            sites = [name for name in self.structure.traces.model.nodes if name in wanted]
            x, kwargs = self.placeholder(TRIALS), self.few(TRIALS).kwargs

            def run(x: Tensor, latents: Mapping[str, Tensor]) -> Trace:
                return traced(poutine.condition(self.pair.model, data=dict(latents)), x, **kwargs)

            with nothing_moves(self.pair.model):
                torch.manual_seed(0)
                self._orders[key] = order_of(run, x, sites, key, self.by_rows)
        return self._orders.get(key)

    @property
    def reads_data(self) -> bool:
        """Whether there are no data, and the model reads some values of a datum to draw others."""
        return self.order(()) is not None

    def run(self, rows: Tensor, given: Mapping[str, Tensor], means: bool = False) -> Trace:
        """Run the model on some of the data, or on data that are drawn if there are none.

        The caller puts the modules into evaluation mode and sets the seed.

        Args:
            rows: the indices `(B,)` of data and of what is given with them.
            given: values `(B, *event_shape)` of latents, and of the class site. A latent that all data
                share has one value.
            means: put the other latents at their means, classes at their modes. If false, they are drawn.
        """
        (data,), kwargs = self.arguments(rows)
        if not self.shared <= given.keys():
            given = {**(self.shared_means if means else self.shared_draws), **given}
        given = {name: values.to(self.device) for name, values in given.items()}
        labels, centre = self._labels(given), AtMeans()
        given = {name: self.in_place(name, values) for name, values in given.items()}

        def run(x: Tensor, latents: Mapping[str, Tensor]) -> Trace:
            program = poutine.condition(self.pair.model, data=dict(latents))
            return traced(centre(program) if means else program, x, *labels, **kwargs)

        order = self.order(given)
        trace = run(data, given) if order is None else order.draw(run, data, given)
        self.without_mean |= {name: fn for name, fn in centre.drawn.items() if name in self.latents}
        return trace

    def _labels(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the classes if the model is to be called with them, as some have the site only then."""
        if not {*given} - {*self.structure.continuous} or self._labelled is None:
            return ()
        (name, _), call = self._labelled
        labels = (values for site, values in given.items() if site == name)
        form, one_hot = call.args[1].shape[1:], call.traces.model.nodes[name]["fn"].event_dim
        labels = (y.argmax(-1) if one_hot and not form else y for y in labels)
        return tuple(y.reshape(len(y), *form) for y in labels)

    def draw(self, rows: Tensor, given: Mapping[str, Tensor]) -> tuple[Trace, Codes]:
        """Run the model as `run` does. Return its trace, and a draw of the data by site, on the CPU."""
        trace, ordered = self.run(rows, given), self.order(given) is not None
        nodes = {name: trace.nodes[name] for name in self.data_sites}
        values = {name: node["value"] if ordered else node["fn"]() for name, node in nodes.items()}
        return trace, {name: self._in_grey(name, nodes[name]["fn"], values[name]) for name in values}

    def latents_by_rows(self, trace: Trace) -> Codes:
        """Return the values of the latents of data in a trace, `(N, *event_shape)` each, on the CPU."""
        of_data = [name for name in self.latents if name not in self.shared]
        return {name: self.by_rows(name, trace.nodes[name]["value"]).cpu() for name in of_data}

    def images(self, codes: Mapping[str, Tensor], rows: Tensor | None = None) -> Images:
        """Return E[x | codes], as `images_by_site` does, without a dictionary if there is one site."""
        return as_images(self.images_by_site(codes, rows))

    def images_by_site(
        self, codes: Mapping[str, Tensor], rows: Tensor | None = None, seed: int = 0
    ) -> dict[str, Tensor]:
        """Return E[x | codes] for each site that observes data, `(N, *x_shape)`, on the CPU.

        Args:
            codes: values of latents, `(N, *event_shape)` each, and one of a latent that all data share.
            rows: the indices `(N,)` of data and of what is given with them; by default 0, 1, ...
            seed: the seed of the draws, where there is no mean or a value depends on earlier ones.

        Raises:
            InputError: the model observes no data, or cannot generate without data.
        """
        if not self.data_sites:
            raise InputError(
                f"the model of {self.name} observes nothing when it is called with data alone, so it has "
                "no data to generate: give it a site that observes the data, pyro.sample(..., obs=x)."
            )
        rows = torch.arange(self.size) if rows is None else rows

        def of_part(part: slice) -> Codes:
            given = self.each_of_data(codes, itemgetter(part))
            trace, ordered = self.run(rows[part], given, means=True), self.order(given) is not None
            return {name: self._image(trace, name, ordered) for name in self.data_sites}

        with evaluating(self.pair), seeded(seed, self.device), torch.no_grad():
            parts, _ = in_chunks(of_part, len(rows), ROWS)
        self.warn_of_draws()
        return joined(parts)

    def _image(self, trace: Trace, name: str, ordered: bool) -> Tensor:
        fn = trace.nodes[name]["fn"]
        if ordered:
            return self._in_grey(name, fn, trace.nodes[name]["value"])
        if isinstance(pixels := base_of(fn), Categorical):
            levels = torch.arange(pixels.probs.shape[-1]).to(pixels.probs)
            return self._in_grey(name, fn, pixels.probs @ levels)
        if (mean := mean_of(fn)) is None:
            self.without_mean[name] = name_of(fn)
            mean = fn()
        return self._in_grey(name, fn, mean)

    def _in_grey(self, name: str, fn: Any, values: Tensor) -> Tensor:
        """Return values of a site in the shape of the data, levels 0, ..., L - 1 divided by L - 1."""
        if isinstance(pixels := base_of(fn), Categorical):
            values = values / (pixels.probs.shape[-1] - 1)
        values = self.by_rows(name, values).cpu()
        places = self._places.get(name)
        return values if places is None else values.reshape(len(values), -1)[:, places]

    def warn_of_draws(self) -> None:
        """Warn of the sites without a mean that were drawn, and forget them."""
        if self.without_mean:
            names = " and ".join(f"'{name}' ({fn})" for name, fn in self.without_mean.items())
            warn(f"{names} of {self.name} has no mean, so one draw with a fixed seed stands for it.")
            self.without_mean = {}

    def without_descendants(self, codes: Codes, changed: str) -> Codes:
        """Return the codes that stay valid when one of them is changed: those that do not depend on it."""
        gone = self.descendants(changed)
        return {name: values for name, values in codes.items() if name not in gone}


class _Unobserved(Messenger):
    """Lets the sites that observe the data be drawn."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["is_observed"], msg["value"] = False, None


def _unobserved(program: Program, names: Collection[str]) -> Program:
    """Return the program with some of its observed sites drawn. It shows the same parameters."""

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _Unobserved(names):
            return program(*args, **kwargs)

    return run


def as_images(values: Codes) -> Images:
    """Return the values of the sites that observe the data: a tensor if there is one site only."""
    return values if len(values) > 1 else next(iter(values.values()))


def each(images: Images, change: Callable[[Tensor], Tensor]) -> Images:
    """Apply a function to the images of each site."""
    if isinstance(images, dict):
        return {name: change(values) for name, values in images.items()}
    return change(images)


def joined(parts: Iterable[Codes]) -> Codes:
    """Join the values of several parts of the data."""
    whole = list(parts)
    return {name: torch.cat([part[name] for part in whole]) for name in whole[0]}
