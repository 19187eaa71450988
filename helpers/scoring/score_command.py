"""The command `score`: videos in, scores with intervals out.

In: what stands on the command line. Out: an exit status; lines of text, and the files that are asked for.
"""

import argparse
import os
import sys
from pathlib import Path


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add the command to those of `python -m helpers`."""
    score = commands.add_parser("score", help="score videos with a trained model")
    score.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="video files, or folders of them")
    score.add_argument("--model", type=Path, required=True, help="the model folder of a run: results/<run>/model")
    score.add_argument("--out", type=Path, metavar="DIR", help="write score.json, score.csv and score.html here")
    score.add_argument("--json", type=Path, metavar="FILE", help="write the scores here as well")
    score.add_argument("--csv", type=Path, metavar="FILE", help="a table, one row per video and trait")
    score.add_argument("--html", type=Path, metavar="FILE", help="one page about all videos, to open in a browser")
    score.set_defaults(command=_score)


def _score(arguments: argparse.Namespace) -> int:
    """0: at least one video is scored, those that failed are listed; 1: none is."""
    from helpers.files import stderr_into

    with stderr_into(os.devnull):  # TensorFlow writes a dozen lines about GPUs while it is imported
        from helpers import score, scores
    names = {kind: getattr(arguments, kind) for kind in ("json", "csv", "html")}
    if arguments.out:
        names = {kind: name or arguments.out / f"score.{kind}" for kind, name in names.items()}
    scorer = score.load_scorer(arguments.model)
    results: list[score.ClipScore | scores.Unusable] = []
    try:
        for result in scores.score_videos(arguments.videos, scorer, faces=score.N_FACES if names["html"] else 0):
            results.append(result)
            if isinstance(result, scores.Unusable):
                print(f"error: {result.video}: {result.reason}", file=sys.stderr, flush=True)
            else:
                print(score.as_text(result), flush=True)
    finally:  # what ends a long list of videos early leaves the scores that are there
        written = scores.write_scores(results, scorer, **names)
    failed = sum(isinstance(result, scores.Unusable) for result in results)
    if failed:
        print(f"{failed} of {len(results)} videos could not be scored", file=sys.stderr)
    if written:
        print(f"written: {', '.join(map(str, written))}")
    return 1 if failed == len(results) else 0
