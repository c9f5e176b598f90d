from .estimator import SemiSupervisedVAEClassifier
from .outliers import PPCAOutlierDetector, VAEOutlierDetector
from .scoring import labelled_scorer
from .transformers import PPCATransformer, VAETransformer

__all__ = [
    "PPCAOutlierDetector",
    "PPCATransformer",
    "SemiSupervisedVAEClassifier",
    "VAEOutlierDetector",
    "VAETransformer",
    "labelled_scorer",
]
