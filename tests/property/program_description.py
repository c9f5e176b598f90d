"""Random programs as data: sites of a directed graph, under plates, and the guide's treatment of each."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import Any, Literal

Kind = Literal["normal", "categorical"]
Role = Literal["latent", "observed", "summed", "left_out"]
Treatment = Literal["drawn", "enumerated", "point"]

DATA = "data"
PLAIN = "plain"  # the network that takes leading dimensions; all others do not
MAPS = ("view", "flip", "centre", "conv", "unflatten")  # of a normal parent's value


def _short(described: Any) -> str:
    """The constructor's call without the arguments that have their default."""
    given = [f for f in fields(described) if getattr(described, f.name) != f.default]
    arguments = ", ".join(f"{f.name}={getattr(described, f.name)!r}" for f in given)
    return f"{type(described).__name__}({arguments})"


@dataclass(frozen=True, repr=False)
class Site:
    """A sample site.

    Attributes:
        name: its name.
        kind: a normal (with a linear mean) or a categorical (with a table of logits).
        size: the dimensions of a normal, the classes of a categorical.
        role: "latent" and "observed" as usual; "summed" is a class that the model alone has and enumerates,
            "left_out" a latent that the model alone has and on which no other site depends.
        parents: the names of the sites that the model's distribution depends on.
        plates: the names of its plates; none for a global site.
        scalar: whether a normal of size 1 has no event dimension.
        network: how the model computes with the parents' values.
        treatment: what the guide does with a latent.
        guide_parents: the names of the sites that the guide's distribution depends on.
        guide_network: how the guide computes with their values.
        step: the step of `pyro.markov` that the site belongs to; None outside of the chain.
    """

    name: str
    kind: Kind
    size: int
    role: Role
    parents: tuple[str, ...] = ()
    plates: tuple[str, ...] = (DATA,)
    scalar: bool = False
    network: str = PLAIN
    treatment: Treatment = "drawn"
    guide_parents: tuple[str, ...] = ()
    guide_network: str = PLAIN
    step: int | None = None

    __repr__ = _short

    @property
    def is_normal(self) -> bool:
        return self.kind == "normal"

    @property
    def in_guide(self) -> bool:
        return self.role == "latent"

    @property
    def is_global(self) -> bool:
        return DATA not in self.plates


@dataclass(frozen=True)
class Plate:
    """A plate of a program beside the data's."""

    name: str
    size: int
    dim: int


@dataclass(frozen=True, repr=False)
class Program:
    """A model and its guide.

    Attributes:
        sites: the sites, parents before their children.
        num_data: B.
        plates: the plates beside the data's.
        data_dim: the dimension of the data's plate.
        named: whether the pair says which plate is the data's.
        reverse_guide: whether the guide visits the latents from the last to the first.
        exact_guide: whether the guide's weights are left at the best ones of its family.
        seed: the seed of weights and data.
    """

    sites: tuple[Site, ...]
    num_data: int = 2
    plates: tuple[Plate, ...] = ()
    data_dim: int = -1
    named: bool = False
    reverse_guide: bool = False
    exact_guide: bool = False
    seed: int = 0

    __repr__ = _short

    def __getitem__(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)

    @property
    def guide_order(self) -> list[Site]:
        """The guide's latents, parents before their children."""
        latents = [site for site in self.sites if site.in_guide]
        return latents[::-1] if self.reverse_guide else latents

    @property
    def observed(self) -> list[Site]:
        return [site for site in self.sites if site.role == "observed"]

    @property
    def enumerated(self) -> list[Site]:
        return [s for s in self.sites if s.role == "summed" or (s.in_guide and s.treatment == "enumerated")]

    @property
    def globals(self) -> list[Site]:
        return [site for site in self.sites if site.is_global]

    @property
    def has_points(self) -> bool:
        return any(site.treatment == "point" for site in self.sites)

    @property
    def is_joint(self) -> bool:
        """Whether the data depend on one another through a global latent that is drawn."""
        return bool(self.globals) and not self.has_points

    def is_without_effect(self, site: Site) -> bool:
        """Whether a site of the model alone has no descendant that is observed or in the guide."""
        children = [other for other in self.sites if site.name in other.parents]
        return site.role in ("summed", "left_out") and all(map(self.is_without_effect, children))

    def sizes(self, site: Site, num_data: int | None = None) -> dict[str, int]:
        """The sizes of a site's plates, that of the data as given (or absent)."""
        inner = {plate.name: plate.size for plate in self.plates if plate.name in site.plates}
        return ({DATA: num_data} if num_data is not None and DATA in site.plates else {}) | inner

    def dims(self, site: Site) -> dict[str, int]:
        """The dimensions of a site's plates."""
        every = {DATA: self.data_dim} | {plate.name: plate.dim for plate in self.plates}
        return {name: every[name] for name in site.plates}

    def configurations(self, joint: bool) -> int:
        """The number of configurations of the classes that an exact answer adds up."""
        classes = [s for s in self.sites if not s.is_normal and s.role in ("latent", "summed")]
        return prod(
            site.size ** prod(self.sizes(site, self.num_data if joint else None).values())
            for site in classes
        )
