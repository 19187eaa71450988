"""What the worker processes of the tests do, and what comes out; light, since every worker imports it."""

import itertools
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import psutil


@dataclass(frozen=True)
class Batch:
    crops: np.ndarray
    t_s: np.ndarray


class LossyError(Exception):
    def __init__(self, clip, second):
        super().__init__(f"{clip} fails at {second} s")  # cannot be made again from its one argument


def call(order):
    """What the workers of these tests do: (function, *arguments) -> its chunks."""
    function, *arguments = order
    yield from function(*arguments)


def some(n_chunks, first=0):
    for number in range(first, first + n_chunks):
        yield number, np.full((number % 5, 3), number, np.uint8)


def mixed():
    yield Batch(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), np.array([0.0, 0.5]))
    yield [np.arange(12).reshape(3, 4)[:, ::2], np.asfortranarray(np.eye(3)), np.zeros((0, 2)), "text", None]


def failing(kind):
    yield "before"
    if kind == "video":
        next(frames_of("no/such.mp4"))
    if kind == "av":
        av.open("no/such.mp4")
    if kind == "cv2":
        cv2.cvtColor(np.zeros(0), cv2.COLOR_BGR2RGB)
    raise {"memory": MemoryError("full"), "os": PermissionError(13, "no"), "lossy": LossyError("a", 2)}[kind]


def dying(how, log):
    with Path(log).open("a") as file:
        file.write(f"{how}\n")
    yield how
    if how == "exit":
        os._exit(3)
    if how.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[how])
    yield np.arange(3)


def hanging():
    yield "before"
    time.sleep(60)


def counting(log, n_chunks, n_bytes):
    """Chunks of n_bytes; the length of the file `log` tells how many were made."""
    for _ in range(n_chunks):
        with Path(log).open("ab") as file:
            file.write(b".")
        yield np.zeros(n_bytes, np.uint8)


def slow(n_signs, between_s):
    """A sign of life every so many seconds, then a chunk."""
    for _ in range(n_signs):
        time.sleep(between_s)
        yield None
    yield "done"


def endless():
    for number in itertools.count():
        yield np.full(100_000, number % 256, np.uint8)


def frames_of(path):
    from helpers.video import iter_frames

    yield from iter_frames(path, backend="pyav")  # "auto" would first measure which is fastest


def surroundings():
    print("this must not end up among the chunks")
    os.write(1, b"nor this\n")
    interrupt = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    loaded = {"tensorflow", "keras", "jax", "torch"} & set(sys.modules)
    yield loaded, cv2.getNumThreads(), os.environ["OMP_NUM_THREADS"], interrupt, os.getpid()


def outcomes(run):
    """key -> chunks, the last one an error if there was one."""
    found = {}
    for key, chunks in run:
        found[key] = []
        try:
            for chunk in chunks:
                found[key].append(chunk)
        except Exception as error:
            found[key].append(error)
    return found


def children():
    return psutil.Process().children(recursive=True)


def tracks_of_all_but_one(job):
    """As `helpers.faces.tracks_of`, but the clip called "a" takes the process with it."""
    from helpers.faces import tracks_of

    if job[0].stem == "a":
        os.kill(os.getpid(), signal.SIGSEGV)
    yield from tracks_of(job)


def tracks_but_no_memory_for_one(job):
    """As `helpers.faces.tracks_of`, with signs of life, but the clip called "a" asks for more memory than there is."""
    from helpers.faces import tracks_of

    yield None
    if job[0].stem == "a":
        np.zeros(1 << 62, np.uint8)
    yield from tracks_of(job)


def fill(clips, out, *, forgetful):
    """A run of three stages for `benchmarks.resume`; forgetful: a file depends on what the same run did before."""
    from helpers.store import Stage, write_arrays

    for name in ("faces", "static", "dynamic"):
        with Stage(out / name, name, {}) as stage:
            counts = {"made": 0, "found": 0}
            for key in clips.index:
                if stage.path(key).exists():
                    counts["found"] += 1
                    continue
                time.sleep(0.02)
                counts["made"] += 1
                write_arrays(stage.path(key), x=np.arange(counts["made"] if forgetful else 1000))
            stage.finish(**counts)
