"""The command `python -m helpers classify train | predict | evaluate`.

In: parsed arguments. Out: exit status, lines on standard output, and the files of a run's `classification/`.
"""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.files import needs, read_json, stderr_into, write_json

if TYPE_CHECKING:  # takes as long to import as a command should take to say how it is used
    from helpers.config import ClassificationConfig


def add_parser(commands: Any) -> None:
    """Add the command to the parsers of `python -m helpers`."""
    classify = commands.add_parser("classify", help="classes of clips: train on class folders, predict, evaluate")
    actions = classify.add_subparsers(required=True, metavar="ACTION")

    train = actions.add_parser("train", help="features, cross-validated training and evaluation of class folders")
    train.add_argument("--data", type=Path, required=True, help="folder <split>/<class>/…")
    train.add_argument("--out", type=Path, required=True, help="folder of this run's results")
    train.add_argument("--params", type=Path, metavar="FILE.yaml", help="parameters, in a section for notebook 08")
    train.add_argument("--weights", choices=("pretrained", "random"), help="default: pretrained")
    train.set_defaults(command=_train)

    predict = actions.add_parser("predict", help="classes of videos")
    predict.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="video files, or folders of them")
    predict.add_argument("--model", type=Path, required=True, help="a run's classification/model")
    predict.add_argument("--with", dest="further", nargs="+", type=Path, default=[], metavar="MODEL",
                         help="to average with: .keras files of the same backbone, classification/model of other runs"
                         )  # fmt: skip
    predict.add_argument("--json", type=Path, metavar="FILE", help="write the probabilities and notes here as well")
    predict.set_defaults(command=_predict)

    evaluate = actions.add_parser("evaluate", help="the tables of a run that is trained")
    evaluate.add_argument("--run", type=Path, required=True, help="the run's folder")
    evaluate.add_argument("--with", dest="further", nargs="+", type=Path, default=[], metavar="RUN",
                          help="join it with runs of the same clips, classes and folds, such as of another backbone"
                          )  # fmt: skip
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the results here as well")
    evaluate.set_defaults(command=_evaluate)


def parameters(arguments: argparse.Namespace) -> "ClassificationConfig":
    """The parameters of a training: the file's, and what the command line says."""
    from helpers.config import ClassificationConfig
    from helpers.workbook import read_params

    given = read_params(arguments.params).get("08_clip_classification", {}) if arguments.params else {}
    named = {"data_dir": str(arguments.data.resolve()), "out_dir": str(arguments.out.resolve())}
    named |= {"weights": arguments.weights} if arguments.weights else {}
    return ClassificationConfig.checked({"weights": "pretrained", "progress": sys.stderr.isatty()} | given | named)


def _train(arguments: argparse.Namespace) -> int:
    from helpers.files import FolderLock

    cfg = parameters(arguments)
    with stderr_into(os.devnull):  # TensorFlow writes a dozen lines about GPUs while it is imported
        from helpers.classes import classification, clip_classes, clip_features
    with FolderLock(cfg.out):
        made = clip_features.extract_clip_features(cfg, to_train=True)
        for failure in made["failed"]:
            print(f"left out: {failure['clip']}: {failure['reason']}", file=sys.stderr)
        results = classification.evaluate_all(cfg)
        clip_classes.keep_model(cfg, results)
    print(classification.as_text(results))
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    with stderr_into(os.devnull):  # TensorFlow writes a dozen lines about GPUs while it is imported
        from helpers.classes import clip_classes
        from helpers.pipeline import CLIP_ERRORS
        from helpers.scores import named_videos
        from helpers.video import VideoError

    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns that each checkpoint is compiled by itself
    classifier = clip_classes.load_clip_classifier(arguments.model, arguments.further)
    said, failed = {}, 0
    for _, video in named_videos(arguments.videos):
        try:
            if video.is_dir():
                raise VideoError(f"{video.name}: this folder holds no videos. Check the path")
            p = said[str(video)] = clip_classes.classify_clip(video, classifier)
        except CLIP_ERRORS as error:
            failed += 1
            print(f"error: {video}: {str(error).removeprefix(f'{video.name}: ')}", file=sys.stderr)
        else:
            ranked = sorted(p, key=p.get, reverse=True)
            print(f"{video}: {', '.join(f'{name} {p[name]:.2f}' for name in ranked)}", flush=True)
    notes = clip_classes.warnings_of(classifier)
    for note in notes:
        print(f"note: {note}")
    if arguments.json:
        write_json(arguments.json, said | ({"warnings": notes} if notes else {}))
    return 1 if failed else 0


def _evaluate(arguments: argparse.Namespace) -> int:
    with stderr_into(os.devnull):
        from helpers.classes import classification, joined_runs

    if arguments.further:
        results = joined_runs.join_runs([arguments.run, *arguments.further])
    else:
        results = read_json(needs(arguments.run / "classification" / "classification.json", "classify train"))
    if arguments.json:
        write_json(arguments.json, results)
    print(classification.as_text(results))
    return 0
