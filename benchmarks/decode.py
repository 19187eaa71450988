"""How fast are the frames of a clip read, against OpenCV and whatever other libraries are installed?

Three jobs on each clip, all at 256x256: 64 frames spread evenly, every frame, 5 frames per second; by `read_frames`
with every backend of this machine, and by its peers. The peer whose ratio is 1 is OpenCV's `grab` and `retrieve` of the
same frames; more is faster. A way is exact if it delivers the frames that were asked for, not their neighbours. Then a
folder of clips by two worker processes beside one process with one thread. Without VIDEO the clips are drawn.

    python -m benchmarks.decode [VIDEO ...] [--json FILE]
"""

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from av.codec.hwaccel import hwdevices_available

from benchmarks.alternation import alternate, options_of, ratio, report
from benchmarks.clips import N_FRAMES, draw_benchmark_clips, droppable_share
from benchmarks.readers import JOBS, OPENCV, SIZE, Job, Way, load_peers, ours, read_64
from helpers.video import BACKENDS, HARDWARE, parity_table, probe, read_frames
from helpers.workers import ClipPool, cores

FOCUS = "64 uniform"
AUTO = "auto"
MEAN_LEVELS = 5.0  # two scalers differ by up to 4.7 grey levels on average (area mean beside bilinear)
NEARER_LEVELS = 0.1  # what coding noise may make a neighbour of a still picture seem nearer
SMALL_PX = 64  # frames are compared again at this size, where scalers no longer differ
FOLDER_CLIPS, FOLDER_ROUNDS = 20, 7
COLUMNS = {
    "clip": "{}",
    "job": "{}",
    "way": "{}",
    "videos_per_s": "{:.2f}",
    "frames_per_s": "{:.0f}",
    "latency_s": "{:.3f}",
    "ratio": "{:.2f}",
    "exact": "{}",
    "hours": "{:.2f}",
    "decoder": "{}",
}


def neighbourhood(job: Job) -> dict[int, np.ndarray]:
    """The frames that a job asks for and those beside them, by PyAV: number -> RGB uint8 (px, px, 3)."""
    numbers = np.unique(np.concatenate([job.numbers, job.numbers - 1, job.numbers + 1]))
    numbers = numbers[(numbers >= 0) & (numbers < job.n_frames)]
    frames = read_frames(job.path, numbers, size=SIZE, backend="pyav").frames
    return dict(zip(numbers.tolist(), frames, strict=True))


def wrong_frames(frames: np.ndarray, job: Job, known: dict[int, np.ndarray]) -> int:
    """Count the frames of a way that are not those that were asked for, by the pictures themselves.

    Args:
        frames: What the way delivered, RGB uint8 (n, px, px, 3).
        job: What it was asked for.
        known: Its `neighbourhood`.

    Returns:
        How many differ by `MEAN_LEVELS` or more from PyAV's, or are nearer to the frame before or after; all of them
        if their number or size is another.
    """
    if frames.shape != (len(job.numbers), *SIZE, 3):
        return len(job.numbers)
    wrong = 0
    for number, frame in zip(job.numbers.tolist(), frames, strict=True):
        levels = np.abs(frame.astype(np.int16) - known[number]).mean()
        here, *beside = (_apart(frame, known[k]) for k in (number, number - 1, number + 1) if k in known)
        wrong += bool(levels >= MEAN_LEVELS or here > min(beside, default=here) + NEARER_LEVELS)
    return wrong


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference in grey levels of two frames at the small size."""
    return float(np.abs(_small(a) - _small(b)).mean())


def _small(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA).astype(np.float32)


def usable(ways: dict[str, Way], job: Job) -> tuple[dict[str, Way], dict[str, int], dict[str, str]]:
    """Do a job once by every way, which warms it up: those that can, their wrong frames, and why the others cannot."""
    able, wrong, failed = {}, {}, {}
    known = neighbourhood(job)
    for name, way in ways.items():
        try:
            wrong[name] = wrong_frames(way.whole(job), job, known)
            able[name] = way
        except Exception as error:  # of any library
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    return able, wrong, failed


def measure(clip: str, path: Path, job_name: str, ways: dict[str, Way], options: Namespace) -> list[dict[str, Any]]:
    """Return one row per way of doing a job on a clip."""
    known = read_frames(path, **JOBS[job_name], size=(16, 16), backend="pyav")
    job = Job(path, JOBS[job_name], np.unique(known.index), probe(path).n_frames)
    able, wrong, failed = usable(ways, job)
    rounds = options.rounds if job_name == FOCUS else max(1, options.rounds // 3)
    seconds = alternate({name: partial(way.whole, job) for name, way in able.items()}, rounds)
    latency = alternate({name: partial(way.first, job) for name, way in able.items()}, max(1, rounds // 3))
    rows = []
    for name in able:
        median_s = statistics.median(seconds[name])
        rows.append(
            {
                "clip": clip,
                "job": job_name,
                "way": name,
                "n_frames": len(job.numbers),
                "videos_per_s": 1 / median_s,
                "frames_per_s": len(job.numbers) / median_s,
                "latency_s": statistics.median(latency[name]),
                "exact": "yes" if not wrong[name] else f"no: {wrong[name]} of {len(job.numbers)}",
                "hours": options.clips * median_s / 3600,
                "decoder": able[name].decoder,
                "seconds": seconds[name],
            }
            | ({"ratio": ratio(seconds[OPENCV], seconds[name])} if OPENCV in able else {})
        )
    return rows + [{"clip": clip, "job": job_name, "way": n, "decoder": why} for n, why in failed.items()]


def to_exact_peers(rows: list[dict[str, Any]], peers: list[str]) -> float | None:
    """How many times the fastest of these peers "auto" is on one clip and job; None if none of them is exact."""
    auto = [row["seconds"] for row in rows if row["way"] == AUTO and "seconds" in row]
    exact = [row["seconds"] for row in rows if row["way"] in peers and row.get("exact") == "yes"]
    return min((ratio(seconds, auto[0]) for seconds in exact if auto), default=None)


def own_ways(path: Path) -> tuple[dict[str, Way], list[dict[str, Any]]]:
    """The backends that this machine has, "auto" first, and the parity table of this clip as rows."""
    hardware = [name for name in hwdevices_available() if name in HARDWARE]
    parity = parity_table(path, (*BACKENDS, *hardware)).reset_index()
    rows = [row.dropna().to_dict() for _, row in parity.iterrows()]
    rows = [row for row in rows if row["backend"] in BACKENDS or not row.get("decoder", "").endswith("software")]
    ways = {AUTO: ours(AUTO, read_frames(path, [0], size=SIZE).backend)}
    ways |= {row["backend"]: ours(row["backend"], row["decoder"]) for row in rows if "decoder" in row}
    return ways, rows


@contextmanager
def one_thread() -> Iterator[None]:
    """Both libraries decode in the caller's thread alone, as in a worker."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def read_by_pool(pool: ClipPool, paths: list[Path]) -> None:
    """Take 64 frames of every clip from the pool."""
    for _, pieces in pool.run(enumerate(paths)):
        for frames in pieces:
            assert len(frames) == 64


def measure_folder(paths: list[Path], options: Namespace) -> list[float] | None:
    """The ratio, per round, of one process with one thread to two workers with one each; None with a single core."""
    if cores() < 2:
        return None
    repeated = list(islice(paths * FOLDER_CLIPS, max(FOLDER_CLIPS, len(paths))))
    with ClipPool(read_64, workers=2) as pool, one_thread():
        read_by_pool(pool, paths[:2] * 2)  # both have started
        ways: dict[str, Callable[[], Any]] = {
            "one": lambda: [list(read_64(path)) for path in repeated],
            "two": lambda: read_by_pool(pool, repeated),
        }
        seconds = alternate(ways, min(options.rounds, FOLDER_ROUNDS), limit_s=90)
    return [one / two for one, two in zip(seconds["one"], seconds["two"], strict=True)]


def compare(clips: dict[str, Path], options: Namespace) -> None:
    """Measure every clip and the folder, and report."""
    peers, missing = load_peers()
    rows, parity, auto_to_opencv, auto_to_best_peer = [], [], {}, {}
    for clip, path in clips.items():
        ways, table = own_ways(path)
        parity += [{"clip": clip} | row for row in table]
        for job in options.jobs:
            rows += measure(clip, path, job, ways | peers, options)
        focus = [row for row in rows if row["clip"] == clip and row["job"] == FOCUS]
        auto_to_opencv[clip] = next((row.get("ratio") for row in focus if row["way"] == AUTO), None)
        auto_to_best_peer[clip] = to_exact_peers(focus, list(peers))
    folder = measure_folder(list(clips.values()), options)
    result = {
        "auto_to_opencv": auto_to_opencv,
        "auto_to_best_peer": auto_to_best_peer,
        "two_cores_to_one": statistics.median(folder) if folder else None,
        "two_cores_to_one_rounds": folder,
        "droppable": {clip: droppable_share(path) for clip, path in clips.items()},
        "parity": parity,
        "peers": {name: way.decoder for name, way in peers.items()} | missing,
    }
    report(rows, COLUMNS, options, **result)
    say(result, missing)


def say(result: dict[str, Any], missing: dict[str, str]) -> None:
    """Print what stands in the JSON beside the table, in lines."""
    print(f"\n{FOCUS} frames: auto beside {OPENCV}, beside the fastest exact peer, and pictures that can be dropped")
    for clip, times in result["auto_to_opencv"].items():
        beside = [f"{x:.2f}" if x is not None else "no exact peer" for x in (times, result["auto_to_best_peer"][clip])]
        print(f"  {clip}: {', '.join(beside)}, {result['droppable'][clip]:.0%}")
    two = result["two_cores_to_one"]
    print("a folder, two workers beside one process with one thread:", f"{two:.2f}" if two else "needs two cores")
    for backend, rows in groupby(sorted(result["parity"], key=itemgetter("backend")), itemgetter("backend")):
        trials = list(rows)
        able = [trial for trial in trials if "error" not in trial]
        if able:
            levels = max(trial["mean_levels"] for trial in able)
            exact = f"the same frames of {sum(trial['exact'] for trial in able)} of {len(trials)} clips"
            print(f"{backend} beside pyav: {exact}, {levels:.2f} grey levels apart")
        else:
            print(f"{backend}: {trials[0]['error']}")
    for name, why in missing.items():
        print(f"{name}: {why}")


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("video", nargs="*", type=Path, help="clips of your own; default: drawn ones")
    parser.add_argument("--clips", type=int, default=10_000, help="hours are for so many clips (default: 10000)")
    parser.add_argument("--jobs", nargs="+", choices=tuple(JOBS), default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=11, help="of the first job; of the others a third (default: 11)")
    parser.add_argument("--frames", type=int, default=N_FRAMES, help="of a drawn clip (default: 300)")
    options = parser.parse_args(argv)
    options.video = list(map(str, options.video))
    with tempfile.TemporaryDirectory() as folder:
        if options.video:
            compare({path: Path(path) for path in options.video}, options)
        else:
            compare(draw_benchmark_clips(Path(folder), options.frames), options)


if __name__ == "__main__":
    main()
