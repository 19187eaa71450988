"""Runs the notebooks in order with checked parameters, and goes on where an earlier run stopped.

Every parameter of every notebook is checked before anything starts. A notebook is done when it finished with the same
source, code, data and parameters as now, and so did all before it; it is then not executed again.
"""

import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from helpers.config import NOTEBOOKS
from helpers.files import ROOT, DiskFullError, disk_full, read_json, replacing, resolve, write_json

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
ANALYSIS, PREPARATION, STATIC, DYNAMIC, _, TRAINING, ATTENTION, CLASSES, SCORE = list(WRITES)[1:]
REPORT = "10_report"  # executed after the others whenever one of them was
NEED_VIDEOS = (ANALYSIS, PREPARATION, ATTENTION, SCORE)
TREES = {STATIC: "faces_dir", DYNAMIC: "flow_dir"}  # read instead of videos
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

    Later ones win: the notebook's defaults, `params/pretrained.yaml` for pretrained weights, the `params` file, and
    what is named here. The first illegal one is a ValueError that names notebook, parameter and legal values. 08 is
    planned where the `params` file has a section for it, or the data folder a folder `motion` of classes.
    """
    given = read_params(params) if params else {}
    kind = weights or next((v["weights"] for v in given.values() if "weights" in v), "pretrained")
    preset = read_params(ROOT / "params" / "pretrained.yaml") if kind == "pretrained" else {}
    default = {"weights": kind, "video": str(data)}
    pinned = {"data_dir": str(data), "out_dir": str(out), "model_dir": str(out / "model")}
    pinned |= ({"weights": weights} if weights else {}) | ({"limit": limit} if limit else {})
    tasks = {}
    for name, config in NOTEBOOKS.items():
        first, last = ({f.name: of[f.name] for f in fields(config) if f.name in of} for of in (default, pinned))
        values = first | preset.get(name, {}) | given.get(name, {}) | last
        if name == CLASSES:
            values["data_dir"] = given.get(name, {}).get("data_dir", str(data / CLASS_FOLDER))
            if name not in given and not Path(values["data_dir"]).is_dir():
                continue
        try:
            config.checked(values)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        tasks[name] = values
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


def stored_clips(tasks: dict[str, dict[str, Any]], chosen: list[str], data: Path) -> tuple[list[str], list[str]]:
    """Where there are trees instead of videos: the keys of the first tree's clips, and the notebooks that can be run.

    Without a tree, or with videos in the data folder: no keys, and all of the `chosen`. Every tree is opened, so that
    one that cannot be used is refused before any work; so are chosen notebooks that need a tree and name none.
    """
    named = [name for name, tree in TREES.items() if tasks[name].get(tree)]
    if not named:
        return [], chosen
    from helpers.clips import take_inventory
    from helpers.extract import open_tree  # takes as long to import as the rest

    trees = [open_tree(NOTEBOOKS[name].checked(tasks[name])) for name in named]
    if take_inventory(data)[0]:
        return [], chosen
    for name, tree in TREES.items():
        if name in chosen and name not in named:
            raise ValueError(
                f"{name}: {tree} must name a folder, as {data} holds no videos. Set it, or choose others with --only."
            )
    if left_out := [name for name in chosen if name in NEED_VIDEOS]:
        log.info("%s holds no videos: %s are left out", data, ", ".join(left_out))
    return list(trees[0].clips), [name for name in chosen if name not in NEED_VIDEOS]


def run(tasks: dict[str, dict[str, Any]], data: Path, out: Path, chosen: Sequence[str] = tuple(WRITES)) -> int:
    """Execute the tasks that are not done; return how many were executed. WorkbookError at the first that fails.

    `tasks` are all notebooks in order, as what one depends on includes those before it; `chosen` names those that may
    be executed. 10 is left out: see `write_report`. What `detector: auto` of 02 stands for is settled for the run.
    """
    state_path = out / "run.json"
    state = read_json(state_path) if state_path.exists() else {}
    chosen = [name for name in tasks if name in chosen and name != REPORT]
    if CLASSES not in tasks:
        log.info("%s is left out: there is no folder %s", CLASSES, data / CLASS_FOLDER)
    if tasks.get(PREPARATION, {}).get("detector") == "auto":
        tasks[PREPARATION]["detector"] = _detector(out / "faces", PREPARATION in chosen)
    trees = [resolve(path) for name, values in tasks.items() if (path := values.get(TREES.get(name)))]
    chain = "".join(_listing_hash(folder, out) for folder in (data, *trees))
    executed = 0
    for name, parameters in tasks.items():
        chain = _fingerprint(name, parameters, chain)
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
        spent_s = round(time.monotonic() - started_s, 1)
        log.info("%s: done in %.0f s", label, spent_s)
        state[name] = {"fingerprint": chain, "seconds": spent_s}
        write_json(state_path, state)
        executed += 1
    return executed


def _detector(faces: Path, is_chosen: bool) -> str:
    """What `auto` stands for; where 02 is not to be executed, what it was executed with."""
    from helpers.detectors import chosen_detector, found_with  # OpenCV takes a while

    return chosen_detector("auto", faces) if is_chosen else found_with(faces) or "auto"


def is_whole(out: Path, name: str) -> bool:
    """Whether a notebook's files are there, and its stage, if it has one, is finished and no clip's file is missing or
    cut short; their content is not read.
    """
    paths = [out / path for path in WRITES[name]]
    if not all(path.exists() for path in paths):
        return False
    for path in (path for path in paths if path.name == "manifest.json"):
        try:
            manifest = read_json(path)
        except ValueError:
            return False
        files = list(path.parent.rglob("*.npz"))
        n_made = sum(manifest.get("counts", {}).get(count, 0) for count in ("made", "found"))
        if not (manifest.get("finished", False) and len(files) >= n_made):
            return False
    return True


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


def score_page(videos: Sequence[Path], model: Path, page: Path, **files: Path | None) -> list[Any]:
    """Score videos by notebook 09, write the further `files` that are named (`json`, `csv`), also when interrupted, and
    export the notebook as a page; returns what `helpers.score.score_all` does.

    Where it fails, the error names its executed copy, which then stays beside the page.
    """
    from helpers.report import export
    from helpers.score import read_scores

    copy = page.with_name(f"{page.stem}_{SCORE}.ipynb")
    with TemporaryDirectory() as folder:
        paths = {"video": [os.path.abspath(path) for path in videos], "model_dir": os.path.abspath(model)}
        try:
            execute(SCORE, paths | {"out_dir": folder}, Path(folder), copy)
        finally:
            for kind, path in files.items():
                if path and (made := Path(folder, f"score.{kind}")).exists():
                    with replacing(path) as part:
                        shutil.copyfile(made, part)
        results = read_scores(Path(folder, "score.json"))
    names = results[0].video if len(results) == 1 else f"{len(results)} videos"
    export(copy, page, f"What viewers would say of {names}")
    copy.unlink()
    return results


def execute(name: str, parameters: dict[str, Any], out: Path, copy: Path | None = None) -> Path:
    """Run one notebook; return the executed copy, by default in `<out>/notebooks/`."""
    import papermill  # as long as all the rest
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    copy = copy or out / "notebooks" / f"{name}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    # Papermill takes what stands in braces in a path for a parameter.
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (_source(name), copy)]
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


def _source(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.ipynb"


def _fingerprint(name: str, parameters: dict[str, Any], before: str) -> str:
    """Hash of a notebook's cells, its parameters, the helpers, and the fingerprint of the one before it."""
    parts = [before, json.dumps(parameters, sort_keys=True), cells_hash(_source(name)), helpers_hash()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _listing_hash(data: Path, out: Path) -> str:
    """Hash of names, sizes and times of change of all files below the data folder, behind links too, but results."""
    lines = []
    seen = {out.resolve(), data.resolve(), *data.resolve().parents}
    for folder, folders, files in os.walk(data, followlinks=True):
        below = {name: Path(folder, name).resolve() for name in sorted(folders)}
        folders[:] = [name for name, there in below.items() if there not in seen]
        seen.update(below.values())
        for path in (Path(folder, name) for name in sorted(files)):
            stat = path.stat() if path.exists() else path.lstat()
            lines.append(f"{path.relative_to(data)}\0{stat.st_size}\0{stat.st_mtime_ns}\n")
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def cells_hash(notebook: Path) -> str:
    """Hash of the sources of a notebook's cells; outputs do not count."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\0".join(cell["cell_type"] + "".join(cell["source"]) for cell in cells)
    return hashlib.sha256(text.encode()).hexdigest()


def helpers_hash() -> str:
    """Hash of every source file of `helpers/`."""
    files = sorted((ROOT / "helpers").rglob("*.py"))
    parts = [path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() for path in files]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@contextmanager
def stderr_into(path: str | Path = os.devnull) -> Iterator[None]:
    """Send what this process, its C++ libraries and the processes it starts write to standard error into a file."""
    sys.stderr.flush()
    before = os.dup(2)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
