from .autoregressive import InverseAutoregressive
from .base import BELOW_ONE, START_STRENGTH, Flow, ForwardOnly, near_identity
from .convex_combination import ConvexCombination
from .householder import Householder, householder_transform
from .orthonormal import GramSchmidt, OrthonormalColumns, Reflections, Reversals, gram_schmidt
from .planar import Planar
from .radial import Radial
from .spline import SplineCoupling
from .sylvester import Sylvester
from .triangular import lower_triangle, triangle_cells

__all__ = [
    "BELOW_ONE",
    "START_STRENGTH",
    "ConvexCombination",
    "Flow",
    "ForwardOnly",
    "GramSchmidt",
    "Householder",
    "InverseAutoregressive",
    "OrthonormalColumns",
    "Planar",
    "Radial",
    "Reflections",
    "Reversals",
    "SplineCoupling",
    "Sylvester",
    "gram_schmidt",
    "householder_transform",
    "lower_triangle",
    "near_identity",
    "triangle_cells",
]
