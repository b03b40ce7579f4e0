"""What several experiments share, so that no experiment imports another.

``running_table`` is the protocol that every model of the book goes through. ``real_data``, ``membranes`` and ``discs``
hold images and how networks are trained on them, ``networks`` what more than one chapter trains. ``crf`` scores a
network with and without a CRF after it, ``reference_speed`` registers rows of speed beside a reference, and ``skips``
counts the bytes that cross from encoder to decoder.
"""
