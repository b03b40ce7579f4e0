"""Measuring instruments: shapes, parameters, FLOPs, receptive fields, memory and time of any model.

Nothing here knows a particular network. Counting functions run the model on PyTorch's *meta* device where they can:
shapes flow through it, numbers do not, so even the largest model is counted in a moment and without memory.
"""

from segtutor.probe.cost import count_flops, count_parameters, count_peak_bytes, count_saved_bytes
from segtutor.probe.receptive_field import (
    EffectiveField,
    ReceptiveField,
    effective_receptive_field,
    receptive_field,
    receptive_field_formula,
)
from segtutor.probe.timing import Timing, compare_speed, time_step
from segtutor.probe.trace import Trace, TraceRow, shape_trace

__all__ = [
    "EffectiveField",
    "ReceptiveField",
    "Timing",
    "Trace",
    "TraceRow",
    "compare_speed",
    "count_flops",
    "count_parameters",
    "count_peak_bytes",
    "count_saved_bytes",
    "effective_receptive_field",
    "receptive_field",
    "receptive_field_formula",
    "shape_trace",
    "time_step",
]
