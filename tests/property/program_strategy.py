"""Hypothesis's strategy for random programs. It shrinks to few sites, plain networks and no plates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from program_description import DATA, MAPS, PLAIN, Plate, Program, Site

MOST_CONFIGURATIONS = 400
Draw = Any


@st.composite
def programs(draw: Draw, scope: str = "any") -> Program:
    """Generate programs.

    Args:
        draw: given by hypothesis.
        scope: "local", "points" (global latents at a point), "joint" (global latents that are drawn), or
            "any" of them.
    """
    if scope == "any":
        scope = draw(st.sampled_from(["local", "local", "local", "local", "points", "joint"]))
    num_data = draw(st.integers(2, 3 if scope == "joint" else 5))
    data_dim, plates = _plates(draw)
    program = Program((), num_data, plates, data_dim)
    if scope != "local":
        for _ in range(draw(st.integers(1, 2))):
            program = _with(program, _global(draw, program, scope))
    for _ in range(draw(st.sampled_from([0, 1, 2, 2, 3, 3, 4]))):
        program = _with(program, _site(draw, program))
    program = _completed(draw, program)
    if scope == "local" and draw(st.sampled_from([False] * 5 + [True])):
        program = _with_chain(draw, program)
    program = replace(
        program,
        named=draw(st.booleans()),
        reverse_guide=draw(st.booleans()) and not _chain_beside_enumerated(program),
        exact_guide=draw(st.sampled_from([False, False, False, True])),
        seed=draw(st.integers(0, 10_000)),
    )
    return _with_guide(draw, program)


def _plates(draw: Draw) -> tuple[int, tuple[Plate, ...]]:
    count = draw(st.sampled_from([0, 0, 0, 1, 1, 2]))
    dims = list(range(-1 - count, 0))
    data_dim = dims.pop(draw(st.sampled_from([count, *range(count)])))
    sizes = [draw(st.integers(2, 3)) for _ in dims]
    return data_dim, tuple(
        Plate(f"plate{i}", s, d) for i, (s, d) in enumerate(zip(sizes, dims, strict=True))
    )


def _with(program: Program, site: Site | None) -> Program:
    """Add a site, unless the program would have too many configurations of classes."""
    if site is None:
        return program
    larger = replace(program, sites=(*program.sites, site))
    # Observed classes count too: the guide's weights come from the moments of all configurations.
    every = replace(
        larger, sites=tuple(replace(s, role="latent") if s.role == "observed" else s for s in larger.sites)
    )
    joint = any(s.is_global for s in larger.sites)
    few = larger.configurations(joint) <= MOST_CONFIGURATIONS
    return larger if few and every.configurations(False) <= MOST_CONFIGURATIONS else program


def _with_chain(draw: Draw, program: Program) -> Program:
    """Add a hidden Markov chain of enumerated classes with a datum at each step.

    Pyro uses an enumerated dimension again after the chain that it belongs to. So the chain comes last in
    both programs if other sites are enumerated, and is not the guide's if others are the model's alone.
    """
    alone = any(site.role == "summed" for site in program.sites)
    role = "summed" if alone else draw(st.sampled_from(["latent", "summed"]))
    outside = [s for s in program.sites if s.role != "left_out" and s.plates == (DATA,)]
    common = _some(draw, [site.name for site in outside if not site.is_normal])
    of_data = _some(draw, [site.name for site in outside])
    size, last = draw(st.integers(2, 3)), ()
    for step in range(draw(st.integers(2, 3))):
        hidden = Site(
            f"{'y' if role == 'latent' else 'k'}{len(program.sites)}",
            "categorical",
            size,
            role,
            (*common, *last),
            treatment="enumerated" if role == "latent" else "drawn",
            step=step,
        )
        grown = _with(program, hidden)
        if grown is program:
            break
        parents = (*of_data, hidden.name)
        seen = Site(f"x{len(grown.sites)}", "normal", 1, "observed", parents, step=step)
        seen = replace(seen, network=_network(draw, grown, seen, parents))
        program, last = _with(grown, seen), (hidden.name,)
    return program


def _chain_beside_enumerated(program: Program) -> bool:
    return len({site.step is None for site in program.enumerated}) == 2


def _global(draw: Draw, program: Program, scope: str) -> Site:
    before = [site for site in program.globals if scope == "joint"]
    if scope == "joint" and draw(st.sampled_from([False, False, False, True])):
        return Site(
            f"c{len(program.sites)}",
            "categorical",
            2,
            "latent",
            _some(draw, [site.name for site in before if not site.is_normal]),
            (),
            treatment=draw(st.sampled_from(["enumerated", "drawn"])),
        )
    size = draw(st.integers(1, 2))
    return Site(
        f"w{len(program.sites)}",
        "normal",
        size,
        "latent",
        _some(draw, [site.name for site in before]),
        (),
        scalar=size == 1 and draw(st.booleans()),
        treatment="point" if scope == "points" else "drawn",
    )


def _some(draw: Draw, names: list[str]) -> tuple[str, ...]:
    return tuple(name for name in names if draw(st.booleans()))


def _site(draw: Draw, program: Program, role: str | None = None) -> Site:
    inner = [plate.name for plate in program.plates]
    plates = (DATA, *(name for name in inner if draw(st.sampled_from([False, False, True]))))
    role = role or draw(st.sampled_from(["latent", "latent", "latent", "observed", "summed", "left_out"]))
    enumerated = role == "latent" and draw(st.sampled_from([True, True, False]))
    kind = "categorical" if role == "summed" or draw(st.sampled_from([0, 0, 1])) else "normal"
    size = draw(st.integers(2, 3) if kind == "categorical" else st.integers(1, 2))
    letter = {"latent": "z" if kind == "normal" else "y", "observed": "x", "summed": "k", "left_out": "u"}
    able = [
        site.name
        for site in program.sites
        if set(site.plates) <= set(plates)
        and site.role != "left_out"
        and (kind == "normal" or not site.is_normal)
    ]
    site = Site(
        f"{letter[role]}{len(program.sites)}",
        kind,
        size,
        role,
        _some(draw, able),
        plates,
        scalar=kind == "normal" and size == 1 and draw(st.booleans()),
        treatment="enumerated" if kind == "categorical" and enumerated else "drawn",
    )
    return replace(site, network=_network(draw, program, site, site.parents))


def _network(draw: Draw, program: Program, site: Site, parents: tuple[str, ...]) -> str:
    if not draw(st.sampled_from([False, False, True])):
        return PLAIN
    able = [PLAIN, *(MAPS if any(program[name].is_normal for name in parents) else ())]
    if site.is_normal and parents:
        able.append("concatenate")
    if not site.is_normal and any(program[name].plates == site.plates for name in parents):
        able.append("softmax")
    return draw(st.sampled_from(able))


def _completed(draw: Draw, program: Program) -> Program:
    """Add a latent and a datum that depends on it, where there are none."""
    if not any(site.role == "latent" and not site.is_global for site in program.sites):
        latent = _site(draw, program, "latent")
        grown = _with(program, latent)
        program = (
            _with(program, replace(latent, kind="normal", treatment="drawn", parents=()))
            if grown is program
            else grown
        )
    last = _site(draw, program, "observed")
    able = [s for s in program.sites if s.role == "latent" and s.name not in last.parents]
    able = [s for s in able if set(s.plates) <= set(last.plates) and (last.is_normal or not s.is_normal)]
    if not last.parents and able:
        last = replace(last, parents=(able[-1].name,))
    grown = _with(program, last)
    if grown is program:  # a class was too many
        grown = _with(program, replace(last, kind="normal", size=1, scalar=False))
    return grown


def _with_guide(draw: Draw, program: Program) -> Program:
    """Choose what each latent depends on in the guide."""
    mean_field = draw(st.booleans())
    seen: list[Site] = []
    chosen: dict[str, Site] = {}
    for site in program.guide_order:
        earlier = [
            s for s in seen if set(s.plates) <= set(site.plates) and (site.is_normal or not s.is_normal)
        ]
        earlier = [s for s in earlier if s.step is None or _are_neighbours(s, site)]
        latents = () if mean_field else _some(draw, [s.name for s in earlier if s.treatment != "point"])
        data = () if site.is_global else _data_parents(draw, program, site)
        parents = () if site.treatment == "point" else (*latents, *data)
        network = _network(draw, program, site, parents)
        chosen[site.name] = replace(site, guide_parents=parents, guide_network=network)
        seen.append(site)
    return replace(program, sites=tuple(chosen.get(site.name, site) for site in program.sites))


def _are_neighbours(site: Site, other: Site) -> bool:
    return other.step is not None and site.step is not None and abs(site.step - other.step) <= 1


def _data_parents(draw: Draw, program: Program, site: Site) -> tuple[str, ...]:
    """Observed sites; a class only if it lies under no further plate, since a table takes one class."""
    able = [s.name for s in program.observed if s.is_normal or set(s.plates) <= set(site.plates)]
    return tuple(name for name in able if draw(st.sampled_from([True, True, False])))
