"""Runs the notebooks in order with checked parameters and inputs, and goes on where an earlier run stopped.

Every parameter of every notebook is checked before anything starts. A notebook is done when it finished with the same
source, code, data and parameters as now, and so did all before it; it is then not executed again.
"""

import hashlib
import json
import logging
import time
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pandas as pd
import yaml

from helpers.clips import (
    add_ratings,
    as_line,
    clip_table,
    is_synthetic,
    read_ratings,
    scan_clips,
    take_inventory,
    target_names,
    write_rows,
)
from helpers.config import NOTEBOOKS, AlignmentConfig, AnalysisConfig, TrainingConfig
from helpers.files import ROOT, DiskFullError, disk_full, read_json, resolve, stderr_into, write_json
from helpers.names import walk_files
from helpers.ratings import Ratings
from helpers.splits import training_problem
from helpers.store import by_kind
from helpers.weights import PUBLISHED, require

log = logging.getLogger(__name__)

WRITES = {
    "00_setup_check": ("setup.json",),
    "01_data_analysis": ("clips.csv", "analysis.json"),
    "02_clip_preparation": ("faces/manifest.json",),
    "03_static_extraction": ("static/manifest.json",),
    "04_dynamic_extraction": ("dynamic/manifest.json",),
    "05_alignment": ("aligned/manifest.json", "aligned/aligned_features_and_labels.npz"),
    "06_training": ("training/training.json", "predictions.csv", "model/model.keras", "model/card.json"),
    "07_attention_visualization": ("attention.json",),
    "08_clip_classification": ("classification/classification.json", "classification/model/card.json"),
    "09_score_a_clip": ("score.json", "score.csv"),
}
ANALYSIS, PREPARATION, STATIC, DYNAMIC, ALIGNMENT, TRAINING, ATTENTION, CLASSES, SCORE = list(WRITES)[1:]
REPORT = "10_report"  # executed after the others whenever one of them was
NEED_VIDEOS = (ANALYSIS, PREPARATION, ATTENTION, SCORE)
TREES = {STATIC: "faces_dir", DYNAMIC: "flow_dir"}  # read instead of videos
FOLDERS = TREES | {CLASSES: "data_dir"}  # read besides the data folder
CLASS_FOLDER = "motion"  # of labelled clips, beside those with ratings


class WorkbookError(RuntimeError):
    """A notebook failed; the message names it, its last error and its executed copy."""


def read_params(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a YAML file of parameters: one section per notebook, called by its name or its two digits."""
    try:
        sections = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} must be YAML in UTF-8, got {' '.join(str(error).split())}. Correct it.") from None
    if not isinstance(sections, dict) or not all(isinstance(v, dict) for v in sections.values()):
        raise ValueError(f"{path} must hold one section of `name: value` lines per notebook.")
    return {full_name(str(name), path): values for name, values in sections.items()}


def full_name(name: str, where: str | Path = "the command line") -> str:
    """The full name of the notebook called `name` (`03`, `3` or `03_static_extraction`)."""
    for full in NOTEBOOKS:
        if name == full or name.zfill(2) == full[:2]:
            return full
    raise ValueError(f"{where} names the notebook {name!r}. There are: {', '.join(NOTEBOOKS)}.")


def plan(
    data: Path, out: Path, *, weights: str | None = None, params: str | Path | None = None, limit: int = 0
) -> dict[str, dict[str, Any]]:
    """The notebooks in order with their checked parameters.

    Later ones win: the notebook's defaults, its `PRETRAINED` where its weights are (02's where those of 03 or 04 are),
    the `params` file, and what is named here. The first illegal one is a ValueError that names notebook, parameter and
    legal values. 08 is planned where the `params` file has a section for it, or the data folder a folder `motion` of
    classes.
    """
    given = read_params(params) if params else {}
    kind = weights or next((v["weights"] for v in given.values() if "weights" in v), "pretrained")
    default = {"weights": kind, "video": str(data)}
    pinned = {"data_dir": str(data), "out_dir": str(out), "model_dir": str(out / "model")}
    pinned |= ({"weights": weights} if weights else {}) | ({"limit": limit} if limit else {})
    tasks = {}
    for name, config in NOTEBOOKS.items():
        first, last = ({f.name: of[f.name] for f in fields(config) if f.name in of} for of in (default, pinned))
        tasks[name] = first | given.get(name, {}) | last
    if "pretrained" in (tasks[STATIC]["weights"], tasks[DYNAMIC]["weights"]):
        tasks[PREPARATION] = NOTEBOOKS[PREPARATION].PRETRAINED | tasks[PREPARATION]
    tasks[CLASSES]["data_dir"] = given.get(CLASSES, {}).get("data_dir", str(data / CLASS_FOLDER))
    if CLASSES not in given and not Path(tasks[CLASSES]["data_dir"]).is_dir():
        del tasks[CLASSES]
    for name, values in tasks.items():
        try:
            NOTEBOOKS[name].checked(values)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return tasks


def select(only: str | None = None, start: str | None = None) -> list[str]:
    """The notebooks that `--only 03,04` and `--from 05` leave; ValueError when that is none."""
    named = list(NOTEBOOKS) if only is None else [name.strip() for name in only.split(",") if name.strip()]
    wanted = {full_name(name) for name in named}
    first = full_name(start) if start else ""
    chosen = [name for name in NOTEBOOKS if name in wanted and name >= first]
    if not chosen:
        raise ValueError(f"--only {only!r} and --from {start or 'nothing'} leave no notebook. Name at least one.")
    return chosen


def check_inputs(
    tasks: dict[str, dict[str, Any]], chosen: list[str], data: Path, out: Path, limit: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Raise before any work is done: no clips, unreadable ratings or none to train on, a tree that cannot be used, a
    folder that cannot be written, absent weights. What 06 could not train on is a warning where it is not `chosen`.

    Returns the first `limit` clips with ratings, what was left out, and which of the chosen notebooks can be run. Where
    there are trees and no videos the clips are those of the first tree, and what needs videos cannot.
    """
    if out == data:
        raise ValueError(f"--out must be another folder than --data, got {data} for both. Name one in it, or beside.")
    clips, left_out, chosen = _clips_of_run(tasks, chosen, data)
    clips, _, targets = rated_clips(tasks, data, clips)
    make_writable(out)
    if problem := why_no_training(tasks, clips, targets, data, limit):
        if TRAINING in chosen:
            raise ValueError(f"{problem} Or stop before training with --only 00,01,02,03,04,05.")
        if clips[targets].notna().any(axis=None):
            log.warning("WARNING: 06 could not train: %s", problem)
    configs = [NOTEBOOKS[name].checked(tasks[name]) for name in chosen if name in tasks]
    wanted = [cfg for cfg in configs if getattr(cfg, "weights", "") == "pretrained"]
    require([f"{cfg.backbone}{PUBLISHED}" if hasattr(cfg, "backbone") else "i3d_flow_kinetics" for cfg in wanted])
    return clips.head(limit or len(clips)), left_out, chosen


def make_writable(out: Path) -> None:
    """Make a folder, and write to it; PermissionError where that does not go."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=out).close()
    except OSError as error:
        raise PermissionError(f"{out} cannot be written ({error.strerror}). Name another folder with --out.") from None


def _clips_of_run(
    tasks: dict[str, dict[str, Any]], chosen: list[str], data: Path
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The clips, what is none, and which notebooks can be run; see `check_inputs`."""
    trees = {}
    for name in (name for name, tree in TREES.items() if tasks.get(name, {}).get(tree)):
        from helpers.extract import open_tree  # takes as long to import as the rest

        trees[name] = open_tree(NOTEBOOKS[name].checked(tasks[name]))
    if not trees or (inventory := take_inventory(data))[0]:
        return *scan_clips(data), chosen
    for name in set(TREES).difference(trees).intersection(chosen):
        raise ValueError(f"{name}: {TREES[name]} must name a folder, as {data} holds no videos. Set it.")
    log.info("%s holds no videos: %s need them and are left out", data, ", ".join(NEED_VIDEOS))
    clips = clip_table({key: key for key in next(iter(trees.values())).clips}, data)
    return clips, inventory[1], [name for name in chosen if name not in NEED_VIDEOS]


def rated_clips(
    tasks: dict[str, dict[str, Any]], data: Path, clips: pd.DataFrame
) -> tuple[pd.DataFrame, Ratings, list[str]]:
    """Clips with their ratings as 01 will read them, these ratings, and what was rated; raises as `read_ratings`."""
    cfg = AnalysisConfig.checked(tasks.get(ANALYSIS, {}))
    targets = target_names(cfg.targets)
    ratings = read_ratings(data, clips, targets, (cfg.rating_low, cfg.rating_high))
    return add_ratings(clips, ratings), ratings, targets


def why_no_training(
    tasks: dict[str, dict[str, Any]], clips: pd.DataFrame, targets: list[str], data: Path, limit: int = 0
) -> str:
    """Why 06 could not train on the first `limit` clips even if all of them can be used; "" where it can.

    Synthetic clips, and ratings that are to be invented, are trained on whatever their number: see `choose_data`.
    """
    if any(values.get("synthetic_labels") for values in tasks.values()):
        return ""
    clips = clips.head(limit or len(clips))
    if not clips[targets].notna().any(axis=None):
        return f"none of the {len(clips)} clips taken of {data} is rated. Put ratings into it, or raise --limit."
    training = TrainingConfig.checked(tasks.get(TRAINING, {}))
    alignment = AlignmentConfig.checked(tasks.get(ALIGNMENT, {}))
    fitted, used = ((cfg.split, cfg.validation_share, cfg.test_share) for cfg in (alignment, training))
    one_split = fitted == used and (training.split == "official" or training.seeds == [alignment.seed])
    if alignment.reduction == "pca" and not one_split:
        return (
            f"reduction pca of 05 is fitted on the training clips of seed {alignment.seed}, which seeds "
            f"{training.seeds} of 06 would test on. Set seeds: [{alignment.seed}] and the split of 05 in 06."
        )
    return "" if is_synthetic(data) else training_problem(clips, targets, training)


def account(clips: pd.DataFrame, left_out: pd.DataFrame, out: Path) -> str:
    """What a run has seen, used and left out, in one line; `left_out.csv` in `out` lists it: path, kind, problem."""
    failed: dict[str, str] = {}
    for path in (out / stage / "manifest.json" for stage in ("faces", "static", "dynamic")):
        for entry in read_json(path).get("failed", []) if path.exists() else []:
            if "row" not in entry and entry["clip"] in clips.index:
                failed.setdefault(entry["clip"], entry["reason"])
    rows = [(clips.at[key, "path"], "clip", reason) for key, reason in failed.items()]
    rows = pd.DataFrame(rows, columns=left_out.columns, dtype="str")
    write_rows(pd.concat([left_out, rows]), out / "left_out.csv")
    cannot = f", {len(failed):,} cannot be ({by_kind(failed.values())})" if failed else ""
    used = f"of these clips {len(clips) - len(failed):,} used{cannot}"
    return f"{as_line(len(clips), left_out)}; {used}; list: {out / 'left_out.csv'}"


def run(tasks: dict[str, dict[str, Any]], data: Path, out: Path, chosen: Sequence[str] = tuple(WRITES)) -> int:
    """Execute the tasks that are not done; return how many were executed. WorkbookError at the first that fails.

    `tasks` are all notebooks in order, as what one depends on includes those before it; `chosen` names those that may
    be executed. 10 is left out: see `write_report`.
    """
    state_path = out / "run.json"
    state = read_json(state_path) if state_path.exists() else {}
    chosen = [name for name in tasks if name in chosen and name != REPORT]
    if CLASSES not in tasks:
        log.info("%s is left out: there is no folder %s", CLASSES, data / CLASS_FOLDER)
    folders = [resolve(path) for name, values in tasks.items() if (path := values.get(FOLDERS.get(name)))]
    chain, executed = _digest(helpers_hash(), *map(_listing_hash, [data, *filter(Path.is_dir, folders)])), 0
    for name, parameters in tasks.items():
        chain = _digest(chain, json.dumps(parameters, sort_keys=True), cells_hash(ROOT / "notebooks" / f"{name}.ipynb"))
        if name not in chosen:
            continue
        label = f"[{chosen.index(name) + 1}/{len(chosen)}] {name}"
        if is_whole(out, name) and state.get(name, {}).get("fingerprint") == chain:
            log.info("%s: done before", label)
            continue
        log.info("%s ...", label)
        if state.pop(name, None):  # killed half-way, it is not done
            write_json(state_path, state)
        started_s = time.monotonic()
        execute(name, parameters, out)
        state[name] = {"fingerprint": chain, "seconds": round(time.monotonic() - started_s, 1)}
        log.info("%s: done in %.0f s", label, state[name]["seconds"])
        write_json(state_path, state)
        executed += 1
    return executed


def is_whole(out: Path, name: str) -> bool:
    """Whether a notebook's files are there, its stage, if any, is finished, and no clip's file is lost or cut."""
    paths = [out / path for path in WRITES[name]]
    return all(path.exists() and (path.name != "manifest.json" or _is_finished(path)) for path in paths)


def _is_finished(path: Path) -> bool:
    try:
        manifest = read_json(path)
    except ValueError:
        return False
    files, counts = list(path.parent.rglob("*.npz")), manifest.get("counts", {})
    is_made = manifest.get("finished") and len(files) >= counts.get("made", 0) + counts.get("found", 0)
    return bool(is_made) and all(map(zipfile.is_zipfile, files))


def forget(out: Path, first: str) -> None:
    """Have the notebook `first` and all after it executed again: something they read was put there by hand."""
    path = out / "run.json"
    if path.exists():
        write_json(path, {name: state for name, state in read_json(path).items() if name < first})


def write_report(out: str | Path) -> Path:
    """Execute notebook 10 on a run's folder, which writes `summary.json`, and export it as `report.html`.

    FileNotFoundError where nothing of a run is there.
    """
    from helpers.report import export

    out = Path(out).resolve()
    if not any((out / path).exists() for paths in WRITES.values() for path in paths):
        raise FileNotFoundError(f"{out} holds nothing of a run. Name a folder that `run` has written to.")
    copy = execute(REPORT, {"out_dir": str(out)}, out)
    return export(copy, out / "report.html", f"What the run “{out.name}” found")


def execute(name: str, parameters: dict[str, Any], out: Path) -> Path:
    """Run one notebook; return the executed copy, in `<out>/notebooks/`."""
    import papermill  # as long as all the rest
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    copy = out / "notebooks" / f"{name}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    # Papermill takes what stands in braces in a path for a parameter.
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (ROOT / "notebooks" / copy.name, copy)]
    try:
        with stderr_into(out / "kernel.log"):
            papermill.execute_notebook(
                *paths, parameters, cwd=ROOT / "notebooks", kernel_name="python3", progress_bar=False
            )
        return copy
    except PapermillExecutionError as error:
        last = " ".join(str(error.evalue).split())
        if error.ename == DiskFullError.__name__:
            raise WorkbookError(f"{name}: {last}") from None
        why = f"in cell {error.exec_count}: {error.ename}: {last}"
    except DeadKernelError:
        why = "as its kernel died, most often for lack of memory."
    except OSError as error:  # the executed copy could not be written
        raise (disk_full(error, copy) or error) from None
    raise WorkbookError(f"{name} failed {why}\n  executed copy: {copy}")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()


def _listing_hash(folder: Path) -> str:
    """Hash of names, sizes and times of change of all files below a folder that `walk_files` does not pass over."""
    paths = [path for path, passed_over in walk_files(folder) if not passed_over]
    stats = [(folder / path).stat(follow_symlinks=(folder / path).exists()) for path in paths]
    return _digest(*(f"{path} {s.st_size} {s.st_mtime_ns}" for path, s in zip(paths, stats, strict=True)))


def cells_hash(notebook: Path) -> str:
    """Hash of the sources of a notebook's cells; outputs do not count."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return _digest(*(cell["cell_type"] + "".join(cell["source"]) for cell in cells))


def helpers_hash() -> str:
    """Hash of every source file of `helpers/`."""
    files = sorted((ROOT / "helpers").rglob("*.py"))
    return _digest(*(f"{path.relative_to(ROOT).as_posix()} {path.read_text(encoding='utf-8')}" for path in files))
