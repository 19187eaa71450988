"""Scores of clips that are stored as trees of faces and flow instead of videos.

In: the `model/` folder of a run, a folder of face pictures and one of stored flow (`helpers.precomputed`).
Out: `<name>.npy`, float32 (N, k), raw; `<name>_ids.txt`, whose line i is the clip of row i; `<name>.json`, which says
the rest; and `<name>/`, the features, which another call does not make again.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.align import align_streams
from helpers.config import DynamicConfig, StaticConfig
from helpers.extract import extract_dynamic, extract_static, open_tree
from helpers.files import differences, replacing, write_json
from helpers.names import match_clips
from helpers.score import check_weights, load_model, read_card
from helpers.store import STREAMS
from helpers.training_system import checked_output

log = logging.getLogger(__name__)


def predict_trees(
    model_dir: str | Path,
    face_dir: str | Path,
    flow_dir: str | Path,
    output: str | Path,
    *,
    faces_fps: float | None = None,
    flow_fps: float | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Make the features of both trees with the networks that a model was trained behind, and score them.

    `faces_fps`, `flow_fps`: see `FaceTree`, `FlowTree`; default: as in a training on trees.

    Returns:
        Scores, index clip in the natural order of the names in `face_dir`, a column per target. Clips in one tree only,
        or of which no row can be used, are left out; the JSON has them with their reasons.
    """
    output, folder = checked_output(output, ".npy"), Path(model_dir)
    if folder.is_file():
        raise ValueError(f"model must be a folder results/<run>/model, got the file {folder}. It scores features only.")
    card = read_card(folder, of_videos=False)
    model, reduction = load_model(folder)
    own = {"out_dir": str(output.with_suffix("")), "progress": progress}
    trained = card["extractors"]
    static = _config(StaticConfig, trained["static"], own, faces_dir=face_dir, faces_fps=faces_fps)
    dynamic = _config(DynamicConfig, trained["dynamic"], own, flow_dir=flow_dir, flow_fps=flow_fps)
    clips, left_out = clips_of_trees(static, dynamic)
    manifests = {"dynamic": extract_dynamic(clips, dynamic), "static": extract_static(clips, static)}
    odd = [line for name in STREAMS for line in _other_input(name, manifests[name]["identity"], card)]
    for line in odd:
        log.warning("the model was trained on other input: %s", line)
    aligned = align_streams(clips, static.out / "static", dynamic.out / "dynamic", reduction, targets=())
    failed = {e["clip"]: f"{name}: {e['reason']}" for name, of in manifests.items() for e in of["failed"]}
    for key in clips.index.difference(aligned.clips, sort=False):
        left_out[key] = failed.get(key, "it has no row that can be used")
    scores = model.predict(aligned.inputs(), batch_size=1024, verbose=0).astype("float32")
    table = pd.DataFrame(scores, columns=card["targets"], index=pd.Index(aligned.clips, name="clip"))
    about = {"model": str(folder), "targets": card["targets"], "clips": len(table), "left_out": left_out}
    _write(output, table, about | {"trained_on_other_input": odd})
    return table


def _write(output: Path, table: pd.DataFrame, about: dict[str, Any]) -> None:
    with replacing(output.with_name(f"{output.stem}_ids.txt")) as part:
        part.write_text("".join(f"{clip}\n" for clip in table.index), encoding="utf-8")
    write_json(output.with_suffix(".json"), about)
    with replacing(output) as part:
        np.save(part, table.to_numpy("float32"))


def _config(kind: type, trained: dict[str, Any], own: dict[str, Any], **tree: Any) -> Any:
    """The parameters that a stream of the model was made with, for another tree: its folder and its rate or None."""
    (name, folder), (rate, fps) = tree.items()
    fps = fps or trained.get("stored", {}).get("fps")
    own = own | {name: str(Path(folder).resolve())} | ({rate: float(fps)} if fps else {})
    return kind.checked(trained["parameters"] | own)


def clips_of_trees(static: StaticConfig, dynamic: DynamicConfig) -> tuple[pd.DataFrame, dict[str, str]]:
    """The clips of both trees as a table that extraction takes, and why others are left out."""
    faces, flow = open_tree(static), open_tree(dynamic)
    named, refused = match_clips(flow.clips, faces.clips)
    keys = [key for key in faces.clips if key in named]
    left_out = {key: f"it has no flow in {flow.folder.name}" for key in faces.clips if key not in named}
    left_out |= {name: f"its flow fits no faces: {reason}" for name, reason in refused.items()}
    if not keys:
        name, reason = next(iter(left_out.items()))
        raise ValueError(
            f"{faces.folder} and {flow.folder} must hold clips of the same names, got {len(faces.clips)} and "
            f"{len(flow.clips)} and none in both; {name}: {reason}. Call their folders alike."
        )
    return pd.DataFrame({"path": keys, "source": keys, "split": ""}, index=pd.Index(keys, name="key")), left_out


def _other_input(stream: str, ours: dict[str, Any], card: dict[str, Any]) -> list[str]:
    """In what the input differs from that of the training; ValueError when the network does."""
    trained = card["extractors"][stream]
    check_weights(stream, ours["weights"]["sha256"], card)
    if "stored" not in trained:
        return [f"{stream}: cut from videos there, from {ours['stored']} here"]
    views = [{k: v for k, v in of["stored"].items() if k not in ("faces", "flow")} for of in (ours, trained)]
    return [f"{stream}: {line}" for line in differences(*views)]
