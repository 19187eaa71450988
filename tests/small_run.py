"""A finished run small enough for a test: three sample clips with real faces and videos, invented tokens, a network
that has learned nothing.

In: `data_sample/`. Out: the folder that 07 reads, as 01 to 06 would leave it.
"""

from dataclasses import replace

import keras
import numpy as np
import toy_tokens
from toy_tokens import DD, DS, TD, TS
from trees import table_of

from helpers.align import CLIPS_FILE, write_aligned
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
N, HEADS = 13, 3
STEP_S = 0.66  # of a motion token


def write_small_run(out):
    """Write the run's folder; 10 of its 13 clips have no files of 02 to 04."""
    clips = np.array([*SHOWN, GONE, *(f"training80_01/other{k}.000" for k in range(N - 4))])
    aligned = _tokens(clips)
    ratings = dict(zip(TRAITS, aligned.labels.T, strict=True))
    table_of(clips).assign(source=clips, split="", bytes=1, **ratings).to_csv(out / "clips.csv")
    write_aligned(out / "aligned", aligned)
    write_manifest(out / "aligned", "aligned", {"static": {"parameters": {"weights": "random"}}}, clips=N)
    write_manifest(out / "dynamic", "dynamic", {"parameters": DynamicConfig(flow_clip_px=8.0).as_dict()}, clips=N)
    write_manifest(out / "static", "static", {}, clips=N)
    for row, clip in enumerate(clips[:4]):
        source = SHOWN[1] if clip == GONE else clip
        write_track(out / "faces" / f"{clip}.npz", track_clip(DATA / f"{source}.mp4", PreparationConfig()))
        for stream, mask in (("static", aligned.static_mask[row]), ("dynamic", aligned.dynamic_mask[row])):
            n, step_s = int(mask.sum()), STEP_S * TD / len(mask) if mask.all() else 0.2
            start_s = np.arange(n) * step_s
            frame = np.rint((start_s + step_s / 2) * 15).astype(int)  # 15 per second in the sample
            rows = FeatureFile(np.zeros((n, 2), "float32"), start_s, start_s + step_s, frame, np.ones(n, bool))
            write_features(out / stream / f"{clip}.npz", rows)
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
    aligned = toy_tokens.aligned(N)
    static, dynamic = aligned.static_mask.copy(), aligned.dynamic_mask.copy()
    static[0, 1:] = dynamic[0, 1:] = False
    aligned.labels[-1] = np.nan
    return replace(
        aligned,
        static_features=aligned.static_features * static[..., None],
        dynamic_features=aligned.dynamic_features * dynamic[..., None],
        static_mask=static,
        dynamic_mask=dynamic,
        static_t_s=(aligned.static_t_s + np.float32(0.5)) * np.float32(STEP_S * TD / TS) * static,
        dynamic_t_s=aligned.dynamic_t_s * np.float32(STEP_S) * dynamic,
        clips=clips,
        sources=clips,
        splits=np.full(N, ""),
    )
