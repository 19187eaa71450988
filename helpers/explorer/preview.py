"""A small copy of a clip that every browser plays: H.264 or VP9, no sound, key frames close together.

In: a video file of any format that `helpers.video` reads. Out: a `Preview` in memory. Its first picture stands at 0 s,
as that of the clip does everywhere in the workbook, and it is upright.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from helpers.video import iter_frames, probe

HEIGHT_PX = 320  # at most; a clip is looked at beside its attention, not for itself
KEY_EVERY = 10  # frames: a click is to show its picture at once
TICK_S = Fraction(1, 1000)
# Encoder, container, media type, options: the first that this PyAV was built with.
KINDS = (
    ("libx264", "mp4", "video/mp4", {"crf": "26", "preset": "veryfast"}),
    ("libvpx-vp9", "webm", "video/webm", {"crf": "34", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
)


@dataclass(frozen=True)
class Preview:
    """A whole video file: its bytes, its media type ("video/mp4"), and how many seconds it lasts."""

    data: bytes
    mime: str
    duration_s: float


def encode_preview(path: str | Path, *, backend: str = "auto") -> Preview:
    """Encode a clip again, small.

    Args:
        path: Video file.
        backend: See `helpers.video.iter_frames`.

    Raises:
        VideoError: See `helpers.video.iter_frames`.
        RuntimeError: PyAV has no encoder whose videos a browser plays.
    """
    encoder, container, mime, options = _kind()
    info = probe(path)
    share = min(1.0, HEIGHT_PX / info.height)
    size = tuple(max(2, 2 * round(share * side / 2)) for side in (info.height, info.width))  # 4:2:0 wants even sides
    file = io.BytesIO()
    with av.open(file, "w", format=container) as video:
        stream = video.add_stream(encoder, rate=Fraction(info.fps).limit_denominator(1001), options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = KEY_EVERY
        stream.codec_context.time_base = TICK_S
        for frame, t_s, _ in iter_frames(path, size=size, backend=backend):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = round(t_s / TICK_S), TICK_S
            video.mux(stream.encode(picture))
        video.mux(stream.encode())
    return Preview(file.getvalue(), mime, info.duration_s)


def _kind() -> tuple[str, str, str, dict[str, str]]:
    for kind in KINDS:
        if kind[0] in av.codecs_available:
            return kind
    wanted = " or ".join(kind[0] for kind in KINDS)
    raise RuntimeError(
        f"PyAV must have the encoder {wanted} to show a clip in a browser, got PyAV {av.__version__} with neither. "
        "Install its wheel, which has both: pip install --force-reinstall av."
    )
