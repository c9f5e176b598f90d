"""A plate diagram as plain data: nodes, plates and edges, and questions about them.

Nothing here runs a program or draws. `reading` makes a diagram from a program, `merging` joins diagrams,
`layout` places what they show, and `drawing`, `dot`, `tikz` and `saving` do the work of the methods.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Edge = tuple[str, str]


@dataclass(frozen=True)
class Node:
    """A random variable, an argument that a program conditions on, or a factor.

    Attributes:
        name: the name of the site or the argument.
        status: "latent"; "predicted", if its value is not given, the guide lacks it, and no other site
            depends on it; "observed", if the value of every datum is given; "partly", if only some data
            have a given value, which no single run shows; "factor", if the node is not a variable but
            multiplies the density: a `pyro.factor`, or a second density of the same data.
        distribution: the class of the distribution; empty for arguments and `pyro.factor`.
        plates: the names of the plates around the node, outermost first.
        origin: "model" for a site of the model, "guide" for a site that only the guide has, "argument" for
            an argument that is not the value of a site in the model.
    """

    name: str
    status: Literal["latent", "predicted", "observed", "partly", "factor"]
    distribution: str
    plates: tuple[str, ...] = ()
    origin: Literal["model", "guide", "argument"] = "model"

    @property
    def observed(self) -> bool:
        """Whether the value of every datum is given."""
        return self.status == "observed"


@dataclass(frozen=True)
class PlateDiagram:
    """The plate diagram of a model, and of its guide if it has one.

    Attributes:
        nodes: the nodes by name, in the order in which the programs reach them.
        plates: the size of each plate by name. In a merged diagram whose runs are about different data, the
            size is the sum over the runs.
        generative_edges: pairs (parent, child) of the model.
        inference_edges: pairs (parent, child) of the guide.
        has_guide: whether the diagram shows a guide, even one without edges.
        factor_edges: pairs (variable or argument, factor). A factor has no parents.
        runs: the diagrams that this one was merged from; empty if it was not merged.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyrovae import plate_diagram
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> print(plate_diagram(model, torch.zeros(3)))
        plate data (N = 3): z, x
        latent z ~ Normal
        observed x ~ Normal
        p: z -> x
    """

    nodes: dict[str, Node]
    plates: dict[str, int]
    generative_edges: frozenset[Edge]
    inference_edges: frozenset[Edge]
    has_guide: bool = False
    factor_edges: frozenset[Edge] = frozenset()
    runs: tuple[PlateDiagram, ...] = ()

    # Drawings and texts

    def draw(self, ax: Axes | None = None) -> Figure:
        """Draw the diagram with matplotlib, without pyplot.

        Args:
            ax: the axes to draw in; by default those of a new figure of the right size.

        Returns:
            The figure.
        """
        from pyrovae.diagrams.drawing import draw  # matplotlib is slow to import

        return draw(self, ax)

    def to_dot(self) -> str:
        """Return the diagram as a Graphviz graph. Plates are clusters, inference edges are dashed."""
        from pyrovae.diagrams.dot import to_dot

        return to_dot(self)

    def to_tikz(self) -> str:
        """Return the diagram as a complete LaTeX document, class `standalone`, with plain TikZ."""
        from pyrovae.diagrams.tikz import to_tikz

        return to_tikz(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the diagram to a file, in the format of its suffix.

        Args:
            path: a file that ends in .png, .svg, .pdf, .dot or .tex, in a folder that exists. It appears
                whole or not at all.

        Raises:
            InputError: the suffix is none of these, or the folder does not exist.
        """
        from pyrovae.diagrams.saving import save

        save(self, path)

    def _repr_svg_(self) -> str:
        """Return the drawing that a notebook shows."""
        from pyrovae.canvas import content_of

        return content_of(self.draw(), "svg", bbox_inches=None).decode()

    def __str__(self) -> str:
        lines = [
            f"plate {name} (N = {' and '.join(self.sizes(name))}): {', '.join(self.members(name))}"
            for name in self.plates
        ]
        for node in self.nodes.values():
            drawn = f" ~ {node.distribution}" if node.distribution else ""
            note = {"guide": " (guide only)", "argument": " (argument)"}.get(node.origin, "")
            status = "partly observed" if node.status == "partly" else node.status
            lines.append(f"{status} {node.name}{drawn}{note}")
        lines += [f"p: {parent} -> {child}" for parent, child in self.in_order(self.generative_edges)]
        lines += [f"{factor} -- {end} (factor)" for end, factor in self.in_order(self.factor_edges)]
        lines += [
            f"q: {parent} -> {child} (dashed)" for parent, child in self.in_order(self.inference_edges)
        ]
        return "\n".join(lines)

    # Questions about the graph

    def members(self, plate: str) -> tuple[str, ...]:
        """Return the names of the nodes inside a plate, including those in plates nested in it."""
        return tuple(node.name for node in self.nodes.values() if plate in node.plates)

    def in_order(self, edges: frozenset[Edge]) -> list[Edge]:
        """Sort edges by the places of their two ends among the nodes."""
        order = list(self.nodes)
        return sorted(edges, key=lambda edge: (order.index(edge[0]), order.index(edge[1])))

    def plate_rank(self, plate: str) -> tuple[int, int]:
        """Return a key for the nesting order: plates with more nodes come first, then as in `plates`."""
        return -len(self.members(plate)), list(self.plates).index(plate)

    def plates_around(self, name: str) -> list[str]:
        """Return the plates around a node by rank: they nest in one order, whatever the program's order."""
        return sorted(self.nodes[name].plates, key=self.plate_rank)

    def plates_inside(self, plate: str, among: Iterable[str]) -> list[str]:
        """Return those of the plates `among` whose nodes all lie in `plate`."""
        members = set(self.members(plate))
        return [inner for inner in among if set(self.members(inner)) <= members]

    def split_by_plate(self, names: list[str], depth: int) -> tuple[list[str], dict[str, list[str]]]:
        """Sort nodes by the next plate around them.

        Args:
            names: nodes that share their `depth` outermost plates.
            depth: the number of these plates.

        Returns:
            The nodes in no further plate, and the others by their next plate.
        """
        inner: dict[str, list[str]] = {}
        for name in names:
            for plate in self.plates_around(name)[depth : depth + 1]:
                inner.setdefault(plate, []).append(name)
        return [name for name in names if len(self.nodes[name].plates) <= depth], inner

    # Sizes of plates

    def sizes(self, plate: str) -> list[str]:
        """Return the size of a plate in words.

        Where runs on different data were merged, there is a size for each run. It names the nodes that this
        run has and others lack. For M2 on labelled and unlabelled data:
        `["100 with y", "59,900 without y"]`.
        """
        sizes = self.run_sizes(plate)
        if len(sizes) == 1:
            return [f"{sizes[0]:,}"]
        runs = self._runs_with(plate)
        differing = [name for name in self.members(plate) if _differ(runs, name)]
        most = {name: max(_presence(run, name) for run in runs) for name in differing}
        words = []
        for run, size in zip(runs, sizes, strict=True):
            has = ", ".join(name for name in differing if _presence(run, name) == most[name])
            lacks = ", ".join(differing)
            words.append(f"{size:,}" + (f" with {has}" if has else f" without {lacks}" if lacks else ""))
        return words

    def run_sizes(self, plate: str) -> list[int]:
        """Return the size of a plate in each run that has it; only one if the runs may share their data."""
        if not self.runs:
            return [self.plates[plate]]
        runs = self._runs_with(plate)
        innermost = [name for name in self.members(plate) if self.plates_around(name)[-1] == plate]
        sizes = [run.plates[plate] for run in runs]
        if len(set(sizes)) == 1 and not any(_differ(runs, name) for name in innermost):
            return sizes[:1]
        return sizes

    def _runs_with(self, plate: str) -> list[PlateDiagram]:
        return [run for run in self.runs if plate in run.plates]


def _differ(runs: list[PlateDiagram], name: str) -> bool:
    return len({_presence(run, name) for run in runs}) > 1


def _presence(run: PlateDiagram, name: str) -> int:
    """Return 0 if the run lacks the node, 1 if it has no value there, 2 if it is a value or a factor."""
    if name not in run.nodes:
        return 0
    return 1 if run.nodes[name].status in ("latent", "predicted") else 2
