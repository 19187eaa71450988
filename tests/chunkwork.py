"""What the worker processes of the tests do; light, since every worker imports it."""

import os
import signal
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np


class LossyError(Exception):
    def __init__(self, clip, second):
        super().__init__(f"{clip} fails at {second} s")  # cannot be made again from its one argument


class Panic(BaseException):
    pass


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("it cannot even say what it is")


ERRORS = {  # of unrelated classes, and what must be said of them
    "key": (lambda: KeyError("t_s"), "KeyError: 't_s'"),
    "unicode": (lambda: UnicodeDecodeError("utf-8", b"\xe4", 0, 1, "odd"), "UnicodeDecodeError: 'utf-8' codec can't"),
    "stop": (lambda: StopIteration(), "RuntimeError: generator raised StopIteration"),
    "nothing": (lambda: AssertionError(), "AssertionError"),
    "lines": (lambda: ValueError("a\nb\t" * 100_000), "ValueError: a b a b"),
    "surrogate": (lambda: ValueError("caf\udce9"), "ValueError: caf"),
    "lossy": (lambda: LossyError("it", 2), "LossyError: it fails at 2 s"),
    "ffmpeg": (lambda: av.error.InvalidDataError(1094995529, "Invalid data"), "InvalidDataError: [Errno 1094995529]"),
    "mute": (MuteError, "MuteError"),
}
OF_WORKERS = {  # which would end this process
    "memory": (lambda: MemoryError("full"), "MemoryError: full"),
    "panic": (lambda: Panic("a panic"), "Panic: a panic"),
}


def raising(name):
    """Raises the error of this name; without one it gives a chunk."""
    if name in ERRORS or name in OF_WORKERS:
        raise (ERRORS | OF_WORKERS)[name][0]()
    yield "fine"


def growing(key):
    """Two crops of a clip; if it is called "odd" the second one is larger."""
    from helpers.rows import Chunk

    for t, size in enumerate((4, 6) if key == "odd" else (4, 4)):
        yield Chunk(np.full((1, size, size, 3), t, np.uint8), np.array([t / 15]), np.array([t]), "a stand-in")


def call(order):
    """What the workers of these tests do: (function, *arguments) -> its chunks."""
    function, *arguments = order
    yield from function(*arguments)


def some(n_chunks, first=0):
    for number in range(first, first + n_chunks):
        yield number, np.full((number % 5, 3), number, np.uint8)


def dying(how, log):
    with Path(log).open("a") as file:
        file.write(f"{how}\n")
    yield how
    if how == "exit":
        os._exit(3)
    if how.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[how])
    yield np.arange(3)


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


def surroundings():
    print("this must not end up among the chunks")
    ignores_interrupt = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    frameworks = {"tensorflow", "keras", "jax", "torch"} & set(sys.modules)
    yield len(frameworks), cv2.getNumThreads(), os.environ["OMP_NUM_THREADS"], ignores_interrupt


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
