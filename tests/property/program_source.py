"""Random programs as Pyro programs: their source, which is what runs and what is printed of a failure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from exact_answers import pieces
from program_description import DATA, PLAIN, Program, Site
from torch import Tensor, nn

HEADER = """\
import torch
import torch.nn.functional as F
import pyro
import pyro.distributions as dist
from torch import nn, tensor
"""

# Each takes a value `v` with n dimensions before its last, and the matrix that it is multiplied by.
NETWORKS = {
    PLAIN: "def plain(v, n, w):\n    return v @ w.T\n",
    "view": "def view(v, n, w):\n    return v.view(*v.shape[:n], -1) @ w.T\n",
    "flip": "def flip(v, n, w):\n    return v.flip(n) @ w.T\n",
    "centre": "def centre(v, n, w):\n    return (v - v.mean(n, keepdim=True)) @ w.T\n",
    "unflatten": ("def unflatten(v, n, w):\n    return v.unflatten(n, (1, w.shape[1])).squeeze(n) @ w.T\n"),
    "conv": (
        "def conv(v, n, w):\n"
        "    if n == 0:\n"
        "        return F.conv1d(v.unsqueeze(0), w.unsqueeze(1)).squeeze(-1)\n"
        "    rows = v.flatten(0, n - 1).unsqueeze(1)\n"
        "    return F.conv1d(rows, w.unsqueeze(1)).squeeze(-1).unflatten(0, v.shape[:n])\n"
    ),
}


def pair_of(program: Program, weights: Mapping[str, Tensor]) -> Any:
    """Return a module with the program's model and guide as methods, in 64-bit."""
    code = source(program)
    space: dict[str, Any] = {}
    exec(compiled(code), space)
    pair = space["RandomProgram"]()
    for name, value in weights.items():
        pair.w[name] = nn.Parameter(value.clone())
    for site in program.sites:
        if program.is_without_effect(site):  # no gradient reaches its weights
            for name, parameter in pair.w.items():
                if name.startswith(f"p_{site.name}_"):
                    parameter.requires_grad_(False)
    return pair


@functools.lru_cache(256)
def compiled(code: str) -> Any:
    return compile(code, "<random program>", "exec")


def script(program: Program, weights: Mapping[str, Tensor], x: Tensor) -> str:
    """Return a script that makes the pair and the data, complete with weights."""
    lines = [source(program), "pair = RandomProgram()"]
    lines += [f"pair.w[{n!r}] = nn.Parameter(tensor({v.tolist()}).double())" for n, v in weights.items()]
    return "\n".join([*lines, f"x = tensor({x.tolist()}).double()"])


def source(program: Program) -> str:
    """Return the source of a class with `model(x)` and `guide(x)`."""
    used = {site.network for site in program.sites} | {site.guide_network for site in program.sites}
    helpers = [text for name, text in NETWORKS.items() if name in used or name == PLAIN]
    model, guide = _statements(program, program.sites, "p"), _statements(program, program.guide_order, "q")
    plates = [f'data = pyro.plate("{DATA}", len(x), dim={program.data_dim})'] + [
        f'{plate.name} = pyro.plate("{plate.name}", {plate.size}, dim={plate.dim})'
        for plate in program.plates
    ]
    inputs = [f"{site.name} = {_piece(program, site)}" for site in program.observed]
    body = ["class RandomProgram(nn.Module):"]
    if program.named:
        body += [f'    data_plate = "{DATA}"', ""]
    body += [
        "    def __init__(self):",
        "        super().__init__()",
        "        self.w = nn.ParameterDict()",
        "",
    ]
    for name, lines in (("model", model), ("guide", guide)):
        body += [f"    def {name}(self, x):", "        w = self.w"]
        body += [f"        {line}" for line in [*plates, *inputs, *lines]] + [""]
    return "\n".join([HEADER, *helpers, *body])


def depth(program: Program, site: Site) -> int:
    """The number of dimensions before the event's: those of the site's plates and the ones between."""
    return max((-dim for dim in program.dims(site).values()), default=0)


def _piece(program: Program, site: Site) -> str:
    columns = pieces(program)[site.name]
    sizes = {dim: program.sizes(site)[name] for name, dim in program.dims(site).items() if name != DATA}
    n = depth(program, site)
    shape = [sizes.get(dim, 1) for dim in range(-n, 0) if dim != program.data_dim]
    event = [site.size] if site.is_normal and not site.scalar else []
    text = (
        f"x[:, {columns.start}:{columns.stop}].reshape({', '.join(map(str, ['len(x)', *shape, *event]))})"
    )
    if n + program.data_dim:
        text += f".movedim(0, {n + program.data_dim})"
    return text if site.is_normal else text + ".long()"


def _input(program: Program, child: Site, name: str, network: str) -> tuple[str, int]:
    """The value of a normal parent with a last dimension, and the number of dimensions before it.

    Observed values of members of plates that the child does not have enter by their mean.
    """
    parent = program[name]
    n, text = depth(program, parent), name
    extra = [dim for plate, dim in program.dims(parent).items() if plate not in child.plates]
    if extra:
        positions = tuple(sorted(n + dim for dim in extra))
        text += f".mean({positions}, keepdim=True)"
        kept = max((-d for p, d in program.dims(parent).items() if p in child.plates), default=0)
        text += "[0]" * (n - kept)
        n = kept
    if parent.scalar:
        text += ".unsqueeze(-1)" if network == PLAIN else f".unsqueeze({n})"
    return text, n


def _statements(program: Program, sites: Sequence[Site], side: str) -> list[str]:
    """The lines of all sites; the steps of a chain are entered and left as a loop would do it."""
    lines: list[str] = []
    step: int | None = None
    for site in sites:
        if site.step != step:
            if step is None:
                count = len({s.step for s in sites if s.step is not None})
                lines.append(f"steps = iter(pyro.markov(range({count})))")
            lines.append("next(steps, None)")
            step = site.step
        lines += _statement(program, site, side)
    return [*lines, "next(steps, None)"] if step is not None else lines


def _statement(program: Program, site: Site, side: str) -> list[str]:
    key = f"{side}_{site.name}"
    parents, network = (
        (site.parents, site.network) if side == "p" else (site.guide_parents, site.guide_network)
    )
    classes = [name for name in parents if not program[name].is_normal]
    normals = [name for name in parents if program[name].is_normal]
    index = f"[{', '.join(classes)}]" if classes else ""
    bias, terms = f'w["{key}_bias"]{index}', []
    if network == "concatenate" and site.is_normal and parents:
        bias = _concatenated(program, site, key, normals, classes)
    else:
        of_input = PLAIN if network in ("concatenate", "softmax") else network
        for name in normals:
            text, n = _input(program, site, name, of_input)
            terms.append(f'{of_input}({text}, {n}, w["{key}_{name}"])')
    if site.is_normal:
        fn = _normal(site, key, " + ".join([bias, *terms]), classes, side)
    else:
        logits = f"{bias} + 2 * ({' + '.join(terms)}).tanh()" if terms else bias
        fn = f"dist.Categorical(logits={logits})"
        if network == "softmax":
            fn = f"dist.Categorical(probs=({logits}).softmax({depth(program, site)}))"
    observing = f", obs={site.name}" if site.role == "observed" else ""
    marked = site.role == "summed" or (side == "q" and site.treatment == "enumerated")
    mark = ', infer={"enumerate": "parallel"}' if marked else ""
    sample = f'{site.name} = pyro.sample("{site.name}", {fn}{observing}{mark})'
    plates = ", ".join(site.plates)
    return [f"with {plates}:", f"    {sample}"] if plates else [sample]


def _normal(site: Site, key: str, mean: str, classes: list[str], side: str) -> str:
    event = "" if site.scalar else ".to_event(1)"
    if side == "q" and site.treatment == "point":
        value = f'w["{key}_bias"]'
        return f"dist.Delta({value}.squeeze(-1))" if site.scalar else f"dist.Delta({value}, event_dim=1)"
    index = f"[{', '.join(classes)}]" if classes else ""
    scale = f'w["{key}_scale"]{index}.exp()'
    if site.scalar:
        mean, scale = f"({mean}).squeeze(-1)", f"{scale}.squeeze(-1)"
    return f"dist.Normal({mean}, {scale}){event}"


def _concatenated(program: Program, site: Site, key: str, normals: list[str], classes: list[str]) -> str:
    """One matrix for all parents side by side, along the dimension after those of the site's own plates."""
    n = depth(program, site)
    sizes = {dim: program.sizes(site).get(name, "len(x)") for name, dim in program.dims(site).items()}
    base = ", ".join(str(sizes.get(dim, 1)) for dim in range(-n, 0))
    base = f"({base},)" if n else "()"
    parts, matrices = [], []
    for name in normals:
        text, _ = _input(program, site, name, "concatenate")
        parts.append(f"{text}.expand(*{base}, -1)")
        matrices.append(f'w["{key}_{name}"]')
    if classes:
        index = classes[0]
        for name in classes[1:]:
            index = f"({index} * {program[name].size} + {name})"
        count = " * ".join(str(program[name].size) for name in classes)
        parts.append(f"F.one_hot({index}, {count}).to(x.dtype).expand(*{base}, -1)")
        matrices.append(f'w["{key}_bias"].reshape({count}, -1).T')
    product = f"torch.cat([{', '.join(parts)}], {n}) @ torch.cat([{', '.join(matrices)}], 1).T"
    return product if classes else f'w["{key}_bias"] + {product}'
