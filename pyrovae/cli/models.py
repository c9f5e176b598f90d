"""The commands models and plates, which list the models and print plate diagrams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pyrovae.cli.parameters import NONE_OWN, Own
from pyrovae.cli.results import Overwrite, check_replaceable
from pyrovae.errors import one_line
from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.networks.table import NETWORKS
from pyrovae.objectives.table import OBJECTIVES
from pyrovae.posteriors.table import POSTERIORS
from pyrovae.priors.table import PRIORS
from pyrovae.recipes.table import RECIPES

if TYPE_CHECKING:
    from pyrovae.diagrams.diagram import PlateDiagram


def models() -> None:
    """List models, data sets, and the components that models are made of.

    Example: pyrovae models
    """
    from pyrovae.data import DATASETS

    tables = {
        "models": RECIPES,
        "posteriors": POSTERIORS,
        "priors": PRIORS,
        "likelihoods": LIKELIHOODS,
        "networks": NETWORKS,
        "objectives": OBJECTIVES,
    }
    for title, table in tables.items():
        print(f"{title}:")
        for name, row in table.items():
            options = "".join(f" (--{option.replace('_', '-')})" for option in row.options)
            print(f"  {name:<21} {row.summary}{options}")
    print("data sets:")
    for name, data_set in DATASETS.items():
        print(f"  {name:<21} {data_set.summary}")


def plates(
    model: Annotated[str, Parameter(help="A model's name, a recipe as FILE.py:FUNCTION, or a run folder.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The file to draw: .png, .svg, .pdf, .dot or .tex.")] = None,
    overwrite: Overwrite = False,
    own: Own = NONE_OWN,
) -> None:
    """Print a model's plate diagram, which follows from its program. With --out, also draw it.

    Example: pyrovae plates vae --out vae.tex
    """
    from pyrovae.cli.figures import diagram_of
    from pyrovae.diagrams.saving import MARK

    if out is not None:
        check_replaceable(out, [MARK.encode()], overwrite)
    diagram = diagram_of(own.open(Path(model))) if Path(model).is_dir() else _small_diagram(model)
    print(diagram)
    if out is not None:
        save_diagram(diagram, out)


def save_diagram(diagram: PlateDiagram, path: Path) -> None:
    """Draw a plate diagram into a file, and print the file's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    diagram.save(path)
    print(f"written: {one_line(str(path))}")


def _small_diagram(name: str) -> PlateDiagram:
    """Return the diagram of a recipe with its default options, on 8 small images, 3 or all with a class."""
    import torch

    from pyrovae.cli.recipe_commands import check_model
    from pyrovae.diagrams import plate_diagram
    from pyrovae.recipes import About, load_recipe
    from pyrovae.recipes.declaration import declaration_of

    check_model(name, RECIPES)
    recipe = load_recipe(name)
    plan = recipe(About((1, 8, 8), num_classes=2))
    declared = declaration_of(recipe)
    known = torch.tensor([0, 1, 0, *[0 if declared.needs_classes else -1] * 5])
    classes = (known,) if declared.classes else ()
    x, stage = torch.zeros(8, 1, 8, 8), plan.stages[-1]
    given = None if stage.given is None else stage.given(x, known.clamp(min=0))
    return plate_diagram(plan.pair, x, *classes, given=given)
