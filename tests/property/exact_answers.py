"""Exact answers for random programs: classes are enumerated, normals integrated by linear algebra.

All plates of a program are unrolled into nodes. Given the classes, the normals of the model obey
`L v = b + s * noise` with one triangular matrix L, and so do the guide's latents given the data. Unless the
data are tied by a global latent, each datum has a network of its own: data are then the first dimension of
every tensor, and configurations of classes the second.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from program_description import DATA, Program, Site
from torch import Tensor

Weights = Mapping[str, Tensor]
LOG_2PI = math.log(2 * math.pi)


class Node(NamedTuple):
    """A site at one member of each of its plates."""

    name: str
    at: tuple[tuple[str, int], ...] = ()


def effective(weight: Tensor, network: str) -> Tensor:
    """The matrix that a network multiplies its input by, `(out, in)`."""
    if network == "flip":
        return weight.flip(1)
    if network == "centre":
        return weight - weight.mean(1, keepdim=True)
    return weight


def pieces(program: Program) -> dict[str, slice]:
    """The columns of the data that each observed site takes."""
    columns, start = {}, 0
    for site in program.observed:
        width = math.prod(program.sizes(site).values()) * (site.size if site.is_normal else 1)
        columns[site.name] = slice(start, start + width)
        start += width
    return columns


class Network:
    """The network of a program whose plates are unrolled.

    Args:
        program: the program.
        weights: its weights (`program_weights`).
        x: the data `(B, columns)`; None leaves the observed sites open, for moments of the model.
        joint: whether all data make one network.
    """

    def __init__(self, program: Program, weights: Weights, x: Tensor | None, joint: bool = False) -> None:
        self.program, self.weights, self.joint = program, weights, joint
        self.num_data = len(x) if x is not None and joint else None
        self.known: dict[Node, Tensor] = {} if x is None else self._observed(x)  # (B, 1[, d])
        self.model_sites = [site for site in program.sites if site.role != "left_out"]
        if x is not None:
            self.known |= {
                Node(site.name): weights[f"q_{site.name}_bias"].reshape(1, 1, -1)
                for site in program.sites
                if site.treatment == "point"
            }

    def nodes(self, site: Site) -> list[Node]:
        sizes = self.program.sizes(site, self.num_data)
        ranges = [[(name, member) for member in range(size)] for name, size in sizes.items()]
        return [Node(site.name, at) for at in itertools.product(*ranges)]

    def parents(self, node: Node, parent: str) -> list[Node]:
        """The nodes of a parent that share the members of all common plates."""
        members = dict(node.at)
        return [n for n in self.nodes(self.program[parent]) if all(members.get(p, m) == m for p, m in n.at)]

    def _observed(self, x: Tensor) -> dict[Node, Tensor]:
        values = {}
        for site in self.program.observed:
            sizes = self.program.sizes(site)
            piece = x[:, pieces(self.program)[site.name]].reshape(len(x), *sizes.values(), -1)
            for node in self.nodes(site):
                members = [member for name, member in node.at if name != DATA]
                datum = (
                    slice(None) if not self.joint else slice(dict(node.at)[DATA], dict(node.at)[DATA] + 1)
                )
                value = piece[(datum, *members)].unsqueeze(1)
                values[node] = value if site.is_normal else value.squeeze(-1).long()
        return values

    # Distributions of single nodes, given the values of their parents

    def _table(self, side: str, what: str, node: Node, codes: Mapping[Node, Tensor]) -> Tensor:
        """The row of a table of weights for the classes of the node's parents."""
        site = self.program[node.name]
        names = site.parents if side == "p" else site.guide_parents
        classes = [self.parents(node, n)[0] for n in names if not self.program[n].is_normal]
        table = self.weights[f"{side}_{site.name}_{what}"]
        return table[tuple(codes[parent] for parent in classes)] if classes else table

    def slopes(self, side: str, node: Node) -> list[tuple[Node, Tensor]]:
        """The nodes whose values enter a node's distribution linearly, and their matrices."""
        site = self.program[node.name]
        names, network = (
            (site.parents, site.network) if side == "p" else (site.guide_parents, site.guide_network)
        )
        found = []
        for name in names:
            if self.program[name].is_normal:
                nodes = self.parents(node, name)
                matrix = effective(self.weights[f"{side}_{site.name}_{name}"], network) / len(nodes)
                found += [(parent, matrix) for parent in nodes]
        return found

    def logits(
        self, side: str, node: Node, codes: Mapping[Node, Tensor], values: Mapping[Node, Tensor]
    ) -> Tensor:
        """Log probabilities of a class, `(..., C)`."""
        bias = self._table(side, "bias", node, codes)
        slopes = self.slopes(side, node)
        if slopes:
            bias = bias + 2 * sum(values[parent] @ matrix.T for parent, matrix in slopes).tanh()
        return bias.log_softmax(-1)

    def normal(
        self, side: str, node: Node, codes: Mapping[Node, Tensor], values: Mapping[Node, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of a normal, `(..., d)`."""
        mean = self._table(side, "bias", node, codes)
        for parent, matrix in self.slopes(side, node):
            mean = mean + values[parent] @ matrix.T
        return mean, self._table(side, "scale", node, codes)

    # All nodes at once, given the classes

    def classes(self, of: Iterable[Site]) -> list[Node]:
        return [node for site in of if not site.is_normal for node in self.nodes(site)]

    def drawn_normals(self) -> list[Node]:
        """The normals that the guide draws, in its order."""
        sites = [s for s in self.program.guide_order if s.is_normal and s.treatment != "point"]
        return [node for site in sites for node in self.nodes(site)]

    def configurations(self, free: list[Node]) -> dict[Node, Tensor]:
        """The free nodes' classes in all configurations, `(1, R)`, and the known ones, `(B, 1)`."""
        sizes = [range(self.program[node.name].size) for node in free]
        table = torch.tensor(list(itertools.product(*sizes)), dtype=torch.long)
        codes = {node: table[None, :, column] for column, node in enumerate(free)}
        known = {n: v for n, v in self.known.items() if not self.program[n.name].is_normal}
        return codes | known

    def log_classes(self, side: str, nodes: Iterable[Node], codes: Mapping[Node, Tensor]) -> Tensor:
        """The log probability of the classes of these nodes, `(B, R)`."""
        total = torch.zeros(1, 1, dtype=torch.double)
        for node in nodes:
            logits = self.logits(side, node, codes, self.known)
            index = codes[node].broadcast_to(torch.broadcast_shapes(codes[node].shape, logits.shape[:-1]))
            logits = logits.broadcast_to(*index.shape, logits.shape[-1])
            total = total + logits.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        return total

    def system(
        self, side: str, nodes: list[Node], codes: Mapping[Node, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, dict[Node, slice]]:
        """L `(D, D)`, b and log s `(B, R, D)`, and the columns of each node, for some normals."""
        columns, start = {}, 0
        for node in nodes:
            columns[node] = slice(start, start + self.program[node.name].size)
            start += self.program[node.name].size
        lower = torch.eye(start, dtype=torch.double)
        bias, scale = [], []
        for node in nodes:
            inside = {parent: m for parent, m in self.slopes(side, node) if parent in columns}
            offset = self._table(side, "bias", node, codes)
            for parent, matrix in self.slopes(side, node):
                if parent not in inside:
                    offset = offset + self.known[parent] @ matrix.T
            update = torch.zeros_like(lower)
            for parent, matrix in inside.items():
                update[columns[node], columns[parent]] = -matrix
            lower = lower + update
            bias.append(offset)
            scale.append(self._table(side, "scale", node, codes))
        return lower, _joined(bias), _joined(scale), columns


def _joined(parts: list[Tensor]) -> Tensor:
    """Join vectors of the nodes, `(d,)` or `(B, R, d)`, into `(B, R, D)`."""
    if not parts:
        return torch.zeros(1, 1, 0, dtype=torch.double)
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts), (1, 1))
    return torch.cat([part.broadcast_to(*shape, part.shape[-1]) for part in parts], -1)


class Posterior(NamedTuple):
    """The exact answers of the model.

    Attributes:
        log_px: the log evidence, `(B,)`; of all data, `(1,)`, in a joint network.
        means: the posterior mean of each latent normal by node, `(B, d)`, and each latent class's
            probabilities, `(B, C)`.
        variances: the posterior variances of the normals, `(B, d)`.
        covariances: the covariance of all latent normals for each configuration, `(B, R, D, D)`.
    """

    log_px: Tensor
    means: dict[Node, Tensor]
    variances: dict[Node, Tensor]
    covariances: Tensor


def posterior(program: Program, weights: Weights, x: Tensor, joint: bool) -> Posterior:
    """The evidence and the posterior by Bayes's rule. Globals at a point are given."""
    net = Network(program, weights, x, joint)
    free = net.classes(site for site in net.model_sites if site.role in ("latent", "summed"))
    observed = net.classes(program.observed)
    codes = net.configurations(free)
    normals = [node for site in net.model_sites if site.is_normal for node in net.nodes(site)]
    lower, bias, scale, columns = net.system("p", normals, codes)
    unknown = [node for node in normals if node not in net.known]
    hidden = indices(columns, unknown)
    given = indices(columns, [node for node in normals if node in net.known])
    points = indices(columns, [n for n in normals if program[n.name].treatment == "point"])
    inverse = torch.linalg.inv(lower)
    mean = bias @ inverse.T
    half = inverse * scale.exp().unsqueeze(-2)
    covariance = half @ half.mT
    values = _joined([net.known[n] for n in normals if n in net.known])
    density = _log_normal(values, mean[..., given], _block(covariance, given, given))
    if points:
        at = _joined([net.known[n] for n in normals if program[n.name].treatment == "point"])
        density = density - _log_normal(at, mean[..., points], _block(covariance, points, points))
    log_joint = net.log_classes("p", [*free, *observed], codes) + density
    log_px = log_joint.logsumexp(-1)
    shares = (log_joint - log_px.unsqueeze(-1)).exp()
    gain = torch.linalg.solve(_block(covariance, given, given), _block(covariance, given, hidden)).mT
    residual = (values - mean[..., given]).unsqueeze(-1)
    means = mean[..., hidden] + (gain @ residual).squeeze(-1)
    covariances = _block(covariance, hidden, hidden) - gain @ _block(covariance, given, hidden)
    average = (shares.unsqueeze(-1) * means).sum(1)
    second = (shares.unsqueeze(-1) * (covariances.diagonal(dim1=-2, dim2=-1) + means.square())).sum(1)
    found, spread, start = {}, {}, 0
    for node in unknown:
        size = program[node.name].size
        found[node] = average[..., start : start + size]
        spread[node] = (second - average.square())[..., start : start + size]
        start += size
    for node in free:
        hot = torch.nn.functional.one_hot(codes[node], program[node.name].size)
        found[node] = (shares.unsqueeze(-1) * hot).sum(1)
    return Posterior(log_px, found, spread, covariances)


def elbo(program: Program, weights: Weights, x: Tensor) -> Tensor:
    """The ELBO of each datum in closed form, `(B,)`; of all data, `(1,)`, in a joint network.

    Globals at a point are given: their own density is `log_prior_of_points`.

    Raises:
        ValueError: the model has classes of its own, so that there is no closed form.
    """
    if any(site.role == "summed" for site in program.sites):
        raise ValueError("no closed form")
    net = Network(program, weights, x, program.is_joint)
    free = net.classes(program.guide_order)
    codes = net.configurations(free)
    log_q = net.log_classes("q", free, codes)
    drawn = net.drawn_normals()
    lower, bias, scale, place = net.system("q", drawn, codes)
    inverse = torch.linalg.inv(lower)
    mean, half = bias @ inverse.T, inverse * scale.exp().unsqueeze(-2)
    normals = [node for site in net.model_sites if site.is_normal for node in net.nodes(site)]
    model, offset, model_scale, columns = net.system("p", normals, codes)
    scored = indices(columns, [n for n in normals if program[n.name].treatment != "point"])
    batch = 1 if net.joint else len(x)
    shape = torch.broadcast_shapes(mean.shape[:-1], offset.shape[:-1], log_q.shape, (batch, 1))
    values = [mean[..., place[n]] if n in place else net.known[n] for n in normals]
    values = [value.broadcast_to(*shape, value.shape[-1]) for value in values]
    noise = ((_joined(values) @ model.T - offset) / model_scale.exp())[..., scored]
    slopes = (model[:, indices(columns, drawn)] / model_scale.exp().unsqueeze(-1))[..., scored, :]
    energy = noise.square().sum(-1) + (slopes @ half).square().sum((-2, -1))
    log_p = -0.5 * (energy + len(scored) * LOG_2PI) - model_scale[..., scored].sum(-1)
    log_p = log_p + net.log_classes("p", [*free, *net.classes(program.observed)], codes)
    entropy = scale.sum(-1) + 0.5 * mean.shape[-1] * (1 + LOG_2PI)
    return (log_q.exp() * (log_p - log_q + entropy)).sum(-1).expand(batch)


def log_prior_of_points(program: Program, weights: Weights) -> Tensor:
    """The log density of the global latents at their points, `()`."""
    total = torch.zeros((), dtype=torch.double)
    for site in program.sites:
        if site.treatment == "point":
            name = f"p_{site.name}"
            noise = (weights[f"q_{site.name}_bias"] - weights[f"{name}_bias"]) / weights[
                f"{name}_scale"
            ].exp()
            total = total - (0.5 * noise.square() + weights[f"{name}_scale"] + 0.5 * LOG_2PI).sum()
    return total


def guide_means(program: Program, weights: Weights, x: Tensor) -> dict[str, Tensor]:
    """The guide's mean of each local normal that is drawn, `(B, d)`, by site."""
    net = Network(program, weights, x)
    free = net.classes(program.guide_order)
    codes = net.configurations(free)
    shares = net.log_classes("q", free, codes).exp().unsqueeze(-1)
    drawn = net.drawn_normals()
    lower, bias, _, columns = net.system("q", drawn, codes)
    mean = (shares * (bias @ torch.linalg.inv(lower).T)).sum(1)
    return {
        node.name: mean[:, columns[node]].expand(len(x), -1)
        for node in drawn
        if not node.at and not program[node.name].is_global
    }


def mean_field_gap(program: Program, weights: Weights, x: Tensor) -> Tensor | None:
    """The approximation gap of a guide of independent normals, `(B,)`; None with latent classes."""
    if any(not site.is_normal for site in program.sites if site.role in ("latent", "summed")):
        return None
    covariance = posterior(program, weights, x, joint=False).covariances[:, 0]
    precision = torch.linalg.inv(covariance)
    logs = precision.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (0.5 * (logs - torch.logdet(precision))).expand(len(x))


def indices(columns: Mapping[Node, slice], nodes: Iterable[Node]) -> list[int]:
    return [i for node in nodes for i in range(columns[node].start, columns[node].stop)]


def _block(matrix: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    return matrix[..., rows, :][..., columns]


def _log_normal(value: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(covariance)
    noise = torch.linalg.solve_triangular(factor, (value - mean).unsqueeze(-1), upper=False).squeeze(-1)
    logs = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * LOG_2PI) - logs
