from .pair import ModelAndGuide as ModelAndGuide
from .pair import Pair as Pair
from .pair import Program as Program
from .parameters import program as program
from .rows import Whole as Whole
from .structure import Structure as Structure
from .structure import structure as structure
