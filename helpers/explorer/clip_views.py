"""A finished run as a `Gallery`: every clip's prediction and entropy at once, a clip's view when it is chosen.

In: the folder of a run that 02 to 06 filled, and its videos. Out: a `Gallery`. The run's first seed is the model that
is looked at. Of a clip nothing is held but its view: frames and flow are gone through once.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from helpers.align import Aligned, read_aligned
from helpers.attention import BATCH, attention_entropy, get_attention_weights
from helpers.clips import load_clips
from helpers.config import AttentionConfig, DynamicConfig
from helpers.engine.crops import CROP_PX, Job, Piece, face_flows
from helpers.evidence.occlusion import effects_of_motion, mean_motion
from helpers.evidence.planted import window_spans
from helpers.evidence.relevance import per_motion_token, relevance
from helpers.explorer.gallery import NOT_TRAINED_ON, ClipView, Gallery
from helpers.explorer.preview import encode_preview
from helpers.faces import FaceTrack, crop_at, read_track
from helpers.files import needs, resolve
from helpers.store import FeatureFile, read_features, read_manifest
from helpers.training.experiment import load_run
from helpers.training.train import TrainingData, load_trained, rated_clips, split_of
from helpers.training.variants import TOKEN_MODEL
from helpers.video import iter_frames

CHANGE = "change of the score without this motion"  # the mean motion token in its place
RELEVANCE = "relevance: what this motion brought to the score"


def open_gallery(cfg: AttentionConfig) -> Gallery:
    """The clips of a finished run that have both streams.

    Args:
        cfg: Of 07: the run's folder, the videos, the token bank.

    Raises:
        FileNotFoundError: The run is not finished; the message names the notebook that is missing.
    """
    data, trained = load_run(cfg.out, resolve(cfg.bank_dir))
    seed = trained.seeds[0]
    model = load_trained(trained, TOKEN_MODEL, seed)
    bank, run = rated_clips(data), read_aligned(cfg.out / "aligned")
    split = split_of(bank, trained, seed)
    baseline = mean_motion(bank.take(split == "train"))
    paths = load_clips(cfg.out / "clips.csv")["path"]
    return Gallery(
        clips=run.clips,
        targets=tuple(run.targets.tolist()),
        predicted=model.predict(run.inputs(), batch_size=BATCH, verbose=0),
        rated=run.labels,
        entropy=_entropies(model, run),
        part=_parts(run, bank, split, data),
        load=Reader(cfg.out, cfg.data, paths, run, model, baseline),
    )


def _entropies(model: keras.Model, run: Aligned) -> np.ndarray:
    """Mean over heads of each clip's entropy, (N,); the maps of all clips are never held at once."""
    entropies = []
    for i in range(0, len(run), BATCH):
        some = run.take(np.arange(i, min(i + BATCH, len(run))))
        weights = get_attention_weights(model, some.inputs())
        entropies.append(attention_entropy(weights, some.static_mask, some.dynamic_mask).mean(axis=1))
    return np.concatenate(entropies)


def _parts(run: Aligned, bank: Aligned, split: np.ndarray, data: TrainingData) -> np.ndarray:
    """What the training had of each clip of the run, str (N,)."""
    known = {} if data.live else dict(zip(bank.clips.tolist(), split.tolist(), strict=True))
    return np.array([known.get(clip, NOT_TRAINED_ON) for clip in run.clips.tolist()])


@dataclass(frozen=True)
class Reader:
    """Makes the view of a clip from its video and its files of 02 to 04.

    `out`: the run's folder. `data`: the videos' folder, `paths` below it by key. `run`: the tokens of all clips.
    `baseline`: what a motion token is replaced by to see its effect, (D,).
    """

    out: Path
    data: Path
    paths: pd.Series
    run: Aligned
    model: keras.Model
    baseline: np.ndarray

    def __call__(self, clip: str) -> ClipView:
        """Make the view of the clip with this key.

        Raises:
            FileNotFoundError: The video, or a file of 02 to 04; the message names it.
            ValueError: The rows of 03 or 04 are not those that the tokens were made of.
            VideoError: The video cannot be decoded.
        """
        one = self.run.take(self.run.clips == clip)
        faces, motions = one.static_mask[0], one.dynamic_mask[0]  # the rest is padding
        face = _rows(self.out / "static" / f"{clip}.npz", int(faces.sum()), "03_static_extraction")
        motion = _rows(self.out / "dynamic" / f"{clip}.npz", int(motions.sum()), "04_dynamic_extraction")
        track = read_track(needs(self.out / "faces" / f"{clip}.npz", "02_clip_preparation"))
        path = self.data / self.paths.loc[clip]
        speed, flow = self._motion(path, track, motion)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="no clip has more than one motion token")  # its entropy is NaN
            attention = get_attention_weights(self.model, one.inputs())[0]
        return ClipView(
            clip=clip,
            preview=encode_preview(path),
            crops=_crops(path, track, face),
            face_t_s=face.t_s,
            t_start_s=motion.t_start_s,
            t_end_s=motion.t_end_s,
            speed=speed,
            flow=flow,
            attention=attention[:, faces][:, :, motions],
            measures=self._measures(one.inputs(), np.flatnonzero(motions)),
            windows=window_spans(self.data, clip),
        )

    def _measures(self, inputs: dict[str, np.ndarray], tokens: np.ndarray) -> dict[str, np.ndarray]:
        """What each motion token does to each score, two ways, (Td, k) each."""
        return {
            CHANGE: -effects_of_motion(self.model, inputs, tokens[:, None], self.baseline),
            RELEVANCE: per_motion_token(relevance(self.model, inputs, self.baseline))[0][:, tokens].T,
        }

    def _motion(self, path: Path, track: FaceTrack, motion: FeatureFile) -> tuple[np.ndarray, np.ndarray]:
        manifest = read_manifest(self.out / "dynamic", "04_dynamic_extraction")
        how = DynamicConfig.checked(manifest["identity"]["parameters"])
        pieces = face_flows(Job(path, track, how))
        speed, flow = motion_per_token(pieces, motion.t_start_s, motion.t_end_s)
        return speed * how.flow_clip_px, flow * how.flow_clip_px


def _rows(path: Path, n: int, made_by: str) -> FeatureFile:
    rows = read_features(needs(path, made_by)).in_time()
    if len(rows.features) != n:
        raise ValueError(f"{path} must hold {n} valid rows like 05's tokens, got {len(rows.features)}. Run 05 again.")
    return rows


def _crops(path: Path, track: FaceTrack, face: FeatureFile) -> np.ndarray:
    frames = iter_frames(path, indices=face.frame.tolist())
    return np.stack([crop_at(frame, track, t, CROP_PX) for (frame, _, _), t in zip(frames, face.t_s, strict=True)])


def motion_per_token(
    pieces: Iterable[Piece], t_start_s: np.ndarray, t_end_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean speed within each motion token, and the flow at its fastest moment; flows are gone through once.

    Args:
        pieces: Flows (n, S, S, 2) with the times that they begin at.
        t_start_s, t_end_s: Start and end of each token in seconds, (Td,); they may overlap.

    Returns:
        (Td, S, S) and (Td, S, S, 2), in the unit of the flow; zeros where a token has no flow.
    """
    n, total, fastest = np.zeros(len(t_start_s), int), None, None
    peak = np.full(len(t_start_s), -1.0)
    for piece in pieces:
        for flow, t in zip(piece.values, piece.t_s, strict=True):
            if total is None:
                total = np.zeros((len(n), *flow.shape[:2]), "float32")
                fastest = np.zeros((len(n), *flow.shape), "float32")
            speed = np.linalg.norm(flow, axis=-1)
            for j in np.flatnonzero((t_start_s <= t + 1e-6) & (t < t_end_s - 1e-6)):
                n[j] += 1
                total[j] += speed
                if speed.mean() > peak[j]:
                    peak[j], fastest[j] = speed.mean(), flow
    return total / np.maximum(n, 1)[:, None, None], fastest
