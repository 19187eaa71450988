"""The beginning of a video as a file of its own: its coded pictures are copied, nothing is decoded or coded again.

In: a path. Out: a file of the same format that holds the picture only. It serves to measure what a clip costs.
"""

from pathlib import Path

import av

from helpers.container import OpenVideo, open_video


def write_excerpt(path: str | Path, excerpt: str | Path, seconds: float) -> Path:
    """Copy the first seconds of a video.

    Args:
        path: Video file.
        excerpt: File to write.
        seconds: Length; a few later pictures, which these refer to, come with them.

    Returns:
        `excerpt`.

    Raises:
        VideoError: see `helpers.container.probe`.
    """
    with open_video(path) as video:
        packets = _beginning(video, seconds)
        kind = video.container.format.name.split(",")[0]
        with av.open(str(excerpt), "w", format=kind) as copy:
            stream = copy.add_stream_from_template(video.stream)
            # Matroska stores no times of decoding, and no file can be written without: made from those of showing.
            shown = sorted(map(_moment, packets))
            delay = max(tick - _moment(packet) for tick, packet in zip(shown, packets, strict=True))
            for tick, packet in zip(shown, packets, strict=True):
                packet.pts, packet.dts, packet.stream = _moment(packet), tick - delay, stream
                copy.mux(packet)
    return Path(excerpt)


def _beginning(video: OpenVideo, seconds: float) -> list[av.Packet]:
    """The packets, in decoding order, up to the last of those shown in the first seconds."""
    end = video.ticks[0] + seconds / float(video.stream.time_base)
    n_missing = int((video.ticks <= end).sum())
    packets = []
    for packet in video.iter_packets():
        packets.append(packet)
        n_missing -= not packet.is_discard and _moment(packet) <= end
        if n_missing <= 0:
            break
    return packets


def _moment(packet: av.Packet) -> int:
    """When a packet's picture is shown, in ticks; AVI knows the order of decoding only."""
    return packet.dts if packet.pts is None else packet.pts
