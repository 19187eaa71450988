"""Where the input of 03 and 04 comes from: videos with the tracks of 02, or trees of faces and of stored flow.

In: a notebook's parameters and the keys of the run's clips. Out: a source, which has for every clip the stamp of its
files, the job that its work function takes, and its track. Both kinds are used in the same way.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from helpers.config import DynamicConfig, StaticConfig
from helpers.crops import CROP_PX, Job, face_crops, face_flows
from helpers.files import resolve
from helpers.names import NO_CLIP, match_clips
from helpers.precomputed import FaceTree, FlowTree, StoredClip, StoredError, stored_chunks
from helpers.store import clip_stamp, read_manifest
from helpers.tracks import FaceTrack, track_of
from helpers.video import backend_version

log = logging.getLogger(__name__)

OF_TREES = ("faces_dir", "flow_dir", "faces_fps", "flow_fps")  # the tree's own identity says what of them decides
OF_VIDEOS = {FaceTree: ("every_n_frames",), FlowTree: ("flow", "remove_camera")}  # how to read them
Tree = FaceTree | FlowTree


class VideoSource:
    """The videos of a run and their tracks; FileNotFoundError when 02 has not made these.

    Attributes:
        work: What decoder processes do with a job.
        identity, made_with: Of the input, for the manifest.
        not_decisive: Parameters that say nothing about the rows.
    """

    not_decisive = OF_TREES

    def __init__(self, cfg: StaticConfig | DynamicConfig):
        faces = read_manifest(cfg.out / "faces", "02_clip_preparation")
        self._cfg, self._backend = cfg, faces["identity"]["parameters"]["backend"]
        self._no_track = {entry["clip"]: entry["reason"] for entry in faces["failed"]}
        self.identity = {"preparation": {name: faces["identity"][name] for name in ("parameters", "detector")}}
        self.made_with = {"decoder": backend_version(self._backend)}
        self.work = face_crops if isinstance(cfg, StaticConfig) else face_flows

    def stamp(self, path: Path, key: str) -> str:
        return clip_stamp(path)

    def job(self, path: Path, key: str, stamp: str, size_px: int = CROP_PX) -> tuple[Job, FaceTrack]:
        """What `work` takes, and the track; NoFaceError with the reason where there is none."""
        track = track_of(self._cfg.out, key, stamp, self._no_track)
        return Job(path, track, self._cfg, self._backend, size_px), track


class StoredSource:
    """A tree and what it calls the clips of a run, by their keys: those in which they end; used as a `VideoSource` is.

    ValueError: The tree holds nothing that can be used, or nothing of these clips.
    """

    work = staticmethod(stored_chunks)

    def __init__(self, cfg: StaticConfig | DynamicConfig, tree: Tree, keys: Iterable[str]):
        self.tree, (self.named, refused) = tree, match_clips(tree.clips, keys)
        self.identity, self.made_with = {"stored": tree.identity}, {"stored": str(tree.folder)}
        self.not_decisive = OF_TREES + OF_VIDEOS[type(tree)]
        self._sizes = () if isinstance(tree, FaceTree) else (cfg.input_px, cfg.flow_clip_px)
        if not self.named:
            must = f"{tree.folder} must hold clips of this run, got {', '.join(list(tree.clips)[:5])}"
            raise ValueError(f"{must}. Call its folders like the clips.")
        others = [name for name, reason in refused.items() if reason == NO_CLIP]
        log.info("%s holds %d clips that are not of this run", tree.folder.name, len(others))
        for name, reason in refused.items():
            if reason != NO_CLIP:
                log.warning("%s in %s is left out: %s", name, tree.folder.name, reason)

    def stamp(self, path: Path, key: str) -> str:
        """Tells one version of a clip's files from another; "missing" where there are none that can be used."""
        try:
            return self.tree.stamp(self.named[key])
        except (KeyError, StoredError, OSError):  # nothing of this name; out of order; removed just now
            return "missing"

    def job(self, path: Path, key: str, stamp: str, size_px: int = CROP_PX) -> tuple[StoredClip, StoredClip]:
        """What `work` takes, which is its own track; `StoredError` where the clip cannot be used."""
        if key not in self.named:
            raise StoredError(f"there is nothing of it in {self.tree.folder.name}")
        job = self.tree.job(self.named[key], *(self._sizes or (size_px,)))
        return job, job


def open_source(cfg: StaticConfig | DynamicConfig, keys: Iterable[str]) -> VideoSource | StoredSource:
    """Where the parameters of 03 or 04 say that the clips are; raises what the two kinds raise."""
    tree = open_tree(cfg)
    return StoredSource(cfg, tree, keys) if tree else VideoSource(cfg)


def open_tree(cfg: StaticConfig | DynamicConfig) -> Tree | None:
    """The tree that the parameters of 03 or 04 name; None when they name none."""
    if isinstance(cfg, StaticConfig):
        return FaceTree(resolve(cfg.faces_dir), cfg.faces_fps) if cfg.faces_dir else None
    return FlowTree(resolve(cfg.flow_dir), cfg.flow_fps) if cfg.flow_dir else None
