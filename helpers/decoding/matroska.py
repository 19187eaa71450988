"""Is a Matroska or WebM file whole? What FFmpeg reads over without a word: its declared end, its index, its checksums.

In: a path. Out: what is wrong, as text. The element numbers are those of RFC 9559; the checksum is of RFC 8794, 11.3.1.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

SEGMENT, CLUSTER, CUES = 0x18538067, 0x1F43B675, 0x1C53BB6B
CUE_POINT, CUE_TRACK_POSITIONS, CUE_CLUSTER_POSITION = 0xBB, 0xB7, 0xF1
CRC_32 = 0xBF


class Element(NamedTuple):
    """An element's number, and where its content lies in the file; `end` is None if its size was not known."""

    number: int
    start: int
    end: int | None


def damage(path: str | Path) -> str:
    """Say what is missing from or damaged in a Matroska file; "" if nothing is found."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        segment = next((e for e in elements(file, 0, size) if e.number == SEGMENT), None)
        if segment is None or segment.end is None:  # a live recording, whose end nobody knew
            return ""
        if segment.end > size:
            return f"its last {segment.end - size:,} bytes are missing"
        parts = list(elements(file, segment.start, segment.end))
        reached = parts[-1].end if parts else segment.start
        if reached is not None and reached < segment.end:
            return f"what follows byte {reached:,} is damaged"
        for cues in (part for part in parts if part.number == CUES and part.end is not None):
            for position in _cluster_positions(file, cues):
                file.seek(segment.start + position)
                if file.read(4) != CLUSTER.to_bytes(4, "big"):
                    return f"the part that its index puts at byte {segment.start + position:,} is missing"
        for part in parts:
            if part.number == CLUSTER and part.end is not None and not _sum_is_right(file, part):
                return f"the part at byte {part.start:,} is damaged (its checksum differs)"
    return ""


def elements(file: BinaryIO, start: int, end: int) -> Iterator[Element]:
    """The elements between two places of a file, as far as they can be told."""
    position = start
    while position < end:
        file.seek(position)
        number, n_number = _read_vint(file, keep_marker=True)
        size, n_size = _read_vint(file, keep_marker=False)
        if not n_number or not n_size:
            return
        content = position + n_number + n_size
        unknown = size == (1 << 7 * n_size) - 1
        yield Element(number, content, None if unknown else content + size)
        if unknown:
            return
        position = content + size


def _read_vint(file: BinaryIO, *, keep_marker: bool) -> tuple[int, int]:
    """A number of variable length, and its length in bytes; 0 bytes if there is none."""
    first = file.read(1)
    if not first or first[0] == 0:
        return 0, 0
    length = 9 - first[0].bit_length()
    value = first[0] if keep_marker else first[0] - (1 << 8 - length)
    rest = file.read(length - 1)
    return (value << 8 * len(rest)) + int.from_bytes(rest, "big"), length if len(rest) == length - 1 else 0


def _cluster_positions(file: BinaryIO, cues: Element) -> Iterator[int]:
    """Where the index says that clusters begin, in bytes from the segment's start."""
    for point in elements(file, cues.start, cues.end):
        for track in elements(file, point.start, point.end or cues.end) if point.number == CUE_POINT else ():
            for entry in elements(file, track.start, track.end) if track.number == CUE_TRACK_POSITIONS else ():
                if entry.number == CUE_CLUSTER_POSITION:
                    file.seek(entry.start)
                    yield int.from_bytes(file.read(entry.end - entry.start), "big")


def _sum_is_right(file: BinaryIO, cluster: Element) -> bool:
    """Whether a cluster is what its checksum says; True without one."""
    first = next(elements(file, cluster.start, cluster.end), None)
    if first is None or first.number != CRC_32 or first.end is None:
        return True
    file.seek(first.start)
    stated = int.from_bytes(file.read(first.end - first.start), "little")
    return zlib.crc32(file.read(cluster.end - first.end)) == stated
