from .diagram import Node as Node
from .diagram import PlateDiagram as PlateDiagram
from .merging import merge_diagrams as merge_diagrams
from .reading import plate_diagram as plate_diagram
from .saving import FORMATS as FORMATS
