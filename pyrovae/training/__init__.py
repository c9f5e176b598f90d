"""Training: `fit`, and the parts of which its loop is made. Names are imported when they are used."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from pyrovae.training.callbacks import Callback as Callback
    from pyrovae.training.callbacks import EpochEnd as EpochEnd
    from pyrovae.training.fit import fit as fit
    from pyrovae.training.history import History as History
    from pyrovae.training.loop import TrainingRun as TrainingRun
    from pyrovae.training.settings import Settings as Settings
    from pyrovae.training.settings import adam as adam
    from pyrovae.training.sources import Data as Data
    from pyrovae.training.sources import few as few

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "callbacks": ["Callback", "EpochEnd"],
        "fit": ["fit"],
        "history": ["History"],
        "loop": ["TrainingRun"],
        "settings": ["Settings", "adam"],
        "sources": ["Data", "few"],
    },
)
