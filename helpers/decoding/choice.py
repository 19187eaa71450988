"""Which decoder this machine should use: measured once on a real clip, in processes of their own, and remembered.

In: a clip. Out: the name of a backend. A library that crashes takes its own process with it and is not chosen.
"""

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
from av.codec.hwaccel import hwdevices_available
from platformdirs import user_cache_path

from helpers.decoding.decoders import HARDWARE
from helpers.files import ROOT, read_json, write_json

log = logging.getLogger(__name__)

REFERENCE = "pyav"
WORTH = 1.1  # a decoder must be so many times faster than the reference: another decoder is other data
TRIAL_S = 60
TRIES = 3


_measured: dict[str, str] = {}  # this process's own memory, for a home folder that cannot be written


def choose_backend(clips: Iterable[Path]) -> str:
    """The fastest exact backend of this machine, measured on the first of the clips that can be decoded, once.

    As long as there is no such clip among the first `TRIES`, it is PyAV.
    """
    machine = _machine()
    if machine not in _measured:
        memory = user_cache_path("ocean-workbook") / "decoders.json"
        known = read_json(memory) if memory.exists() else {}
        if machine not in known:
            files = islice((path for path in clips if path.is_file()), TRIES)
            trials = next(filter(None, map(measure, files)), None)
            if trials is None:
                return REFERENCE
            known[machine] = {"backend": best(trials), "measured": trials}
            try:
                write_json(memory, known)
            except OSError as error:
                log.info("the choice of decoder cannot be kept (%s): it is measured again next time", error)
        _measured[machine] = known[machine]["backend"]
    return _measured[machine]


def best(trials: dict[str, dict[str, Any]]) -> str:
    """The fastest exact backend, the reference unless another is `WORTH` the change.

    Args:
        trials: Backend to what `helpers.parity` says of it beside the reference; with `error` if it failed.
    """
    exact = {name: trial["times_reference"] for name, trial in trials.items() if trial.get("exact")}
    name = max(exact, key=exact.__getitem__, default=REFERENCE)
    return name if exact.get(name, 0) >= WORTH else REFERENCE


def measure(path: Path) -> dict[str, dict[str, Any]]:
    """Try every backend that this PyAV and OpenCV know beside the reference, each in a process of its own.

    Returns:
        Backend to its trial; empty if the reference itself cannot decode the clip.
    """
    log.info("choosing the decoder of this machine on %s: once", path.name)
    trials = {}
    for backend in ("opencv", *hwdevices_available()):
        trial = _trial(path, backend)
        if trial.get("clip_unusable"):
            return {}
        trials[backend] = trial
        log.info("decoder %s: %s", backend, trial.get("error") or f"{trial['times_reference']:.2f} times {REFERENCE}")
    return trials


def _trial(path: Path, backend: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "helpers.parity", str(path), "--backend", backend, "--json"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TRIAL_S)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {TRIAL_S} s"}
    if done.returncode < 0:
        return {"error": f"crashed with signal {-done.returncode}"}
    try:
        trial = json.loads(done.stdout)
    except ValueError:
        return {"error": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
    in_software = backend in HARDWARE and trial.get("decoder", "").endswith("software")
    return {"error": "it decodes in software"} if in_software else trial


def _machine() -> str:
    """What the choice depends on: another computer, another number of cores or another version is measured anew."""
    return f"{platform.node()}, {os.cpu_count()} cores, pyav {av.__version__}, opencv {cv2.__version__}"
