"""Is a Matroska or WebM file whole? What FFmpeg reads over without a word: its declared end, its index, its checksums.

In: a path. Out: what is wrong, as text. The element numbers are those of RFC 9559; the checksum is of RFC 8794, 11.3.1.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

SEGMENT, CLUSTER, CUES = 0x18538067, 0x1F43B675, 0x1C53BB6B
TO_POSITION = (0xBB, 0xB7, 0xF1)  # from the Cues to where a cluster begins: point, positions in a track, the number
CRC_32, CRC_BYTES = 0xBF, 4
LONGEST_NUMBER = 8  # bytes


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
            for position in _cluster_positions(file, cues.start, min(cues.end, segment.end)):
                if not _is_cluster(file, segment.start + position, size):
                    return f"the part that its index puts at byte {segment.start + position:,} is missing"
        for part in parts:
            if part.number == CLUSTER and part.end is not None and not _sum_is_right(file, part, segment.end):
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


def _cluster_positions(file: BinaryIO, start: int, end: int, path: tuple[int, ...] = TO_POSITION) -> Iterator[int]:
    """Where the index says that clusters begin, in bytes from the segment's start; damaged entries are passed over."""
    for part in elements(file, start, end):
        if part.number != path[0]:
            continue
        if path[1:]:
            yield from _cluster_positions(file, part.start, min(part.end or end, end), path[1:])
        elif part.end is not None and part.end - part.start <= LONGEST_NUMBER:
            file.seek(part.start)
            yield int.from_bytes(file.read(part.end - part.start), "big")


def _is_cluster(file: BinaryIO, place: int, size: int) -> bool:
    """Whether a cluster begins at a place of a file of so many bytes."""
    if place >= size:  # not to be sought: it may be more than the system can count
        return False
    file.seek(place)
    return file.read(4) == CLUSTER.to_bytes(4, "big")


def _sum_is_right(file: BinaryIO, cluster: Element, end: int) -> bool:
    """Whether a cluster of a segment that reaches to `end` is what its checksum says; True without one."""
    first = next(elements(file, cluster.start, min(cluster.end, end)), None)
    if first is None or first.number != CRC_32:
        return True
    if first.end is None or first.end - first.start != CRC_BYTES or not first.end <= cluster.end <= end:
        return False
    file.seek(first.start)
    stated = int.from_bytes(file.read(CRC_BYTES), "little")
    return zlib.crc32(file.read(cluster.end - first.end)) == stated
