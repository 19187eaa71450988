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
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional
from tyro.extras import SubcommandApp

from helpers import training_commands
from helpers.files import stderr_into
from helpers.training_commands import Pretrained, Video, Videos, option

log = logging.getLogger("helpers")
app = SubcommandApp()


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
    from helpers.clips import as_line, line_end, scan_clips, write_rows
    from helpers.config import PreparationConfig
    from helpers.files import replacing, resolve
    from helpers.workbook import PREPARATION, plan

    _check_targets({"csv": csv})
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
            table.to_csv(part, float_format="%.6g", lineterminator=line_end(table.index))
        write_rows(left_out, where)
    if not no_forecast:
        log.info("running the stages on some of the clips, for a forecast")
        try:
            with stderr_into():
                found = check.estimate(table, data, tasks)
            print("\n" + check.estimate_text(found))
        except Exception as error:  # the table stands, whatever came of the forecast
            print(f"\nNo forecast: {' '.join(str(error).split()) or type(error).__name__}")
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
    out: Annotated[Path | None, option("write score.json, score.csv and score.html here", "DIR")] = None,
    json: Annotated[Path | None, option("write the scores here as well", "FILE")] = None,
    csv: Annotated[Path | None, option("a table, one row per video and trait", "FILE")] = None,
    html: Annotated[Path | None, option("one page about all videos, to open in a browser", "FILE")] = None,
) -> int:
    """Score videos with a trained model.

    Exit 0: at least one is scored, and those that failed are listed.
    """
    files = {"json": json, "csv": csv, "html": html}
    if out:
        files = {kind: path or out / f"score.{kind}" for kind, path in files.items()}
    _check_targets(files, out)
    with stderr_into():
        from helpers.score import Unusable, as_text, load_scorer, score_all

    def report(result):
        if isinstance(result, Unusable):
            print(f"error: {result.video}: {result.failed}", file=sys.stderr, flush=True)
        else:
            print(as_text(result), flush=True)

    page = files.pop("html")
    if page:
        from helpers import workbook

        log.info("scoring by notebook 09, which makes the page")
        results = workbook.score_page([video, *more], model, page, **files)
        for result in results:
            report(result)
    else:
        results = score_all([video, *more], load_scorer(model), faces=0, report=report, **files)
    if failed := sum(isinstance(result, Unusable) for result in results):
        print(f"{failed} of {len(results)} videos could not be scored", file=sys.stderr)
    for path in filter(None, [*files.values(), page]):
        print(f"written: {path}", flush=True)
    return 1 if failed == len(results) else 0


def _check_targets(files: dict[str, Path | None], out: Path | None = None) -> None:
    """Raise before hours of work are lost: a folder where a file is to be written, or the other way round."""
    if out and out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out must name a folder, {out} is a file. Name another.")
    for kind, path in files.items():
        if path and path.is_dir():
            raise IsADirectoryError(f"--{kind} must name a file, {path} is a folder. Add a file's name.")


for command in (training_commands.compare, training_commands.train, training_commands.predict):
    app.command(command)
app.command(training_commands.classify, name="classify", help="Classes of clips: train on class folders, and predict.")


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
    from helpers.weights import WEIGHTS, published_weights, require

    if action == "list":
        for name, row in WEIGHTS.items():
            print(f"\n{name}: {row.purpose}; {'here' if row.is_here else 'not here'}; licence {row.licence}")
            print(*(f"    {file.url}\n    to {file.place}" for file in row.files), sep="\n")
        return 0
    if names == ("all",) or (action == "verify" and not names):
        names = [name for name, row in WEIGHTS.items() if action == "fetch" or row.is_here]
    if not names or not {*names} <= {*WEIGHTS}:
        raise ValueError(f"NAME must be all, or of {', '.join(WEIGHTS)}, got {', '.join(names) or 'nothing there'}.")
    if action == "fetch":
        require(list(names))
    with stderr_into():
        from helpers.i3d import build_motion_network
    failed = 0
    for name in names:
        row = WEIGHTS[name]
        try:
            if row.kind.startswith("i3d"):  # names and shapes of its variables as well
                _, found = build_motion_network(name, channels=row.channels)
            else:
                found = published_weights(name)
            print(f"{name}: {found.source}, sha256 {found.sha256}", flush=True)
        except ValueError as error:
            failed = 1
            print(f"error: {name}: {error}", file=sys.stderr)
    return failed


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


if __name__ == "__main__":
    sys.exit(main())
