"""What a video is like: codec, size, rate, length, how it is turned; only key frames are decoded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.container import OpenVideo, open_video, orientation
from helpers.pictures import CHANGES, remarks_of, shapes_of, shown_size

UNEVEN = 1.5  # an interval this many times the median one makes a rate variable


@dataclass(frozen=True)
class VideoInfo:
    """What is in a video file: `width`, `height` in pixels as displayed, `fps` the mean rate, `duration_s` seconds,
    `rotation_deg` the turn that displays it, counter-clockwise, `mirrored` whether it is flipped left to right as well.
    `remarks` say in words what is odd about the file or its pictures, and what is done about it.
    """

    codec: str
    width: int
    height: int
    fps: float
    n_frames: int
    duration_s: float
    rotation_deg: int
    mirrored: bool
    variable_rate: bool
    audio: bool
    remarks: tuple[str, ...] = ()


def probe(path: str | Path) -> VideoInfo:
    """Read what is in a video without decoding more than its first frame, and key frames that may be of other sizes.

    Raises:
        VideoError: see `helpers.container.open_video`.
    """
    with open_video(path) as video:
        return describe(video)


def describe(video: OpenVideo) -> VideoInfo:
    """What is in an open file."""
    picture = video.first_picture
    n, last_s, (turn, mirrored) = len(video.t_s), video.t_s[-1], orientation(picture)
    shapes = shapes_of(video) or {(picture.width, picture.height): video.stream.sample_aspect_ratio}
    width, height = shown_size(shapes, turn)
    changes = [CHANGES.format(width, height)] * (len(shapes) > 1)
    return VideoInfo(
        codec=video.codec,
        width=width,
        height=height,
        fps=float((n - 1) / last_s if last_s > 0 else 1 / video.interval_s),
        n_frames=n,
        duration_s=video.duration_s,
        rotation_deg=turn,
        mirrored=mirrored,
        variable_rate=bool(n > 1 and np.diff(video.t_s).max() > UNEVEN * video.interval_s),
        audio=len(video.container.streams.audio) > 0,
        remarks=(*video.remarks, *changes, *remarks_of(picture)),
    )
