"""Command line: `python -m helpers COMMAND`; `python -m helpers --help` lists the commands.

Exit: 0 done, 1 an error, 2 wrong usage, 3 `check` found clips that cannot be used. What takes long to import is
imported by the command that needs it.
"""

import logging
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, arg
from tyro.extras import SubcommandApp

from helpers.files import stderr_into

log = logging.getLogger("helpers")
app, classify = SubcommandApp(), SubcommandApp()
app.command(classify, name="classify", help="Classes of clips: train on class folders, and predict.")


def option(text: str, metavar: str | None = None, *, name: str | None = None) -> Any:
    """What `--help` says of an option; a default is named by the text."""
    return arg(help=text, metavar=metavar, name=name, help_behavior_hint="")


Pretrained = Annotated[Literal["pretrained", "random"] | None, option("published ones, or none; default: pretrained")]
Video = Positional[Annotated[Path, option("a video file, or a folder of them", "VIDEO")]]
Videos = Positional[Annotated[tuple[Path, ...], option("further ones", "[VIDEO ...]")]]
Params = Annotated[Path | None, option("further parameters, in a section for this notebook", "FILE.yaml")]


def main(argv: list[str] | None = None) -> int:
    """Run one command; every error is one line on stderr, with the file of its traceback where nobody foresaw it."""
    argv = sys.argv[1:] if argv is None else argv
    # A clip's name may begin with a dash (YouTube ids do); it would be taken for an option.
    argv = [f"./{a}" if a.startswith("-") and Path(a).is_file() else a for a in argv]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)
    with suppress(AttributeError):  # names that are not UTF-8, or a terminal that is not
        sys.stdout.reconfigure(errors="backslashreplace")
    about = {"prog": "python -m helpers", "description": "The ocean workbook from the command line."}
    try:
        return app.cli(args=argv, config=(FlagCreatePairsOff, DisallowNone), **about)
    except KeyboardInterrupt:
        print("stopped. The same command goes on from here.", file=sys.stderr)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
    except Exception as error:  # nobody foresaw it: whoever mends it needs more than a line
        with tempfile.NamedTemporaryFile("w", suffix=".log", prefix="ocean-workbook-", delete=False) as file:
            traceback.print_exc(file=file)
        said = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"error: {said}. Nobody foresaw this: please report it with {file.name}.", file=sys.stderr)
    return 1


@app.command
def run(
    *,
    data: Annotated[Path, option("folder of clips with ratings")],
    out: Annotated[Path, option("folder of this run's results")],
    weights: Pretrained = None,
    params: Annotated[Path | None, option("parameters, one section per notebook", "FILE.yaml")] = None,
    only: Annotated[str | None, option("these notebooks only", "03,04")] = None,
    start: Annotated[str | None, option("this notebook and all after it", "05", name="from")] = None,
    limit: Annotated[int, option("the first N clips only", "N")] = 0,
) -> int:
    """Run the notebooks on a folder of clips."""
    from helpers import workbook
    from helpers.clips import write_clips
    from helpers.files import FolderLock
    from helpers.names import LEAVE_OUT

    data, out = data.resolve(), out.resolve()
    tasks = workbook.plan(data, out, weights=weights, params=params, limit=limit)
    clips, left_out, chosen = workbook.check_inputs(tasks, workbook.select(only, start), data, out, limit)
    with FolderLock(out):
        if out.is_relative_to(data):
            (out / LEAVE_OUT).touch()  # nothing in it is a clip
        if not clips["bytes"].any():  # they are those of a tree; those of videos are 01's to write
            write_clips(clips, out / "clips.csv")
        executed = workbook.run(tasks, data, out, chosen)
        if workbook.REPORT not in chosen and not (out / "training" / "training.json").exists():
            log.info("No report, as nothing was trained. `report %s` makes one of what there is.", out)
        elif executed or chosen == [workbook.REPORT] or not (out / "report.html").exists():
            log.info("report: %s", workbook.write_report(out))
        else:
            log.info("Nothing to do: every notebook is done. The report is %s", out / "report.html")
        log.info("%s", workbook.account(clips, left_out, out))
    return 0


@app.command
def check(
    data: Positional[Annotated[Path, option("folder of clips, with or without ratings", "DIR")]],
    *,
    csv: Annotated[Path | None, option("write the whole table here, beside it what is no clip", "FILE")] = None,
    limit: Annotated[int, option("the first N clips only", "N")] = 0,
    thorough: Annotated[bool, option("decode every frame, to find damage inside")] = False,
    params: Annotated[Path | None, option("parameters that the run will have", "FILE.yaml")] = None,
    no_forecast: Annotated[bool, option("the clips only, not the hours and disk of a run")] = False,
) -> int:
    """Look at every clip of a folder, and forecast what a run will take."""
    from helpers import check
    from helpers.clips import LINE_END, as_line, scan_clips, write_rows
    from helpers.config import PreparationConfig
    from helpers.files import replacing, resolve
    from helpers.workbook import PREPARATION, plan

    _refuse_folders(csv=csv)
    data = data.resolve()
    tasks = plan(data, resolve("results"), params=params, limit=limit)
    clips, left_out = scan_clips(data)
    cfg, how = PreparationConfig.checked(tasks[PREPARATION]), {"thorough": thorough, "progress": sys.stderr.isatty()}
    table = check.check_clips(data, clips.head(limit or len(clips)), left_out, cfg, **how)
    where = csv.with_stem(f"{csv.stem}_left_out") if csv else "--csv FILE writes it"
    print(check.as_text(table), as_line(len(clips), left_out, where), sep="\n")
    print(check.ratings_text(tasks, data, clips, limit), flush=True)
    if csv:
        with replacing(csv) as part:
            table.to_csv(part, float_format="%.6g", lineterminator=LINE_END)
        write_rows(left_out, where)
    if not no_forecast:
        log.info("running the stages on some of the clips, for a forecast")
        print("\n" + check.forecast(table, data, tasks))
    return 0 if table["usable"].all() else 3


@app.command
def report(run: Positional[Annotated[Path, option("the run's folder", "DIR")]]) -> int:
    """Write summary.json and report.html of a run again."""
    from helpers import workbook

    print(workbook.write_report(run))
    return 0


@app.command
def score(
    video: Video,
    more: Videos = (),
    *,
    model: Annotated[Path, option("the model folder of a run: results/<run>/model")],
    out: Annotated[Path | None, option("score by notebook 09: score.json, .csv and, as a page, .html", "DIR")] = None,
    json: Annotated[Path | None, option("write the scores here", "FILE")] = None,
    csv: Annotated[Path | None, option("a table, one row per video and trait", "FILE")] = None,
) -> int:
    """Score videos with a trained model.

    Exit 0: at least one is scored, and those that failed are listed.
    """
    if out and (json or csv):
        raise ValueError("--out writes score.json and score.csv as well. Leave out --json and --csv, or --out.")
    if out:
        return _score_by_notebook([video, *more], model, out.resolve())
    _refuse_folders(json=json, csv=csv)
    with stderr_into():
        from helpers.score import Unusable, as_text, load_scorer, score_all

    def report(result):
        if isinstance(result, Unusable):
            print(f"error: {result.video}: {result.failed}", file=sys.stderr, flush=True)
        else:
            print(as_text(result), flush=True)

    results = score_all([video, *more], load_scorer(model), faces=0, report=report, json=json, csv=csv)
    return _tell_failed(sum(isinstance(result, Unusable) for result in results), len(results))


def _score_by_notebook(videos: list[Path], model: Path, out: Path) -> int:
    import pandas as pd

    from helpers import workbook
    from helpers.report import export

    if (out / "run.json").exists():
        raise ValueError(f"--out must be a folder of its own, {out} is a run's, which has scores by 09. Name another.")
    workbook.make_writable(out)
    log.info("scoring by notebook 09, which makes the page")
    paths = {"video": [os.path.abspath(path) for path in videos], "model_dir": str(model.resolve())}
    copy = workbook.execute(workbook.SCORE, paths | {"out_dir": str(out)}, out)
    page, table = export(copy, out / "score.html", "What viewers would say"), pd.read_csv(out / "score.csv")
    print(table.drop(columns=["warnings", "remarks"]).dropna(axis="columns", how="all").round(3).to_string(index=False))
    print(*table["warnings"].dropna().unique(), f"written: {page}, score.json and score.csv", sep="\n")
    failed = table["target"].isna()
    return _tell_failed(failed.sum(), failed.sum() + table[~failed]["video"].nunique())


def _tell_failed(n_failed: int, n_videos: int) -> int:
    """Exit status: 1 where no video could be scored."""
    if n_failed:
        print(f"{n_failed} of {n_videos} videos could not be scored", file=sys.stderr)
    return int(n_failed == n_videos)


def _refuse_folders(**files: Path | None) -> None:
    """Raise before hours of work are lost."""
    for name, path in files.items():
        if path and path.is_dir():
            raise IsADirectoryError(f"--{name} must name a file, {path} is a folder. Add a file's name.")


@app.command
def compare(
    *,
    data: Annotated[Path | None, option("token bank, or a run's aligned/; default: data_sample/tokens")] = None,
    out: Annotated[Path | None, option("folder of the table and its trainings; default: results/compare")] = None,
    models: Annotated[str | None, option("names, or all (default), short", "NAMES")] = None,
    params: Params = None,
) -> int:
    """Train models on the same clips and compare them in one table, `models.csv`."""
    from helpers.files import FolderLock, replacing, resolve

    with stderr_into():  # what TensorFlow writes while it is imported
        from helpers import experiment, report

    default = {"models": "all", "out_dir": "results/compare", "progress": sys.stderr.isatty()}
    cfg = _config("06_training", default, params, {"bank_dir": data, "out_dir": out, "models": models})
    folder = resolve(cfg.bank_dir)
    with FolderLock(cfg.out), replacing(cfg.out / "models.csv") as part:
        found = experiment.run_table(experiment.TrainingData(folder, None, f"the clips of {folder.name}"), cfg)
        table = report.as_table(found)
        table.to_csv(part, float_format="%.6g")
    print(table.round(3).to_string(), "", *report.verdicts(found), f"all of it is in {cfg.out}", sep="\n")
    return 0


@app.command
def train(
    *,
    static_features: Annotated[Path, option("rows of faces", "FILE.npy")],
    dynamic_features: Annotated[Path, option("rows of motion", "FILE.npy")],
    labels: Annotated[Path, option("ratings of the rows", "FILE.npy")],
    ids: Annotated[Path | None, option("clip of each row: a line each, or a CSV's column clip", "FILE")] = None,
    output: Annotated[Path, option("the model", "FILE.keras")],
    epochs: Annotated[int | None, option("at most; default: 50")] = None,
    batch_size: Annotated[int | None, option("default: 32")] = None,
    params: Params = None,
) -> int:
    """Train the cross-attention model on arrays whose rows belong together."""
    from helpers.files import read_json

    with stderr_into():
        from helpers import training_system

    default, own = asdict(training_system.SOURCE_CONFIG), {"epochs": epochs, "batch_size": batch_size}
    cfg = _config("06_training", default, params, own)
    paths = static_features, dynamic_features, labels, output
    training_system.train_personality_model(*paths, cfg.epochs, cfg.batch_size, ids_path=ids, config=cfg)
    folder = output.with_suffix("")
    found = read_json(folder / "analysis.json")
    print(f"{output}: {found['verdict']} Epoch {found['best_epoch'] + 1} of {found['epochs']} was kept.")
    print(*found["time"]["recommendations"], f"all of it is in {folder}", sep="\n")
    return 0


@app.command
def predict(
    *,
    model: Annotated[Path, option("a run's model folder")],
    face_dir: Annotated[Path, option("a folder of face pictures per clip", "DIR")],
    flow_dir: Annotated[Path, option("a folder of stored flow per clip", "DIR")],
    faces_fps: Annotated[float | None, option("pictures per second; default: as in the training", "R")] = None,
    flow_fps: Annotated[float | None, option("fields per second; default: as in the training", "R")] = None,
    output: Annotated[Path, option("the scores, (N, targets)", "FILE.npy")],
) -> int:
    """Score trees of faces and flow."""
    with stderr_into():
        from helpers.training_system import predict_trees

    how = {"faces_fps": faces_fps, "flow_fps": flow_fps, "progress": sys.stderr.isatty()}
    scores = predict_trees(model, face_dir, flow_dir, output, **how)
    print(f"{output}: {len(scores)} rows of {scores.shape[1]} scores; clips of rows: {output.stem}_ids.txt beside it")
    return 0


@classify.command(name="train")
def train_classes(
    *,
    data: Annotated[Path, option("folder <split>/<class>/…")],
    out: Annotated[Path, option("folder of this run's results")],
    params: Params = None,
    weights: Pretrained = None,
) -> int:
    """Features, cross-validated training and evaluation of class folders."""
    from helpers.files import FolderLock

    default = {"weights": "pretrained", "progress": sys.stderr.isatty()}
    own = {"data_dir": data, "out_dir": out, "weights": weights}
    cfg = _config("08_clip_classification", default, params, own)
    with stderr_into():
        from helpers import classifier, clip_features
    with FolderLock(cfg.out):
        clips = clip_features.extract_clip_features(cfg)
        for note in clips.notes():
            print(note, file=sys.stderr)
        results = classifier.evaluate_all(clips, cfg)
    print(classifier.as_table(results["models"]).to_string())
    return 0


@classify.command(name="predict")
def predict_classes(
    video: Video,
    more: Videos = (),
    *,
    model: Annotated[Path, option("a run's classification/model")],
    json: Annotated[Path | None, option("write the probabilities and notes here as well", "FILE")] = None,
) -> int:
    """Classes of videos."""
    from helpers.files import write_json

    _refuse_folders(json=json)
    with stderr_into():
        from helpers import classifier as classes
        from helpers.score import Unusable, each_video

    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns that each checkpoint is compiled by itself
    classifier = classes.load_clip_classifier(model)
    said, failed = {}, 0
    for path, p in each_video([video, *more], lambda path, _: classes.classify_clip(path, classifier)):
        if isinstance(p, Unusable):
            failed += 1
            print(f"error: {path}: {p.failed}", file=sys.stderr)
        else:
            said[str(path)] = p
            ranked = sorted(p, key=p.get, reverse=True)
            print(f"{path}: {', '.join(f'{name} {p[name]:.2f}' for name in ranked)}", flush=True)
    for note in classifier.warnings:
        print(f"note: {note}")
    if json:
        write_json(json, said | ({"warnings": classifier.warnings} if classifier.warnings else {}))
    return _tell_failed(failed, failed + len(said))


@app.command
def weights(
    action: Positional[Annotated[Literal["list", "fetch", "verify"], option("what to do")]],
    names: Positional[Annotated[tuple[str, ...], option("of the list, or all", "[NAME ...]")]] = (),
    *,
    folder: Annotated[Path | None, option("your weights folder; default: OCEAN_WEIGHTS", "DIR")] = None,
) -> int:
    """List, fetch or verify published weights."""
    if folder:
        os.environ["OCEAN_WEIGHTS"] = str(folder.resolve())
    from helpers.weights import WEIGHTS, converted_path, require

    if action == "list":
        for name, row in WEIGHTS.items():
            print(f"\n{name}: {row.purpose}; {'here' if row.is_here else 'not here'}; licence {row.licence}")
            print(*(f"    {file.url}\n    to {file.place}" for file in row.files), sep="\n")
        return 0
    if names == ("all",) or (action == "verify" and not names):
        here = [name for name, row in WEIGHTS.items() if row.is_here or converted_path(name).is_file()]
        names = list(WEIGHTS) if action == "fetch" else here
    if not names or not {*names} <= {*WEIGHTS}:
        raise ValueError(f"NAME must be all, or of {', '.join(WEIGHTS)}, got {', '.join(names) or 'nothing there'}.")
    if action == "fetch":
        require(list(names))
    return int(sum(map(_is_verified, names)) < len(names))


def _is_verified(name: str) -> bool:
    """Whether published weights have the right bytes and, those of I3D, variables; prints what they are."""
    with stderr_into():
        from helpers.i3d import build_motion_network
    from helpers.weights import WEIGHTS, published_weights

    try:
        if WEIGHTS[name].kind.startswith("i3d"):
            _, found = build_motion_network(name, channels=WEIGHTS[name].channels)
        else:
            found = published_weights(name)
    except ValueError as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return False
    print(f"{name}: {found.source}, sha256 {found.sha256}", flush=True)
    return True


@app.command
def large(
    *,
    run: Annotated[Path, option("the run's folder; features/ is made in it")],
    hdf5: Annotated[bool, option("write an HDF5 file of sequences as well")] = False,
) -> int:
    """Write the rows of a run as one array, for other tools."""
    from helpers.clips import load_clips
    from helpers.large import write_hdf5, write_large

    made = [name for name in ("static", "dynamic") if (run / name).exists()]
    if not made:
        raise FileNotFoundError(f"{run} holds no features. Run 03_static_extraction first: it makes them.")
    for name in made:
        print(write_large(run / name, run / "features", name))
        if hdf5:
            path = run / "features" / f"{name}_features.h5"
            write_hdf5(run / name, path, name, load_clips(run / "clips.csv"))
            print(path)
    return 0


@app.command
def features(
    *,
    source: Annotated[Path, option("a folder of a file per clip, or a .csv file", "SOURCE", name="from")],
    stream: Annotated[Literal["static", "dynamic"], option("which of the two they are")],
    data: Annotated[Path, option("folder of clips")],
    out: Annotated[Path, option("the run's folder")],
    fps: Annotated[float | None, option("frames per second, for rows without times")] = None,
) -> int:
    """Take features that were made elsewhere for a run's 03 or 04."""
    from helpers import external, workbook

    manifest = external.import_features(source, out, stream, data=data, fps=fps, progress=sys.stderr.isatty())
    if manifest["counts"]["made"]:
        workbook.forget(out, "05")
    print(external.as_text(manifest))
    return 0


def _config(name: str, default: dict[str, Any], params: Path | None, own: dict[str, Any]) -> Any:
    """Checked parameters of a notebook: later ones win, of `own`, the command line's, those that are not None.

    Paths of the command line are taken from the current folder, those of the `params` file from the repository.
    """
    from helpers.workbook import NOTEBOOKS, read_params

    sections = read_params(params) if params else {name: {}}
    if name not in sections:
        raise ValueError(f"{params} must have a section {name}, got {', '.join(sections) or 'nothing'}. Add it.")
    own = {key: str(value.resolve()) if isinstance(value, Path) else value for key, value in own.items()}
    given = {key: value for key, value in own.items() if value is not None}
    return NOTEBOOKS[name].checked(default | sections[name] | given)


if __name__ == "__main__":
    sys.exit(main())
