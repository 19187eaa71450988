"""Exports face crops as a tree of JPEG files, the layout that the source project's tools read.

In: the table of clips, their videos and the tracks of 02. Out: `faces_jpeg/<key>/face_<frame>.jpg`, 224×224, with the
number of the frame in the file in six digits; and `faces_jpeg_times/<key>.npz` with those numbers and their times in
seconds, beside a manifest. Crops are made while decoding; one frame is held at a time, and a clip's folder is there as
a whole or not at all.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.faces import FaceTrack, NoFaceError, crop_at, track_of
from helpers.store import Stage, clip_stamp, read_manifest, write_arrays
from helpers.video import VideoError, backend_version, iter_frames

log = logging.getLogger(__name__)

SIZE_PX = 224  # of the source project's faces


def export_faces(
    clips: pd.DataFrame,
    data: str | Path,
    run: str | Path,
    to: str | Path,
    *,
    every: int = 5,
    quality: int = 95,
    progress: bool = False,
) -> dict[str, Any]:
    """Write the face crops of all clips; clips that are done are not done again.

    Args:
        clips: Index `key`, column `path` below `data`.
        data: Folder of the clips.
        run: The run's folder, with `faces/` of 02.
        to: Where `faces_jpeg/` and `faces_jpeg_times/` are made.
        every: Every which frame of the file, from the first; 5 as in the source project.
        quality: Of the JPEG files, 1 to 100.
        progress: Whether to show a progress bar.

    Returns:
        The manifest: counts of clips and files, and the clips that could not be exported, with the reason.

    Raises:
        FileNotFoundError: 02 is not done.
        ValueError: `to` was made with other settings.
    """
    if every < 1 or not 1 <= quality <= 100:
        raise ValueError(f"every must be at least 1 and quality 1 to 100, got {every} and {quality}.")
    faces = read_manifest(Path(run) / "faces", "02_clip_preparation")
    backend = faces["identity"]["parameters"]["backend"]
    no_track = {entry["clip"]: entry["reason"] for entry in faces["failed"]}
    identity = {"preparation": faces["identity"], "every": every, "quality": quality, "size_px": SIZE_PX}
    made_with = {"decoder": backend_version(backend), "opencv": cv2.__version__}
    with Stage(Path(to) / "faces_jpeg_times", "faces_jpeg", identity, made_with) as stage:
        counts = {"clips": len(clips), "made": 0, "found": 0, "failed": 0, "files": 0}
        for key, path in tqdm(clips["path"].items(), total=len(clips), unit="clip", disable=not progress):
            path, folder = Path(data) / path, Path(to) / "faces_jpeg" / key
            stamp = clip_stamp(path)
            if folder.is_dir() and stage.done(key, stamp):
                counts["found"] += 1
                continue
            try:
                track = track_of(Path(run), key, stamp, no_track)
                numbers, t_s = export_clip(path, track, folder, every=every, quality=quality, backend=backend)
            except (VideoError, NoFaceError, cv2.error, av.FFmpegError) as error:
                log.warning("%s: %s", key, error)
                shutil.rmtree(folder, ignore_errors=True)  # of an earlier version of the clip
                stage.path(key).unlink(missing_ok=True)
                stage.fail(key, str(error).removeprefix(f"{path.name}: "))
                counts["failed"] += 1
                continue
            write_arrays(stage.path(key), frame=numbers, t_s=t_s, stamp=stamp)
            counts["made"] += 1
            counts["files"] += len(numbers)
        return stage.finish(**counts)


def export_clip(
    path: str | Path, track: FaceTrack, folder: Path, *, every: int, quality: int, backend: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Write one clip's crops into `folder`, replacing what is there; frames without the face are left out.

    Returns:
        Numbers in the file of the frames that were written, int64 (n,), and their times in seconds, float64 (n,).
    """
    numbers, t_s = [], []
    with replacing_folder(folder) as part:
        for frame, t, number in iter_frames(path, indices=slice(0, None, every), backend=backend):
            if track.has_face(np.array(t)):
                crop = cv2.cvtColor(crop_at(frame, track, t, SIZE_PX), cv2.COLOR_RGB2BGR)
                ok, jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])
                if not ok:
                    raise RuntimeError(f"OpenCV {cv2.__version__} could not encode frame {number} as JPEG")
                (part / f"face_{number:06d}.jpg").write_bytes(jpeg.tobytes())
                numbers.append(number)
                t_s.append(t)
    return np.array(numbers, np.int64), np.array(t_s, np.float64)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` on success, and is removed otherwise."""
    part = folder.parent / f".part-{folder.name}"
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
