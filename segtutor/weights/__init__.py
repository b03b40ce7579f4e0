"""Carrying published weights into the from-scratch models.

`transplant` copies tensors from a reference network, or from another model of the same class, into one of ours, by a
map of names that is written once (`segtutor.weights.maps`) and used by tests, chapters and `load_pretrained` alike. It
copies everything or nothing: a tensor on either side that the map does not mention is an error, so that a model is
never half loaded in silence. What a user may well want to change is allowed and reported: the number of classes, whose
scoring layers then start fresh, and the channels of the images.
"""

import segtutor.weights.maps  # noqa: F401  (registers the key maps)
from segtutor.weights.files import WeightsError, read_weights
from segtutor.weights.keymap import KeyMap, register_map, register_model, register_source
from segtutor.weights.published import load_pretrained, register_published
from segtutor.weights.transplant import Report, transplant

__all__ = [
    "KeyMap",
    "Report",
    "WeightsError",
    "load_pretrained",
    "read_weights",
    "register_map",
    "register_model",
    "register_published",
    "register_source",
    "transplant",
]
