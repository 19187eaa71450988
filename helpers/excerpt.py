"""The beginning of a video as a file of its own, for a forecast: pictures as they are, nothing is coded again."""

from itertools import takewhile
from pathlib import Path

import av

from helpers.container import open_container, open_video


def write_excerpt(path: str | Path, excerpt: str | Path, seconds: float) -> Path:
    """Copy the first seconds of a video, its pictures only: nothing is decoded or coded again.

    Args:
        path: Video file.
        excerpt: File to write, of the same format.
        seconds: Length; a few later pictures, which these refer to, come with them.

    Returns:
        `excerpt`.

    Raises:
        VideoError: see `helpers.container.open_video`.
    """
    with open_video(path) as video, open_container(video.path) as again:
        end = video.ticks[0] + seconds / float(video.stream.time_base)
        early = takewhile(lambda packet: packet.dts is None or packet.dts <= end, video.packets_of(again))
        packets = [packet for packet in early if packet.size]
        moments = [packet.dts if packet.pts is None else packet.pts for packet in packets]
        names = video.container.format.name.split(",")
        name = "mp4" if video.codec == "av1" and "mp4" in names else names[0]  # QuickTime's own writer refuses AV1
        with av.open(str(excerpt), "w", format=name) as copy:
            stream = copy.add_stream_from_template(video.stream, opaque=True)  # what reads AV1 cannot write it
            # Matroska stores no times of decoding, and no file can be written without: made from those of showing.
            shown = sorted(moments)
            delay = max(tick - moment for tick, moment in zip(shown, moments, strict=True))
            for tick, moment, packet in zip(shown, moments, packets, strict=True):
                packet.pts, packet.dts, packet.stream = moment, tick - delay, stream
                copy.mux(packet)
    return Path(excerpt)
