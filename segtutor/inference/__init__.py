"""From a trained model to labels and to files of them, with how sure it is of each and how sure its score is."""

from segtutor.inference.calibration import Calibration, entropy, fit_temperature
from segtutor.inference.intervals import compare, interval
from segtutor.inference.predictor import predict, predict_tiled, probabilities, strips
from segtutor.inference.results import save_labels, save_legend, save_overlay, save_probabilities

__all__ = [
    "Calibration",
    "compare",
    "entropy",
    "fit_temperature",
    "interval",
    "predict",
    "predict_tiled",
    "probabilities",
    "save_labels",
    "save_legend",
    "save_overlay",
    "save_probabilities",
    "strips",
]
