"""From a trained model to labels, and from labels to files that other programs and people can read."""

from segtutor.inference.predictor import predict, predict_tiled, probabilities, strips
from segtutor.inference.results import save_labels, save_legend, save_overlay, save_probabilities

__all__ = [
    "predict",
    "predict_tiled",
    "probabilities",
    "save_labels",
    "save_legend",
    "save_overlay",
    "save_probabilities",
    "strips",
]
