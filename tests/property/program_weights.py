"""Weights and data of random programs. Guides are near the best of their family, by moments, then moved."""

from __future__ import annotations

import math

import torch
from exact_answers import Network, Node, effective, indices, posterior
from program_description import Program, Site
from torch import Tensor


def weights_and_data(program: Program) -> tuple[dict[str, Tensor], Tensor]:
    """Make the weights of both programs and the data `(B, columns)`, in 64-bit, from the program's seed.

    The names are those of the parameters in the generated code. `p_z_bias` and `p_z_scale` are tables with
    a row for each class of z's parents in the model, `p_z_a` is the matrix for the parent a. The guide's
    names begin with `q_`.
    """
    generator = torch.Generator().manual_seed(program.seed)
    weights: dict[str, Tensor] = {}
    for site in program.sites:
        weights |= _of_model(program, site, generator)
    for site in program.sites:
        if site.treatment == "point":
            weights[f"q_{site.name}_bias"] = _uniform(generator, -1.0, 1.0, site.size)
    x = _draw_data(program, weights, generator)
    for site in program.guide_order:
        if site.treatment != "point":
            weights |= _of_guide(program, site, weights, x, generator)
    return weights, x


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    drawn = torch.rand(shape, generator=generator, dtype=torch.double) * (high - low) + low
    return (drawn * 100).round() / 100


def _tables(program: Program, names: tuple[str, ...]) -> list[int]:
    return [program[name].size for name in names if not program[name].is_normal]


def _of_model(program: Program, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
    rows, key = _tables(program, site.parents), f"p_{site.name}"
    made = {f"{key}_bias": _uniform(generator, -1.2, 1.2, *rows, site.size)}
    if site.is_normal:
        made[f"{key}_scale"] = _uniform(generator, -0.5, 0.3, *rows, site.size)
        for name in site.parents:
            if program[name].is_normal:
                made[f"{key}_{name}"] = _uniform(generator, -1.2, 1.2, site.size, program[name].size)
    return made


def _draw_data(program: Program, weights: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Draw data from the model, site by site; globals at a point have their value."""
    num_data = program.num_data
    net = Network(program, weights, None)
    codes: dict[Node, Tensor] = {}
    values: dict[Node, Tensor] = {}
    columns = []
    for site in net.model_sites:
        for node in net.nodes(site):
            count = 1 if site.is_global else num_data
            if site.treatment == "point":
                values[node] = weights[f"q_{site.name}_bias"].reshape(1, -1)
            elif site.is_normal:
                mean, scale = net.normal("p", node, codes, values)
                noise = torch.randn(count, site.size, generator=generator, dtype=torch.double)
                values[node] = ((mean + scale.exp() * noise) * 100).round() / 100
            else:
                logits = net.logits("p", node, codes, values)
                probs = logits.exp().broadcast_to(count, site.size)
                codes[node] = torch.multinomial(probs, 1, generator=generator).squeeze(-1)
            if site.role == "observed":
                columns.append(values[node] if site.is_normal else codes[node].double().unsqueeze(-1))
    return torch.cat(columns, -1)


def _of_guide(
    program: Program, site: Site, weights: dict[str, Tensor], x: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    rows, key = _tables(program, site.guide_parents), f"q_{site.name}"
    linear = [name for name in site.guide_parents if program[name].is_normal]
    if not site.is_normal:
        made = {f"{key}_bias": _uniform(generator, -1.0, 1.0, *rows, site.size)}
        for name in linear:
            made[f"{key}_{name}"] = _uniform(generator, -0.5, 0.5, site.size, program[name].size)
        return made
    slopes, bias, scale = _best(program, site, weights, x)
    made = {f"{key}_{name}": slope for name, slope in slopes.items()}
    made |= {f"{key}_bias": bias, f"{key}_scale": scale}
    if program.exact_guide:
        return made
    for name in linear:
        made[f"{key}_{name}"] = made[f"{key}_{name}"] + _uniform(
            generator, -0.1, 0.1, *made[f"{key}_{name}"].shape
        )
    made[f"{key}_bias"] = bias + scale.exp() * _uniform(generator, -0.4, 0.4, *bias.shape)
    made[f"{key}_scale"] = scale + _uniform(generator, 0.1, 0.5, *scale.shape)
    return {name: (value * 1000).round() / 1000 for name, value in made.items()}


def _best(
    program: Program, site: Site, weights: dict[str, Tensor], x: Tensor
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Slopes, biases and log scales of the model's own regression of a latent on its parents in the guide.

    A drawn global latent has no data among its parents: its mean and scale are the posterior's.
    """
    if site.is_global:
        exact = posterior(program, weights, x, joint=True)
        node = Node(site.name)
        rows = _tables(program, site.guide_parents)
        shape = (*rows, site.size)
        linear = [name for name in site.guide_parents if program[name].is_normal]
        flat = {n: torch.zeros(site.size, program[n].size, dtype=torch.double) for n in linear}
        scale = exact.variances[node][0].log() / 2
        return flat, exact.means[node][0].expand(shape), scale.expand(shape)
    return _regression(program, site, weights)


def _regression(
    program: Program, site: Site, weights: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    net = Network(program, weights, None)
    free = net.classes(net.model_sites)
    codes = net.configurations(free)
    normals = [node for s in net.model_sites if s.is_normal for node in net.nodes(s)]
    lower, bias, scale, columns = net.system("p", normals, codes)
    inverse = torch.linalg.inv(lower)
    half = inverse * scale.exp().unsqueeze(-2)
    log_share = net.log_classes("p", free, codes)
    mean = (bias @ inverse.T).broadcast_to(*log_share.shape, -1)[0]  # (R, D)
    covariance = (half @ half.mT).broadcast_to(*log_share.shape, len(lower), -1)[0]
    node = net.nodes(site)[0]
    own = indices(columns, [node])
    linear = [name for name in site.guide_parents if program[name].is_normal]
    averages = {name: _averaging(net, node, name, columns, len(lower)) for name in linear}
    rows = _tables(program, site.guide_parents)
    classes = [net.parents(node, n)[0] for n in site.guide_parents if not program[n].is_normal]
    groups = _groups(codes, classes, rows)  # the row of the guide's table for each configuration, (R,)
    within, means = _moments_by_row(mean, covariance, log_share[0].exp(), groups, rows)
    regressors = (
        torch.cat([averages[name] for name in linear]) if linear else lower.new_zeros(0, len(lower))
    )
    pooled = torch.stack(within).mean(0)
    inner = regressors @ pooled @ regressors.T
    slope = (torch.linalg.pinv(inner) @ regressors @ pooled[:, own]).T
    sizes = [program[name].size for name in linear]
    raw = dict(zip(linear, slope.split(sizes, 1) if linear else (), strict=True))
    raw = {n: s.flip(1) if site.guide_network == "flip" else s for n, s in raw.items()}
    used = torch.cat([effective(raw[n], site.guide_network) for n in linear], 1) if linear else slope
    residual = _rows(own, len(lower)) - used @ regressors
    table = torch.stack([residual @ average for average in means])
    spread = torch.stack([(residual @ v @ residual.T).diagonal() for v in within]).log() / 2
    shape = (*rows, site.size)
    return raw, table.reshape(shape), spread.reshape(shape)


def _moments_by_row(
    mean: Tensor, covariance: Tensor, share: Tensor, groups: Tensor, rows: list[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """The covariance and the mean of all normals for each row of the guide's table."""
    within, means = [], []
    for row in range(math.prod(rows)):
        weight = share * (groups == row)
        weight = weight / weight.sum()
        average = weight @ mean
        outer = (mean - average).unsqueeze(-1) * (mean - average).unsqueeze(-2)
        within.append((weight[:, None, None] * (covariance + outer)).sum(0))
        means.append(average)
    return within, means


def _rows(indices: list[int], size: int) -> Tensor:
    return torch.eye(size, dtype=torch.double)[indices]


def _averaging(net: Network, node: Node, name: str, columns: dict[Node, slice], size: int) -> Tensor:
    """The matrix that takes the mean over a parent's nodes out of the vector of all normals."""
    parents = net.parents(node, name)
    return torch.stack([_rows(indices(columns, [parent]), size) for parent in parents]).mean(0)


def _groups(codes: dict[Node, Tensor], classes: list[Node], rows: list[int]) -> Tensor:
    group = torch.zeros_like(next(iter(codes.values()))[0]) if codes else torch.zeros(1, dtype=torch.long)
    for node, size in zip(classes, rows, strict=True):
        group = group * size + codes[node][0]
    return group
