"""A Matroska file that lost something says so, and whole ones, live ones and other writers' pass."""

import itertools
import re
import zlib

import av
import numpy as np
import pytest
from numbered import numbered_frames, read_numbers, write_numbered

from helpers.video import (
    CLUSTER,
    CRC_32,
    CUES,
    SEGMENT,
    TO_POSITION,
    Element,
    VideoError,
    damage,
    elements,
    probe,
    read_frames,
)

REASONS = r"|its last [\d,]+ bytes are missing|what follows byte [\d,]+ is damaged|the part .* is (missing|damaged .*)"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("mkv") / "clip.mkv"
    return write_numbered(path, 61, codec_options={"g": "10"}, container_options={"cluster_time_limit": "800"})


def layout(path) -> tuple[Element, list[Element]]:
    with open(path, "rb") as file:
        segment = next(e for e in elements(file, 0, path.stat().st_size) if e.number == SEGMENT)
        return segment, [e for e in elements(file, segment.start, segment.end) if e.number == CLUSTER]


def index_of(path) -> tuple[Element, list[Element]]:
    """The Cues of a file, and where they say that clusters begin."""
    with open(path, "rb") as file:
        segment = next(e for e in elements(file, 0, path.stat().st_size) if e.number == SEGMENT)
        (cues,) = (e for e in elements(file, segment.start, segment.end) if e.number == CUES)
        found = [cues]
        for number in TO_POSITION:
            found = [inner for outer in found for inner in elements(file, *outer[1:]) if inner.number == number]
        return cues, found


def changed(whole, tmp_path, change) -> str:
    data = bytearray(whole.read_bytes())
    change(data)
    (tmp_path / "clip.mkv").write_bytes(data)
    return tmp_path / "clip.mkv"


def test_whole_files_pass(whole, tmp_path):
    assert damage(whole) == ""
    assert len(layout(whole)[1]) > 2
    assert damage(write_numbered(tmp_path / "clip.webm", 23, codec="libvpx-vp9")) == ""
    assert read_numbers(read_frames(whole).frames) == list(range(61))


def test_every_lost_end_is_told(whole, tmp_path):
    for lost in (1, 40, 700):
        path = changed(whole, tmp_path, lambda data, n=lost: data.__delitem__(slice(-n, None)))
        assert damage(path) == f"its last {lost} bytes are missing"
    with pytest.raises(VideoError, match=r"clip\.mkv: (breaks off|its last 700 bytes).* Copy or download"):
        probe(path)


def test_a_lost_part_is_told_by_the_index(whole, tmp_path):
    cluster = layout(whole)[1][1]

    def blank(data):
        data[cluster.start - 12 : cluster.end] = bytes(cluster.end - cluster.start + 12)

    assert "is damaged" in damage(changed(whole, tmp_path, blank))

    def skip(data):  # as an element that readers pass over (Void, 0xEC)
        start = data.rindex(CLUSTER.to_bytes(4, "big"), 0, cluster.start)
        data[start : start + 9] = b"\xec\x01" + (cluster.end - start - 9).to_bytes(7, "big")

    path = changed(whole, tmp_path, skip)
    assert "that its index puts at byte" in damage(path)
    with pytest.raises(VideoError, match="is missing"):
        probe(path)


def test_one_flipped_bit_is_told_by_the_checksum(whole, tmp_path):
    cluster = layout(whole)[1][1]
    with open(whole, "rb") as file:
        assert next(elements(file, cluster.start, cluster.end)).number == CRC_32

    def flip(data):
        data[(cluster.start + cluster.end) // 2] ^= 4

    path = changed(whole, tmp_path, flip)
    assert damage(path) == f"the part at byte {cluster.start:,} is damaged (its checksum differs)"


def test_a_live_recording_passes(tmp_path):
    path = tmp_path / "live.mkv"
    with av.open(str(path), "w", options={"live": "1"}) as container:
        stream = container.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        for frame in numbered_frames(9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert damage(path) == ""
    assert len(read_frames(path).frames) == 9


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".gif", ".webp"])
def test_a_renamed_picture_is_no_video(tmp_path, suffix):
    import cv2

    ok, data = cv2.imencode(suffix, np.full((48, 80, 3), 99, np.uint8))
    assert ok
    (tmp_path / "clip.mp4").write_bytes(data)
    with pytest.raises(VideoError, match=r"clip\.mp4: not a video but a picture"):
        probe(tmp_path / "clip.mp4")


def test_rubbish_is_nothing_to_say_about(tmp_path):
    for data in (b"", b"\x00" * 50, b"\x1a\x45\xdf\xa3", bytes(range(256)) * 9):
        (tmp_path / "rubbish.mkv").write_bytes(data)
        assert damage(tmp_path / "rubbish.mkv") == ""


def test_a_damaged_size_in_the_index_is_never_more_than_a_reason(whole, tmp_path):
    _, positions = index_of(whole)
    assert len(positions) >= len(layout(whole)[1])
    for position, bit in itertools.product(positions, range(8)):

        def flip(data, at=position.start - 1, bit=bit):
            data[at] ^= 1 << bit

        assert re.fullmatch(REASONS, damage(changed(whole, tmp_path, flip)))


def test_a_damaged_index_is_never_more_than_a_reason(whole, tmp_path):
    cues, _ = index_of(whole)
    rng = np.random.default_rng(0)

    def spoil(data):
        for place in rng.integers(cues.start - 8, cues.end, rng.integers(1, 4)):
            data[place] = rng.choice([0, 1, 8, 127, 128, 255, rng.integers(256)])

    for _ in range(400):
        assert re.fullmatch(REASONS, damage(changed(whole, tmp_path, spoil)))


@pytest.mark.parametrize("size", [b"\xff", b"\x83", b"\x80", b"\x94"])
def test_a_checksum_of_another_length_is_damage(whole, tmp_path, size):
    cluster = layout(whole)[1][1]

    def resize(data):
        data[cluster.start + 1 : cluster.start + 2] = size

    reason = f"the part at byte {cluster.start:,} is damaged (its checksum differs)"
    assert damage(changed(whole, tmp_path, resize)) == reason


@pytest.mark.parametrize("size", [b"\x87", b"\x85", b"\xc0", b"\x01\xff\xff\xff\xff\xff\xff\xfe"])
def test_a_part_that_ends_elsewhere_than_its_segment_is_checked_as_far_as_it_goes(tmp_path, size):
    content = b"\xbf\x84" + zlib.crc32(b"\xec").to_bytes(4, "little") + b"\xec"
    cluster = CLUSTER.to_bytes(4, "big") + size + content[: (size[0] & 127 if len(size) == 1 else 127)]
    (tmp_path / "clip.mkv").write_bytes(SEGMENT.to_bytes(4, "big") + bytes([128 + len(cluster)]) + cluster)
    assert damage(tmp_path / "clip.mkv") == (
        "" if size == b"\x87" else f"the part at byte {9 + len(size)} is damaged (its checksum differs)"
    )
