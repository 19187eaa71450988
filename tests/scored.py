"""Scores made up for tests of tables and pages, without a network."""

import numpy as np

from helpers.clips import TRAITS
from helpers.score import ClipScore

VALUES = dict(zip(TRAITS, (0.1, 0.3, 0.5, 0.7, 0.9), strict=True))


def made_up(video="a.mp4", **changes):
    """A score of a clip of 4 s with three motion tokens."""
    picture = np.full((96, 96, 3), 128, np.uint8)
    values = {
        "video": video,
        "score": VALUES,
        "low": {t: max(v - 0.2, 0) for t, v in VALUES.items()},
        "high": {t: min(v + 0.2, 1) for t, v in VALUES.items()},
        "constant": dict.fromkeys(TRAITS, 0.5),
        "motion_t_s": [0.5, 1.5, 2.5],
        "motion_share": [0.5, 0.3, 0.2],
        "face_coverage": 0.9,
        "warnings": ["the networks have random weights: these scores say nothing about a person", "one <b>thing"],
        "duration_s": 4.0,
        "parts_s": [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)],
        "effects": {t: [0.1, -0.2, 0.0] for t in TRAITS},
        "familiarity": {},
        "faces": [picture, picture],
    }
    return ClipScore(**values | changes)
