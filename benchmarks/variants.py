"""Damaged variants of good clips: cut off, boxes removed, of zero length, under a wrong suffix, with flipped bits.

In: the bytes of good clips, a seed and a number. Out: `Variant`s, the damaged bytes with a line on what was done. The
same seed, number and bytes give the same variant.
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np

DECLARING = (".mp4", ".mov", ".mkv", ".webm", ".avi")  # say how long they are; a shorter .ts is a whole one
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".ts")
RUN_BYTES = 1500  # of a run of overwritten bytes, at most: a network packet

MP4_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
MP4_NEEDED = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stts", b"stsc", b"stsz", b"stco", b"mdat")
# Identifiers of Matroska's elements (RFC 9559): without these there are no pictures, or fewer.
SEGMENT, VOID = bytes.fromhex("18538067"), b"\xec"
MKV_NEEDED = {bytes.fromhex("1654ae6b"): "Tracks", bytes.fromhex("1f43b675"): "Cluster"}


@dataclass(frozen=True)
class Source:
    """A good clip: its bytes, and where the data of its pictures lie in them."""

    name: str
    path: Path
    data: bytes
    media: list[tuple[int, int]]

    @property
    def suffix(self) -> str:
        """Its suffix in small letters."""
        return self.path.suffix.lower()


@dataclass(frozen=True)
class Variant:
    """A damaged file to be written: `how` says what was done."""

    number: int
    kind: str
    source: Source | None
    how: str
    suffix: str
    data: bytes

    @property
    def file_name(self) -> str:
        """A name that says what it is."""
        return f"{self.number:04d}_{self.kind.replace(' ', '_')}{self.suffix}"


def cut_off(source: Source, r: np.random.Generator) -> tuple[str, bytes]:
    """Keep the first bytes; losses of half a percent are as likely as those of half the file."""
    end = max(stop for _, stop in source.media)
    keep = max(1, int(end * (1 - 10 ** r.uniform(-2.5, 0))))
    return f"the first {keep} of {len(source.data)} bytes", source.data[:keep]


def remove_box(source: Source, r: np.random.Generator) -> tuple[str, bytes]:
    """Make a box or element void."""
    found = removable(source.data, source.suffix)
    name, start, end = found[r.integers(len(found))]
    return f"without {name}, bytes {start} to {end}", remove(source.data, start, end, source.suffix)


def flip(source: Source, r: np.random.Generator, n: int) -> tuple[str, bytes]:
    """Flip n bits in n bytes of the pictures' data."""
    places = places_in(source.media, n, r)
    text = ", ".join(map(str, places[:5])) + (", ..." if n > 5 else "")
    return f"{n} bits flipped in bytes {text}", flip_bits(source.data, places, r)


def overwrite(source: Source, r: np.random.Generator) -> tuple[str, bytes]:
    """Put noise in the place of a run of bytes, from within a picture's data on."""
    start, n = int(places_in(source.media, 1, r)[0]), int(r.integers(1, RUN_BYTES + 1))
    return f"{n} random bytes from {start} on", put(source.data, start, r.bytes(n))


Maker = Callable[[Source, np.random.Generator], tuple[str, bytes]]
# Share of the variants, and what makes them of a good clip.
STRUCTURE: dict[str, tuple[float, Maker | None]] = {
    "cut off": (0.20, cut_off),
    "box removed": (0.15, remove_box),
    "zero length": (0.03, None),
    "wrong suffix": (0.05, None),
}
FLIPS: dict[str, tuple[float, Maker | None]] = {
    "1 bit": (0.14, lambda source, r: flip(source, r, 1)),
    "10 bits": (0.14, lambda source, r: flip(source, r, 10)),
    "100 bits": (0.14, lambda source, r: flip(source, r, 100)),
    "run of bytes": (0.15, overwrite),
}
KINDS = STRUCTURE | FLIPS


def plan(n_variants: int) -> list[str]:
    """The kind of each variant, in their shares."""
    edges = np.cumsum([share for share, _ in KINDS.values()])
    return [list(KINDS)[np.searchsorted(edges - 1e-9, k / n_variants, side="right")] for k in range(n_variants)]


def make_variants(sources: list[Source], n_variants: int, seed: int) -> Iterator[Variant]:
    """Damage the sources in turn; a variant depends on the seed and its number only, and on the source's bytes."""
    declaring = [source for source in sources if source.suffix in DECLARING]
    with_boxes = [source for source in sources if removable(source.data, source.suffix)]
    fit = {"cut off": declaring, "box removed": with_boxes}
    for number, kind in enumerate(plan(n_variants)):
        r = np.random.default_rng([seed, number])
        make = KINDS[kind][1]
        if make:
            choice = fit.get(kind, sources)
            source = choice[number % len(choice)]
            how, data = make(source, r)
            yield Variant(number, kind, source, f"{source.name}: {how}", source.path.suffix, data)
            continue
        fakes = impostors(r) if kind == "wrong suffix" else {"nothing": b""}
        name = list(fakes)[number % len(fakes)]
        suffix = SUFFIXES[number % len(SUFFIXES)]
        yield Variant(number, kind, None, f"{name} as {suffix}", suffix, fakes[name])


def media_ranges(path: Path) -> list[tuple[int, int]]:
    """First byte and end of each picture's data in a file, in the order of decoding."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size and p.pos is not None]
    return [(packet.pos, packet.pos + packet.size) for packet in packets]


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of an mp4 (ISO/IEC 14496-12, 4.2), outer before inner: kind, first byte, end."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        header = 8
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        stop = start + size if size else end
        if size and size < header:
            return
        yield kind, start, stop
        if kind in MP4_PARENTS:
            yield from boxes(data, start + header, stop)
        start = stop


def elements(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The elements inside the Segment of a Matroska file: identifier, first byte, end."""
    position, end = 0, len(data)
    while position < end:
        identifier, size, body = _element(data, position)
        if identifier == SEGMENT:
            position = body
            continue
        yield identifier, position, body + size
        position = body + size


def _element(data: bytes, position: int) -> tuple[bytes, int, int]:
    """Identifier, size in bytes and first byte of the body: lengths are coded in leading zeros (RFC 8794, 4)."""
    n = 9 - data[position].bit_length()
    identifier, position = data[position : position + n], position + n
    n = 9 - data[position].bit_length()
    size = int.from_bytes(data[position : position + n], "big") & ((1 << 7 * n) - 1)
    return identifier, size, position + n


def removable(data: bytes, suffix: str) -> list[tuple[str, int, int]]:
    """What `remove` can take out of an mp4 or mkv that its pictures need: name, first byte, end; else nothing."""
    if suffix in (".mp4", ".mov"):
        found = list(boxes(data))
        sound = [(start, end) for kind, start, end in found if kind == b"trak" and not _is_video(data, start)]
        needed = [(kind.decode(), start, end) for kind, start, end in found if kind in MP4_NEEDED]
        return [box for box in needed if not any(start <= box[1] < end for start, end in sound)]
    if suffix in (".mkv", ".webm"):
        return [(MKV_NEEDED[i], start, end) for i, start, end in elements(data) if i in MKV_NEEDED]
    return []


def _is_video(data: bytes, track: int) -> bool:
    """Whether the handler of a track of an mp4 says so (ISO/IEC 14496-12, 8.4.3)."""
    handler = data.index(b"hdlr", track) + 12
    return data[handler : handler + 4] == b"vide"


def remove(data: bytes, start: int, end: int, suffix: str) -> bytes:
    """Make a box or element void, all zeros, so that nothing else moves."""
    if suffix in (".mp4", ".mov"):
        header = data[start : start + 4] + b"free"
    else:
        header = VOID + b"\x01" + (end - start - 9).to_bytes(7, "big")
    return data[:start] + header + bytes(end - start - len(header)) + data[end:]


def flip_bits(data: bytes, places: np.ndarray, r: np.random.Generator) -> bytes:
    """Flip a random bit of each byte at `places`."""
    damaged = np.frombuffer(data, np.uint8).copy()
    damaged[places] ^= np.uint8(1) << r.integers(0, 8, len(places), np.uint8)
    return damaged.tobytes()


def put(data: bytes, start: int, noise: bytes) -> bytes:
    """Put other bytes in the place of those from `start` on."""
    return data[:start] + noise + data[start + len(noise) :]


def places_in(ranges: list[tuple[int, int]], n: int, r: np.random.Generator) -> np.ndarray:
    """Draw n different bytes within ranges, ascending."""
    all_places = np.fromiter(chain.from_iterable(range(*pair) for pair in ranges), int)
    return np.sort(r.choice(all_places, n, replace=False))


def impostors(r: np.random.Generator) -> dict[str, bytes]:
    """Files that are no video, to be given a video's name."""
    text = " ".join(f"word{number}" for number in r.integers(0, 1000, 4000)).encode()
    picture = r.integers(0, 256, (120, 160, 3), np.uint8)
    pictures = {name: cv2.imencode(f".{name.lower()}", picture)[1].tobytes() for name in ("JPEG", "PNG")}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("notes.txt"), text)  # without the time of day
    mp3 = b"".join(b"\xff\xfb\x90\x64" + r.bytes(413) for _ in range(60))  # frames of 128 kbit/s at 44.1 kHz
    return {"text": text, "zip": archive.getvalue(), "mp3": mp3, "noise": r.bytes(30_000)} | pictures
