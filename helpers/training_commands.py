"""The commands `compare`, all models in one table, and `train` and `predict`, for arrays whose rows belong together.

In: what stands on the command line. Out: an exit status; files and lines of text.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

SECTION = "06_training"  # of a file given with `--params`; what the command line says wins over it
FEATURES, TREES = ("static_features", "dynamic_features"), ("face_dir", "flow_dir")  # what `predict` takes


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add the commands to those of `python -m helpers`."""
    compare = commands.add_parser("compare", help="train models on the same clips and compare them in one table")
    compare.add_argument("--data", type=Path, help="token bank, or a run's aligned/; default: data_sample/tokens")
    compare.add_argument("--out", type=Path, help="folder of the table and its trainings; default: results/compare")
    compare.add_argument("--models", metavar="NAMES", help="all (default), short, ablations, or names")
    compare.add_argument("--seeds", metavar="0,1,2", help="each with its own split and start; default: 0,1,2")
    compare.add_argument("--params", type=Path, metavar="FILE.yaml", help=f"further parameters, as of {SECTION}")
    compare.set_defaults(command=_compare)

    train = commands.add_parser("train", help="train the cross-attention model on arrays whose rows belong together")
    for name in ("static_features", "dynamic_features", "labels"):
        train.add_argument(f"--{name}", type=Path, required=True, metavar="FILE.npy")
    train.add_argument("--ids", type=Path, metavar="FILE", help="clip of each row: a line each, or a CSV's column clip")
    train.add_argument("--output", type=Path, required=True, metavar="FILE.keras", help="the model")
    train.add_argument("--epochs", type=int, help="at most; default: 50")
    train.add_argument("--batch_size", type=int, help="default: 32")
    train.add_argument("--seeds", metavar="0,1,2", help="each with its own split and start; default: one")
    train.add_argument("--params", type=Path, metavar="FILE.yaml", help=f"further parameters, as of {SECTION}")
    train.set_defaults(command=_train)

    predict = commands.add_parser("predict", help="score rows of features, or trees of faces and flow")
    predict.add_argument("--model", type=Path, required=True, help="the .keras file, or a model folder")
    for name in FEATURES:
        predict.add_argument(f"--{name}", type=Path, metavar="FILE.npy", help="with the other of the two")
    for name, what in zip(TREES, ("face pictures", "stored flow"), strict=True):
        predict.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"a folder of {what} per clip, instead")
    for name in ("faces_fps", "flow_fps"):
        predict.add_argument(f"--{name}", type=float, metavar="R", help="per second; default: as in the training")
    predict.add_argument("--output", type=Path, required=True, metavar="FILE.npy", help="the scores, (N, targets)")
    predict.set_defaults(command=_predict)


def _compare(arguments: argparse.Namespace) -> int:
    from helpers.config import TrainingConfig
    from helpers.files import resolve, stderr_into

    with stderr_into(os.devnull):  # TensorFlow writes a dozen lines about GPUs while it is imported
        from helpers import compare

    default = {"models": "all", "out_dir": "results/compare", "progress": sys.stderr.isatty()}
    cfg = TrainingConfig.checked(default | _given(arguments, bank_dir="data", out_dir="out", models="models"))
    table, found = compare.compare_models_of(resolve(cfg.bank_dir), cfg)
    print(compare.as_text(table), "", compare.sizes_as_text(table), "", *compare.telling(found), sep="\n")
    print(f"all of it is in {cfg.out}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from helpers.config import TrainingConfig
    from helpers.files import read_json, stderr_into

    with stderr_into(os.devnull):  # TensorFlow writes a dozen lines about GPUs while it is imported
        from helpers.training import training_seeds, training_system

    default = asdict(training_system.SOURCE_CONFIG) | {"seeds": [0]}
    config = TrainingConfig.checked(default | _given(arguments, epochs="epochs", batch_size="batch_size"))
    paths = [getattr(arguments, name) for name in ("static_features", "dynamic_features", "labels", "output")]
    options = {"epochs": config.epochs, "batch_size": config.batch_size, "ids_path": arguments.ids}
    folder = arguments.output.with_suffix("")
    if len(config.seeds) > 1:
        *_, agreed = training_seeds.train_with_seeds(*paths, **options, config=config, seeds=config.seeds)
        print(training_seeds.as_text(agreed))
    else:
        training_system.train_personality_model(*paths, **options, config=config)
        found = read_json(folder / "analysis.json")
        print(f"{arguments.output}: {found['verdict']} Epoch {found['best_epoch'] + 1} of {found['epochs']} was kept.")
        print(*found["time"]["recommendations"], sep="\n")
    print(f"all of it is in {folder}")
    return 0


def _given(arguments: argparse.Namespace, **options: str) -> dict[str, Any]:
    """The parameters of the `--params` file, and over them those of the command line: `seeds`, and `options` by name.

    Paths of the command line are taken from the current folder, those of the file from the repository.
    """
    from helpers.workbook import read_params

    sections = read_params(arguments.params) if arguments.params else {SECTION: {}}
    if SECTION not in sections:
        held = ", ".join(sections) or "nothing"
        raise ValueError(f"{arguments.params} must have a section {SECTION}, got {held}. Add it, or leave it out.")
    own = {name: getattr(arguments, option) for name, option in options.items()}
    own |= {name: str(value.resolve()) for name, value in own.items() if isinstance(value, Path)}
    own["seeds"] = None if arguments.seeds is None else _numbers(arguments.seeds)
    return sections[SECTION] | {name: value for name, value in own.items() if value is not None}


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds must be numbers with commas between them, got {text!r}. Correct it.") from None


def _predict(arguments: argparse.Namespace) -> int:
    from helpers.files import stderr_into

    given = {name for name in FEATURES + TREES if getattr(arguments, name) is not None}
    if given not in (set(FEATURES), set(TREES)):
        named = ", ".join(f"--{name}" for name in sorted(given)) or "none of them"
        raise ValueError(
            f"predict takes --static_features and --dynamic_features, or --face_dir and --flow_dir, got {named}."
        )
    with stderr_into(os.devnull):  # TensorFlow writes a dozen lines about GPUs while it is imported
        from helpers import tree_scores
        from helpers.training import training_system

    paths = [getattr(arguments, name) for name in (*(FEATURES if given == set(FEATURES) else TREES), "output")]
    if given == set(TREES):
        rates = {"faces_fps": arguments.faces_fps, "flow_fps": arguments.flow_fps}
        scores = tree_scores.predict_trees(arguments.model, *paths, **rates, progress=sys.stderr.isatty())
        print(f"the clip of each row is in {tree_scores.ids_file(arguments.output)}")
    else:
        scores = training_system.predict_features(arguments.model, *paths)
    print(f"{arguments.output}: {len(scores)} rows of {scores.shape[1]} scores")
    return 0
