from .given import Whole as Whole
from .pair import ModelAndGuide as ModelAndGuide
from .pair import Pair as Pair
from .pair import Program as Program
from .parameters import program as program
from .structure import Structure as Structure
from .structure import structure as structure
