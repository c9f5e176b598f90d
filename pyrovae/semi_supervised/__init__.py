"""Learning from few labels: labels and their spreading, M1's classifiers, and the weights of labels.

Names are imported when they are first used. Only spreading and M1's classifiers import scikit-learn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
