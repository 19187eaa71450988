"""What the benchmarks of whole stages share: inputs made of the sample, and 03 and 04 with networks built before.

In: `data_sample`. Out: trees of faces and of flow with as many clips as asked for, the same files again and again under
other names; and the stages' whole work on them, files in, feature files out. Building and compiling the network, and
comparing its first batch with float32, are done once per run, however long it is: they are not in it.
"""

import os
import shutil
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pandas as pd

from helpers import extract, faces
from helpers.clips import find_clips
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.files import ROOT
from helpers.flow import write_flow
from helpers.forward import Forward
from helpers.rows import face_flows
from helpers.video import read_frames
from helpers.weights import Weights

DATA = ROOT / "data_sample"
N_SOURCES = 36  # clips of the sample that are in a split, 73 frames each
FACE_PX = 224
FACES_PER_CLIP = 15  # 5,486 clips then have the 82,290 faces of the source project
JPEG_QUALITY = 95  # OpenCV's default


def sample_clips() -> pd.DataFrame:
    """The clips of `data_sample` that are in a split."""
    clips = find_clips(DATA)
    return clips[clips["split"] != ""].iloc[:N_SOURCES]


def named(clips: pd.DataFrame, n: int) -> pd.DataFrame:
    """A table of n clips: those given, again and again under other keys."""
    rows = list(islice(cycle(range(len(clips))), n))
    return clips.iloc[rows].set_axis(pd.Index([f"{k:05}" for k in range(n)], name="key"))


def write_faces(folder: Path, n: int) -> pd.DataFrame:
    """Write a tree of n folders with 15 JPEG faces each; returns the table of its clips."""
    clips = named(sample_clips(), n)
    for place, (key, below) in enumerate(clips["path"].items()):
        (folder / key).mkdir(parents=True)
        if place < N_SOURCES:
            _write_frames(folder / key, DATA / below)
            continue
        for face in (folder / clips.index[place % N_SOURCES]).iterdir():
            os.link(face, folder / key / face.name)
    return clips


def _write_frames(folder: Path, video: Path) -> None:
    for place, frame in enumerate(read_frames(video, n_frames=FACES_PER_CLIP).frames):
        left = (frame.shape[1] - frame.shape[0]) // 2
        square = frame[:, left : left + frame.shape[0], ::-1]
        face = cv2.resize(square, (FACE_PX, FACE_PX), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"face_{place:04}.jpg"), face, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def prepare(clips: pd.DataFrame, out: Path) -> None:
    """Run 02 on a table made by `named`; the same clip's track is found once."""
    first = clips.iloc[:N_SOURCES]
    faces.prepare_clips(first, PreparationConfig(data_dir=str(DATA), out_dir=str(out), backend="pyav"))
    for place, key in enumerate(clips.index[N_SOURCES:]):
        shutil.copy(out / "faces" / f"{first.index[place % N_SOURCES]}.npz", out / "faces" / f"{key}.npz")


def write_flows(clips: pd.DataFrame, cfg: DynamicConfig, folder: Path) -> None:
    """Write the flow of clips prepared in `cfg.out`, a file each."""
    source = extract.open_source(cfg, clips)
    folder.mkdir(parents=True)
    for place, (key, below) in enumerate(clips["path"].items()):
        target = folder / f"{key}.npz"
        if place >= N_SOURCES:
            os.link(folder / f"{clips.index[place % N_SOURCES]}.npz", target)
            continue
        path = DATA / below
        job = source.job(path, key, source.fingerprint(path, key))
        chunks = list(face_flows(job))
        flow = np.concatenate([chunk.values for chunk in chunks]) * np.float32(cfg.flow_clip_px)
        t_s = np.concatenate([chunk.t_s for chunk in chunks])
        write_flow(target, flow, t_s, job.track.fps, cfg.flow, cfg.flow_clip_px)


def run_stage(clips: pd.DataFrame, cfg: StaticConfig | DynamicConfig, network: Any, forward: Forward) -> dict[str, Any]:
    """Run 03 or 04 from an empty folder on, with this network; returns the manifest.

    Args:
        clips: The table of clips.
        cfg: Parameters; `cfg.out` may hold the tracks of 02.
        network: A `Backbone` (03), or the motion network (04).
        forward: Its compiled inference pass.
    """
    static = isinstance(cfg, StaticConfig)
    shutil.rmtree(cfg.out / ("static" if static else "dynamic"), ignore_errors=True)
    weights = Weights("random", "a benchmark", "", "")
    with patch.multiple(
        extract,
        build_backbone=lambda name, weights_name: network,
        build_motion_network=lambda weights_name, endpoint: (network, weights),
        compile_forward=lambda model, precision, prepare=None: forward,
    ):
        return (extract.extract_static if static else extract.extract_dynamic)(clips, cfg)
