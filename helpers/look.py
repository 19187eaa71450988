"""A clip on its time axis: parts of neighbouring motion tokens, and face pictures.

In: the motion tokens of one clip, its file and `FaceTrack`. Out: `Parts`, times to show, JPEG pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from helpers.faces import FaceTrack, crop_at
from helpers.store import FeatureFile
from helpers.video import iter_frames

MOST_PARTS = 48  # that a clip is shown in: beyond, neighbouring motion tokens go together
FACE_PX = 96
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Parts:
    """A clip in n parts of neighbouring motion tokens.

    Attributes:
        start_s, end_s: Of each part in seconds, (n,).
        tokens: Indices of the motion tokens of each part.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    tokens: list[np.ndarray]


def clip_parts(motion: FeatureFile) -> Parts:
    """Divide a clip's motion tokens into parts of neighbours: one token each, or more beyond `MOST_PARTS`."""
    tokens = np.array_split(np.arange(len(motion.frame)), min(len(motion.frame), MOST_PARTS))
    start_s = np.array([motion.t_start_s[part[0]] for part in tokens])
    return Parts(start_s, np.array([motion.t_end_s[part[-1]] for part in tokens]), tokens)


def face_pictures(path: str | Path, track: FaceTrack, t_s: Sequence[float], *, backend: str = "auto") -> list[bytes]:
    """Cut the face out at some times in seconds, increasing: JPEG files `FACE_PX` wide."""
    samples = track.sample_at(np.asarray(t_s))
    pictures = []
    for frame, t, _ in iter_frames(path, fps=track.fps, indices=samples.tolist(), backend=backend):
        crop = cv2.cvtColor(crop_at(frame, track, t, FACE_PX), cv2.COLOR_RGB2BGR)
        pictures.append(cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
    return pictures


def spread_times(t_s: np.ndarray, duration_s: float, n: int) -> np.ndarray:
    """Choose times for n equal places on a time axis: of each place the one nearest to its middle.

    Args:
        t_s: Times in seconds to choose from, increasing, (m,).
        duration_s: Length of the axis.
        n: Number of places.

    Returns:
        (n,), increasing; repeats where there are fewer times than places.
    """
    middles = (np.arange(n) + 0.5) * duration_s / n
    return np.asarray(t_s)[np.abs(np.asarray(t_s)[:, None] - middles).argmin(axis=0)]


def decoded(pictures: Sequence[bytes]) -> list[np.ndarray]:
    """JPEG files as RGB uint8 (S, S, 3) each."""
    return [
        cv2.cvtColor(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        for picture in pictures
    ]
