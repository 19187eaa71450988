"""A finished run small enough for a test: three sample clips with real faces and videos, invented tokens, a network
that has learned nothing.

In: `data_sample/`. Out: the folder that 07 reads, as 01 to 06 would leave it.
"""

import keras
import numpy as np
import pandas as pd

from helpers.align import CLIPS_FILE, Aligned, write_aligned
from helpers.clips import TRAITS
from helpers.config import DynamicConfig, PreparationConfig, TrainingConfig
from helpers.faces import track_clip
from helpers.files import ROOT, file_sha256, write_json
from helpers.model import CompletePersonalityModel
from helpers.store import FeatureFile, write_features, write_manifest
from helpers.tracks import write_track
from helpers.variants import TOKEN_MODEL

DATA = ROOT / "data_sample"
SHOWN = ("awkward/very_short", "test80_01/4rfnd819V3N.001", "training80_01/-5fEkrFeWrs.001")
GONE = "training80_01/gone.000"  # its video was deleted
N, TS, TD, DS, DD, HEADS = 13, 5, 7, 6, 4, 3
STEP_S = 0.66  # of a motion token


def write_small_run(out):
    """Write the run's folder; 10 of its 13 clips have no files of 02 to 04."""
    clips = np.array([*SHOWN, GONE, *(f"training80_01/other{k}.000" for k in range(N - 4))])
    aligned = _tokens(clips)
    _table(aligned).to_csv(out / "clips.csv")
    write_aligned(out / "aligned", aligned)
    write_manifest(out / "aligned", "aligned", {"static": {"parameters": {"weights": "random"}}}, clips=N)
    write_manifest(out / "dynamic", "dynamic", {"parameters": DynamicConfig(flow_clip_px=8.0).as_dict()}, clips=N)
    write_manifest(out / "static", "static", {}, clips=N)
    for row, clip in enumerate(clips[:4]):
        source = SHOWN[1] if clip == GONE else clip
        write_track(out / "faces" / f"{clip}.npz", track_clip(DATA / f"{source}.mp4", PreparationConfig()))
        for stream, mask in (("static", aligned.static_mask[row]), ("dynamic", aligned.dynamic_mask[row])):
            write_features(
                out / stream / f"{clip}.npz", _rows(int(mask.sum()), STEP_S * TD / len(mask) if mask.all() else 0.2)
            )
    keras.utils.set_random_seed(0)
    model = CompletePersonalityModel(DS, DD, 8, HEADS)
    (out / "training").mkdir()
    model.save(out / "training" / f"{TOKEN_MODEL}-0.keras")
    training = {"seeds": [0], "models": [TOKEN_MODEL], "config": TrainingConfig().as_dict(without=("seeds",))}
    sha256 = [file_sha256(out / "aligned" / CLIPS_FILE)]
    write_json(out / "training" / "training.json", training | {"clips_sha256": sha256})
    return model, aligned


def _tokens(clips):
    """Random tokens and ratings; the first clip has one token in each stream, the last no rating."""
    rng = np.random.default_rng(0)
    static_mask, dynamic_mask = np.ones((N, TS), bool), np.ones((N, TD), bool)
    static_mask[0, 1:] = dynamic_mask[0, 1:] = False
    labels = rng.uniform(0, 1, (N, len(TRAITS))).astype("float32")
    labels[-1] = np.nan
    static_t_s = (np.arange(TS, dtype="float32") + 0.5) * STEP_S * TD / TS
    dynamic_t_s = (np.arange(TD, dtype="float32") + 0.5) * STEP_S
    return Aligned(
        static_features=rng.normal(size=(N, TS, DS)).astype("float32") * static_mask[..., None],
        dynamic_features=rng.normal(size=(N, TD, DD)).astype("float32") * dynamic_mask[..., None],
        static_mask=static_mask,
        dynamic_mask=dynamic_mask,
        static_t_s=static_t_s * static_mask,
        dynamic_t_s=dynamic_t_s * dynamic_mask,
        labels=labels,
        clips=clips,
        sources=clips,
        splits=np.full(N, ""),
        targets=np.array(TRAITS),
    )


def _table(aligned):
    about = {"path": [f"{clip}.mp4" for clip in aligned.clips], "source": aligned.sources, "split": "", "bytes": 1}
    ratings = dict(zip(TRAITS, aligned.labels.T, strict=True))
    return pd.DataFrame(about | ratings, index=pd.Index(aligned.clips, name="key"))


def _rows(n, step_s):
    start_s = np.arange(n) * step_s
    frame = np.rint((start_s + step_s / 2) * 15).astype(int)  # 15 per second in the sample
    return FeatureFile(np.zeros((n, 2), "float32"), start_s, start_s + step_s, frame, np.ones(n, bool))
