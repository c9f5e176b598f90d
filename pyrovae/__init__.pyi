from . import (
    classifiers,
    data,
    diagrams,
    distributions,
    evaluation,
    flows,
    generation,
    likelihoods,
    models,
    networks,
    objectives,
    plots,
    posteriors,
    priors,
    programs,
    recipes,
    runs,
    schedules,
    semi_supervised,
    sklearn,
    training,
)
from ._version import __version__
from .compute import processes
from .diagrams.reading import plate_diagram
from .programs.pair import Pair
from .sklearn.estimator import SemiSupervisedVAEClassifier
from .sklearn.outliers import PPCAOutlierDetector, VAEOutlierDetector
from .sklearn.transformers import PPCATransformer, VAETransformer
from .training.fit import fit

__all__ = [
    "PPCAOutlierDetector",
    "PPCATransformer",
    "Pair",
    "SemiSupervisedVAEClassifier",
    "VAEOutlierDetector",
    "VAETransformer",
    "__version__",
    "classifiers",
    "data",
    "diagrams",
    "distributions",
    "evaluation",
    "fit",
    "flows",
    "generation",
    "likelihoods",
    "models",
    "networks",
    "objectives",
    "plate_diagram",
    "plots",
    "posteriors",
    "priors",
    "processes",
    "programs",
    "recipes",
    "runs",
    "schedules",
    "semi_supervised",
    "sklearn",
    "training",
]
