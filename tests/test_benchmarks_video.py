"""The benchmarks of video in run and say what they promise; how fast anything is, no test judges."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import clips, damaged, decode, readers, variants
from benchmarks.decode import AUTO
from benchmarks.readers import OPENCV, Job, Way
from helpers.container import VideoError
from helpers.files import read_json
from helpers.video import probe, read_frames
from helpers.workers import ClipPool, WorkerCrashed, WorkerHung

N_FRAMES = 31
SMALL = {name: clips.TO_DAMAGE[name] for name in ("h264 faststart mp4", "h264 mkv", "mpeg4 avi", "vp9 webm", "av1 mkv")}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The same few pictures in several encodings: name -> file."""
    pictures = clips.draw_pictures(76, (160, 112), 25)[:N_FRAMES]
    return clips.write_encodings(pictures, SMALL, tmp_path_factory.mktemp("clips"), 25)


@pytest.fixture(scope="module")
def sources(small):
    return [variants.Source(name, path, path.read_bytes(), variants.media_ranges(path)) for name, path in small.items()]


def job_on(path, **asked):
    frames = read_frames(path, **asked, size=(16, 16), backend="pyav")
    return Job(path, asked, np.unique(frames.index), probe(path).n_frames)


def source_of(sources, name):
    return next(source for source in sources if source.name == name)


def test_every_encoding_holds_the_same_distinct_pictures(small):
    for name, path in small.items():
        assert probe(path).n_frames == N_FRAMES
        assert name.split()[0] == probe(path).codec
        frames = read_frames(path, backend="pyav").frames.astype(int)
        assert all((a != b).any() for a, b in pairwise(frames))


def test_pictures_of_an_encoder_that_makes_no_b_pictures_cannot_be_dropped(tmp_path):
    pictures = clips.draw_pictures(90, (96, 64))[:37]
    encodings = {name: clips.BENCHMARK[name] for name in ("h264", "h264 droppable")}
    paths = clips.write_encodings(pictures, encodings, tmp_path)
    assert clips.droppable_share(paths["h264"]) == 0
    assert clips.droppable_share(paths["h264 droppable"]) > 1 / 3


def test_a_way_that_is_off_by_one_frame_is_not_exact(small):
    job = job_on(small["h264 faststart mp4"], n_frames=11)
    known = decode.neighbourhood(job)
    for shift, n_wrong in ((0, 0), (1, 11), (-1, 11)):
        off = (job.numbers + shift).clip(0, N_FRAMES - 1)
        frames = np.stack([known[number] for number in off.tolist()])
        n_stuck = int((off == job.numbers).sum()) if shift else 0  # at the end of the clip
        assert decode.wrong_frames(frames, job, known) == n_wrong - n_stuck
    assert decode.wrong_frames(frames[:-1], job, known) == 11


def test_a_way_with_another_scaler_is_exact_and_one_with_other_colours_is_not(small):
    job = job_on(small["h264 mkv"], n_frames=7)
    known = decode.neighbourhood(job)
    whole = read_frames(job.path, job.numbers, backend="pyav").frames
    frames = np.stack([cv2.resize(frame, readers.SIZE, interpolation=cv2.INTER_CUBIC) for frame in whole])
    assert decode.wrong_frames(frames, job, known) == 0
    assert decode.wrong_frames(np.ascontiguousarray(frames[..., ::-1]), job, known) == 7


@pytest.mark.parametrize("asked", readers.JOBS.values(), ids=list(readers.JOBS))
def test_opencv_reads_the_same_frames_by_hand(small, asked):
    job = job_on(small["h264 mkv"], **asked)
    assert decode.wrong_frames(readers.opencv_way().whole(job), job, decode.neighbourhood(job)) == 0


def test_a_peer_that_cannot_be_loaded_is_named_with_its_reason(monkeypatch):
    def broken():
        raise OSError("libavutil.so.58: cannot open\nand more")

    monkeypatch.setattr(readers, "PEERS", {"a": lambda: readers.import_module("no_such_module"), "b": broken})
    ways, missing = readers.load_peers()
    assert list(ways) == [OPENCV]
    assert missing == {
        "a": "not installed (no_such_module)",
        "b": "cannot be loaded: libavutil.so.58: cannot open",
    }


def test_decode_writes_every_figure(small, tmp_path, capsys, monkeypatch):
    def failing(job):
        raise RuntimeError("no such codec")

    monkeypatch.setattr(readers, "PEERS", {"failing": lambda: Way(failing, failing, "failing 1.0")})
    monkeypatch.setattr(decode, "hwdevices_available", lambda: [])
    monkeypatch.setattr(decode, "cores", lambda: 1)
    path, file = str(small["h264 faststart mp4"]), tmp_path / "result.json"
    decode.main([path, "--rounds", "1", "--clips", "7200", "--json", str(file)])
    result, out = read_json(file), capsys.readouterr().out
    assert list(result["auto_to_opencv"]) == list(result["auto_to_best_peer"]) == list(result["droppable"]) == [path]
    assert result["auto_to_best_peer"][path] == result["auto_to_opencv"][path] > 0  # OpenCV is the only exact peer
    assert result["two_cores_to_one"] is None
    assert "two workers beside one process with one thread: needs two cores" in out
    assert [(row["backend"], row["exact"]) for row in result["parity"]] == [("pyav", True), ("opencv", True)]
    rows = [row for row in result["rows"] if row["way"] != "failing"]
    assert [row["way"] for row in rows] == [AUTO, "pyav", "opencv", OPENCV] * 3
    assert [row["n_frames"] for row in rows[::4]] == [N_FRAMES, N_FRAMES, 7]
    for row in rows:
        assert row["exact"] == "yes"
        assert row["frames_per_s"] == pytest.approx(row["n_frames"] * row["videos_per_s"])
        assert row["hours"] == pytest.approx(2 / row["videos_per_s"])
        assert row["latency_s"] > 0
        assert row["ratio"] == 1 or row["way"] != OPENCV
    assert [row["decoder"] for row in result["rows"] if row["way"] == "failing"] == ["RuntimeError: no such codec"] * 3
    for column in decode.COLUMNS:
        assert column in out


def test_only_exact_peers_count():
    rows = [
        {"way": AUTO, "seconds": [1.0], "exact": "yes"},
        {"way": "fast", "seconds": [0.5], "exact": "no: 9 of 64"},
        {"way": "slow", "seconds": [3.0], "exact": "yes"},
        {"way": "slower", "seconds": [4.0], "exact": "yes"},
    ]
    assert decode.to_exact_peers(rows, ["fast", "slow", "slower", "missing"]) == 3
    assert decode.to_exact_peers(rows, ["fast"]) is None


def test_a_folder_is_read_by_workers(small):
    with ClipPool(readers.read_64, workers=1) as pool:
        decode.read_by_pool(pool, list(small.values())[:2])


def test_boxes_are_found_and_made_void(sources):
    source = source_of(sources, "h264 faststart mp4")
    found = {name: (start, end) for name, start, end in variants.removable(source.data, source.suffix)}
    assert found.keys() == {kind.decode() for kind in variants.MP4_NEEDED}
    start, end = found["stsz"]
    without = variants.remove(source.data, start, end, source.suffix)
    assert len(without) == len(source.data)
    assert without[:start] == source.data[:start]
    assert without[end:] == source.data[end:]
    assert without[start : start + 8] == source.data[start : start + 4] + b"free"
    assert not any(without[start + 8 : end])
    assert "stsz" not in [name for name, *_ in variants.removable(without, source.suffix)]


def test_elements_are_found_and_made_void(sources):
    source = source_of(sources, "h264 mkv")
    found = variants.removable(source.data, source.suffix)
    assert [name for name, *_ in found] == ["Tracks", "Cluster", "Cluster"]
    _, start, end = found[1]
    without = variants.remove(source.data, start, end, source.suffix)
    assert len(without) == len(source.data)
    assert [name for name, *_ in variants.removable(without, source.suffix)] == ["Tracks", "Cluster"]
    assert (variants.VOID, start, end) in list(variants.elements(without))


def test_the_boxes_of_sound_are_not_needed(sources):
    data = source_of(sources, "h264 faststart mp4").data
    assert variants.removable(data.replace(b"vide", b"soun"), ".mp4")[0][0] == "moov"
    kinds = {name for name, *_ in variants.removable(data.replace(b"vide", b"soun"), ".mp4")}
    assert kinds == {"moov", "mdat"}


def test_as_many_bits_are_flipped_as_said_and_within_the_pictures(sources):
    source = source_of(sources, "mpeg4 avi")
    how, damaged_bytes = variants.flip(source, np.random.default_rng(7), 10)
    assert how.startswith("10 bits flipped in bytes ")
    difference = np.frombuffer(source.data, np.uint8) ^ np.frombuffer(damaged_bytes, np.uint8)
    assert np.unpackbits(difference).sum() == 10
    for place in np.flatnonzero(difference):
        assert any(start <= place < end for start, end in source.media)


def test_a_cut_takes_picture_data_away(sources):
    for source in sources:
        for seed in range(13):
            _, data = variants.cut_off(source, np.random.default_rng(seed))
            assert 0 < len(data) < max(end for _, end in source.media)
            assert source.data.startswith(data)


def test_three_hundred_variants_have_all_kinds_and_can_be_made_again(sources):
    made = list(variants.make_variants(sources, 300, 5))
    kinds = [variant.kind for variant in made]
    assert {kind: kinds.count(kind) / 300 for kind in variants.KINDS} == {
        kind: share for kind, (share, _) in variants.KINDS.items()
    }
    again = list(variants.make_variants(sources, 300, 5))
    assert [variant.data for variant in made] == [variant.data for variant in again]
    assert len({variant.file_name for variant in made}) == 300
    for variant in made:
        assert variant.source is None or variant.data != variant.source.data


def test_damage_of_the_structure_is_named(sources, tmp_path):
    for make in (variants.cut_off, variants.remove_box):
        how, data = make(source_of(sources, "h264 faststart mp4"), np.random.default_rng(2))
        path = tmp_path / f"{make.__name__}.mp4"
        path.write_bytes(data)
        found = readers.read_fully(path, "pyav")
        assert found["verdict"] == "named", how
        assert path.name in found["reason"]


def test_an_error_that_is_no_line_about_the_file_is_not_a_reason(monkeypatch):
    for error, verdict in (
        (VideoError("a.mp4: breaks off"), "named"),
        (VideoError("it breaks off"), "untold"),
        (VideoError("a.mp4: breaks\noff"), "untold"),
        (KeyError("moov"), "untold"),
    ):

        def failing(path, error=error, **settings):
            raise error

        monkeypatch.setattr(readers, "iter_frames", failing)
        assert readers.read_fully(Path("a.mp4"), "pyav")["verdict"] == verdict


def test_a_crash_and_a_hang_are_counted_and_end_nothing(sources):
    class Pool:
        """Workers that crash and hang."""

        def run(self, tasks):
            for number, (key, _) in enumerate(tasks):
                yield key, self.pieces((WorkerCrashed("signal 11"), WorkerHung("30 s"))[number % 2])

        def pieces(self, error):
            raise error
            yield

    made = variants.make_variants(sources, 2, 0)
    results = [
        damaged.conclude(variant, found, {})["result"]
        for variant, found in damaged.judged(Pool(), ((variant, None) for variant in made))
    ]
    assert results == ["crashed", "hung"]


def test_a_flip_that_changes_no_picture_is_not_counted_as_missed(sources):
    variant = next(v for v in variants.make_variants(sources, 300, 0) if v.kind == "1 bit")
    good = {variant.source.name: {"pictures": [1, 2], "played": [3, 4]}}
    found = {"verdict": "silent", "reason": "", "pictures": [1, 2], "played": [3, 4]}
    for change, result, changed in (
        ({}, "unchanged", False),
        ({"pictures": [1, 7], "played": [3, 8]}, "silent", True),
        ({"verdict": "named", "pictures": [1], "played": [3, 8]}, "named", True),
        ({"verdict": "named", "pictures": [1]}, "named", False),
    ):
        case = damaged.conclude(variant, found | change, good)
        assert (case["result"], case["changed"]) == (result, changed)


def test_damaged_counts_and_writes_every_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(damaged, "SAMPLE", ("awkward/very_short.mp4",))
    monkeypatch.setattr(damaged, "DRAWN_SIZE", (160, 112))
    file = tmp_path / "result.json"
    damaged.main(["--variants", "40", "--encodings", "h264 faststart mp4", "--json", str(file)])
    result, out = read_json(file), capsys.readouterr().out
    assert result.keys() >= {"variants", "crashed", "hung", "structural_missed", "bitflips_found", "rows", "cases"}
    assert (result["variants"], result["good"], result["good_refused"]) == (40, 2, {})
    assert len(result["cases"]) == 40
    assert (result["crashed"], result["hung"]) == (0, 0)
    assert 0 <= result["bitflips_found"] <= 1
    assert [row["kind"] for row in result["rows"]] == list(variants.KINDS)
    for row in result["rows"]:
        assert row["variants"] == sum(row[name] for name in list(damaged.COLUMNS)[2:])
    assert sum(row["variants"] for row in result["rows"]) == 40
    for column in damaged.COLUMNS:
        assert column in out
    assert "40 variants: 0 crashed, 0 hung" in out
