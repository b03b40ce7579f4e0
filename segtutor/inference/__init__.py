"""From a trained model to labels, and from labels to files that other programs and people can read."""

from segtutor.inference.predictor import predict, save_labels, save_overlay

__all__ = ["predict", "save_labels", "save_overlay"]
