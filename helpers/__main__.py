"""Command line: `python -m helpers COMMAND`; `python -m helpers --help` lists the commands.

Exit: 0 done, 1 an error, 2 wrong usage, 3 `check` found clips that cannot be used.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from helpers import training_commands
from helpers.classes import classify
from helpers.scoring import score_command

log = logging.getLogger("helpers")


def main(argv: list[str] | None = None) -> int:
    """Run one command; every expected error is one line on stderr."""
    argv = sys.argv[1:] if argv is None else argv
    # A clip's name may begin with a dash (YouTube ids do); argparse would take it for an option.
    argv = [f"./{a}" if a.startswith("-") and Path(a).is_file() else a for a in argv]
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)
    try:
        return arguments.command(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        log.debug("", exc_info=True)
        return 1
    except KeyboardInterrupt:
        print("stopped. The same command goes on from here.", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helpers", description="The ocean workbook from the command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the notebooks on a folder of clips")
    run.add_argument("--data", type=Path, required=True, help="folder of clips with ratings")
    run.add_argument("--out", type=Path, required=True, help="folder of this run's results")
    run.add_argument("--weights", choices=("pretrained", "random"), help="default: pretrained")
    run.add_argument("--params", type=Path, metavar="FILE.yaml", help="parameters, one section per notebook")
    run.add_argument("--only", metavar="03,04", help="these notebooks only")
    run.add_argument("--from", dest="start", metavar="05", help="this notebook and all after it")
    run.add_argument("--limit", type=int, default=0, metavar="N", help="the first N clips only")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="look at every clip of a folder, and forecast what a run will take")
    check.add_argument("data", type=Path, metavar="DIR", help="folder of clips, with or without ratings")
    check.add_argument("--csv", type=Path, metavar="FILE", help="write the table here, every clip and column")
    check.add_argument("--limit", type=int, default=0, metavar="N", help="the first N clips only")
    check.add_argument("--thorough", action="store_true", help="decode every frame, to find damage inside")
    check.add_argument("--params", type=Path, metavar="FILE.yaml", help="parameters that the run will have")
    check.add_argument("--no-forecast", action="store_true", help="the clips only, not the hours and disk of a run")
    check.set_defaults(command=_check)

    report = commands.add_parser("report", help="write summary.json and report.html of a run again")
    report.add_argument("run", type=Path, metavar="DIR", help="the run's folder: 06 is done in it")
    report.set_defaults(command=_report)

    score_command.add_to(commands)
    training_commands.add_to(commands)

    export = commands.add_parser("export", help="write the face crops of a run as a tree of JPEG files")
    export.add_argument("--data", type=Path, required=True, help="folder of clips that the run was made from")
    export.add_argument("--run", type=Path, required=True, help="the run's folder: 02 is done in it")
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="faces_jpeg/ is made in this folder")
    export.add_argument("--every", type=int, default=5, metavar="N", help="every N-th frame of a clip (default: 5)")
    export.set_defaults(command=_export)

    weights = commands.add_parser("weights", help="list, fetch, verify or convert published weights")
    weights.add_argument("action", choices=("list", "fetch", "verify", "convert"))
    weights.add_argument(
        "names", nargs="*", metavar="NAME", help="names of the list, or all; verify: all that is there"
    )
    weights.add_argument("--folder", type=Path, metavar="DIR", help="your weights folder (default: OCEAN_WEIGHTS)")
    weights.set_defaults(command=_weights)

    large = commands.add_parser("large", help="write the rows of a run as one array, for other tools")
    large.add_argument("--run", type=Path, required=True, help="the run's folder; features/ is made in it")
    large.add_argument("--hdf5", action="store_true", help="write an HDF5 file of sequences as well")
    large.set_defaults(command=_large)

    features = commands.add_parser("features", help="take features that were made elsewhere for a run's 03 or 04")
    features.add_argument(
        "--from", dest="source", type=Path, required=True, metavar="SOURCE", help="folder, .npy, .csv"
    )
    features.add_argument("--stream", choices=("static", "dynamic"), required=True)
    features.add_argument("--data", type=Path, required=True, help="folder of clips")
    features.add_argument("--out", type=Path, required=True, help="the run's folder")
    features.add_argument("--index", type=Path, metavar="FILE.csv", help="says whose the rows of a .npy are")
    features.add_argument("--fps", type=float, help="frames per second, for rows without times")
    features.add_argument(
        "--skip-unmatched", action="store_true", help="leave out features of clips that are not there"
    )
    features.set_defaults(command=_features)

    classify.add_parser(commands)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from helpers import report, workbook
    from helpers.clips import write_clips
    from helpers.files import FolderLock

    data, out = arguments.data.resolve(), arguments.out.resolve()
    if arguments.limit < 0:
        raise ValueError(f"--limit must be 0 or more, got {arguments.limit}.")
    tasks = workbook.plan(data, out, weights=arguments.weights, params=arguments.params, limit=arguments.limit)
    chosen = workbook.select(arguments.only, arguments.start)
    stored = workbook.stored_keys(tasks, data)
    if stored:
        chosen = workbook.without_videos(tasks, chosen, data)
    wanted = [task for task in tasks if task.name in chosen]
    clips = workbook.check_inputs(wanted, data, out, arguments.limit, stored)
    with FolderLock(out):
        if stored:
            write_clips(clips, out / "clips.csv")  # as 01 does for videos
        executed = workbook.run(tasks, data, out, chosen)
        if not (out / "training" / "training.json").exists():
            log.info("There is no report yet: it needs %s.", ", ".join(report.NEEDED))
        elif executed or not (out / "report.html").exists():
            log.info("report: %s", report.write_report(out))
        else:
            log.info("Nothing to do: every notebook is done. The report is %s", out / "report.html")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from helpers import report

    print(report.write_report(arguments.run))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from helpers import check
    from helpers.config import PreparationConfig
    from helpers.files import replacing, resolve, stderr_into

    if arguments.csv and arguments.csv.is_dir():
        raise IsADirectoryError(f"--csv must name a file, {arguments.csv} is a folder. Add a file's name.")
    parameters = {}
    if arguments.params or not arguments.no_forecast:
        from helpers import workbook  # takes as long to import as a few clips to check

        tasks = workbook.plan(arguments.data.resolve(), resolve("results"), params=arguments.params)
        parameters = {task.name: task.parameters for task in tasks}
    wanted = PreparationConfig.checked(parameters.get("02_clip_preparation", {}))
    table = check.check_clips(
        arguments.data,
        limit=arguments.limit,
        thorough=arguments.thorough,
        detector=wanted.detector,
        min_coverage=wanted.min_coverage,
        progress=sys.stderr.isatty(),
    )
    print(check.as_text(table), flush=True)
    if arguments.csv:
        with replacing(arguments.csv) as part:
            table.to_csv(part, float_format="%.6g")
    if not arguments.no_forecast and table["usable"].any():
        with stderr_into(os.devnull):  # TensorFlow writes a dozen lines about GPUs while it is imported
            from helpers import forecast
        print("\n" + forecast.as_text(forecast.forecast(table, arguments.data, forecast.Stages.of(parameters))))
    return 0 if table["usable"].all() else 3


def _export(arguments: argparse.Namespace) -> int:
    from helpers.clips import load_clips
    from helpers.faces import export_faces
    from helpers.files import needs

    clips = load_clips(needs(arguments.run / "clips.csv", "01_data_analysis"))
    counts = export_faces(
        clips, arguments.data, arguments.run, arguments.to, every=arguments.every, progress=sys.stderr.isatty()
    )["counts"]
    print(f"{counts['made']} clips exported, {counts['found']} were there, {counts['failed']} have no faces")
    return 0 if counts["made"] + counts["found"] else 1


def _weights(arguments: argparse.Namespace) -> int:
    from helpers import catalogue
    from helpers.files import stderr_into

    if arguments.folder:
        os.environ["OCEAN_WEIGHTS"] = str(arguments.folder.resolve())
    if arguments.action == "list":
        print(catalogue.as_text())
        return 0
    with stderr_into(os.devnull):  # TensorFlow writes a dozen lines about GPUs while it is imported
        from helpers import stock
    work = {"fetch": stock.fetch_named, "verify": stock.verify_named, "convert": stock.convert_named}[arguments.action]
    well = True
    for line, is_well in work(arguments.names):
        print(line if is_well else f"error: {line}", file=sys.stdout if is_well else sys.stderr, flush=True)
        well = well and is_well
    return 0 if well else 1


def _large(arguments: argparse.Namespace) -> int:
    from helpers import store
    from helpers.clips import load_clips

    made = [name for name in ("static", "dynamic") if (arguments.run / name).exists()]
    if not made:
        raise FileNotFoundError(f"{arguments.run} holds no features. Run 03_static_extraction first: it makes them.")
    out = arguments.run / "features"
    for name in made:
        print(store.write_large(arguments.run / name, out, name))
        if arguments.hdf5:
            store.write_hdf5(
                arguments.run / name, out / f"{name}_features.h5", name, load_clips(arguments.run / "clips.csv")
            )
            print(out / f"{name}_features.h5")
    return 0


def _features(arguments: argparse.Namespace) -> int:
    from helpers import precomputed, workbook

    options = {name: getattr(arguments, name) for name in ("data", "index", "fps", "skip_unmatched")}
    out, progress = arguments.out.resolve(), sys.stderr.isatty()
    manifest = precomputed.import_features(arguments.source, out, arguments.stream, **options, progress=progress)
    counts = manifest["counts"]
    if counts["made"]:
        workbook.forget(out, "05")
    print(
        f"{counts['made']} clips made, {counts['found']} were there, {counts['failed']} left out; "
        f"{counts['rows']} rows of {counts['feature_dim']}, {counts['invalid_rows']} of them invalid"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
