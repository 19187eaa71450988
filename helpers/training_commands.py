"""The commands that train and predict: `compare`, `train` and `predict` for arrays, `classify` for classes of clips."""

import logging
import os
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

SECTION = "06_training"  # of a file given with `--params`; what the command line says wins over it
unset = partial(arg, help_behavior_hint="")  # an option whose default stands in its help, or that has none
Params = Annotated[Path | None, unset(metavar="FILE.yaml")]
Seeds = Annotated[str | None, unset(metavar="0,1,2")]
Array = Annotated[Path, arg(metavar="FILE.npy")]
Rate = Annotated[float | None, unset(metavar="R")]
Videos = Positional[Annotated[tuple[Path, ...], unset(metavar="VIDEO [VIDEO ...]")]]
classify = SubcommandApp()


class UsageError(Exception):
    """Wrong usage that the types of a command's parameters do not say."""


def some(videos: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the videos, at least one."""
    if not videos:
        raise UsageError("VIDEO must name at least one file or folder, got none. --help says more.")
    return videos


def without_noise() -> AbstractContextManager[None]:
    """Hide the dozen lines about GPUs that TensorFlow writes while it is imported."""
    from helpers.files import stderr_into

    return stderr_into(os.devnull)


def compare(
    *,
    data: Annotated[Path | None, unset()] = None,
    out: Annotated[Path | None, unset()] = None,
    models: Annotated[str | None, unset(metavar="NAMES")] = None,
    seeds: Seeds = None,
    params: Params = None,
) -> int:
    """Train models on the same clips and compare them in one table.

    Args:
        data: Token bank, or a run's aligned/; default: data_sample/tokens.
        out: Folder of the table and its trainings; default: results/compare.
        models: Names, or all (default), short, ablations.
        seeds: Each with its own split and start; default: 0,1,2.
        params: Further parameters, in a section 06_training.
    """
    from helpers.config import TrainingConfig
    from helpers.files import resolve

    with without_noise():
        from helpers import compare

    default = {"models": "all", "out_dir": "results/compare", "progress": sys.stderr.isatty()}
    own = {"bank_dir": data, "out_dir": out, "models": models}
    cfg = TrainingConfig.checked(default | _given(params, seeds, own))
    table, found = compare.compare_models_of(resolve(cfg.bank_dir), cfg)
    print(compare.as_text(table), "", compare.sizes_as_text(table), "", *compare.telling(found), sep="\n")
    print(f"all of it is in {cfg.out}")
    return 0


def train(
    *,
    static_features: Array,
    dynamic_features: Array,
    labels: Array,
    ids: Annotated[Path | None, unset(metavar="FILE")] = None,
    output: Annotated[Path, arg(metavar="FILE.keras")],
    epochs: Annotated[int | None, unset()] = None,
    batch_size: Annotated[int | None, unset()] = None,
    seeds: Seeds = None,
    params: Params = None,
) -> int:
    """Train the cross-attention model on arrays whose rows belong together.

    Args:
        static_features: Rows of faces.
        dynamic_features: Rows of motion.
        labels: Ratings of the rows.
        ids: Clip of each row: a line each, or a CSV's column clip.
        output: The model.
        epochs: At most; default: 50.
        batch_size: Default: 32.
        seeds: Each with its own split and start; default: one.
        params: Further parameters, in a section 06_training.
    """
    from helpers.config import TrainingConfig
    from helpers.files import read_json

    with without_noise():
        from helpers.training import training_seeds, training_system

    default = asdict(training_system.SOURCE_CONFIG) | {"seeds": [0]}
    config = TrainingConfig.checked(default | _given(params, seeds, {"epochs": epochs, "batch_size": batch_size}))
    paths = (static_features, dynamic_features, labels, output)
    how = {"epochs": config.epochs, "batch_size": config.batch_size, "ids_path": ids, "config": config}
    folder = output.with_suffix("")
    if len(config.seeds) > 1:
        *_, agreed = training_seeds.train_with_seeds(*paths, **how, seeds=config.seeds)
        print(training_seeds.as_text(agreed))
    else:
        training_system.train_personality_model(*paths, **how)
        found = read_json(folder / "analysis.json")
        print(f"{output}: {found['verdict']} Epoch {found['best_epoch'] + 1} of {found['epochs']} was kept.")
        print(*found["time"]["recommendations"], sep="\n")
    print(f"all of it is in {folder}")
    return 0


def predict(
    *,
    model: Path,
    static_features: Annotated[Path | None, unset(metavar="FILE.npy")] = None,
    dynamic_features: Annotated[Path | None, unset(metavar="FILE.npy")] = None,
    face_dir: Annotated[Path | None, unset(metavar="DIR")] = None,
    flow_dir: Annotated[Path | None, unset(metavar="DIR")] = None,
    faces_fps: Rate = None,
    flow_fps: Rate = None,
    output: Array,
) -> int:
    """Score rows of features, or trees of faces and flow.

    Args:
        model: The .keras file, or a model folder.
        static_features: Rows of faces, with those of motion.
        dynamic_features: Rows of motion.
        face_dir: A folder of face pictures per clip instead, with one of flow.
        flow_dir: A folder of stored flow per clip.
        faces_fps: Pictures per second; default: as in the training.
        flow_fps: Fields per second; default: as in the training.
        output: The scores, (N, targets).
    """
    arrays = {"static_features": static_features, "dynamic_features": dynamic_features}
    trees = {"face_dir": face_dir, "flow_dir": flow_dir}
    given = [name for name, path in (arrays | trees).items() if path is not None]
    if given not in (list(arrays), list(trees)):
        named = ", ".join(f"--{name}" for name in sorted(given)) or "none of them"
        raise ValueError(
            f"predict takes --static_features and --dynamic_features, or --face_dir and --flow_dir, got {named}."
        )
    with without_noise():
        from helpers import tree_scores
        from helpers.training import training_system

    if given == list(trees):
        rates = {"faces_fps": faces_fps, "flow_fps": flow_fps}
        scores = tree_scores.predict_trees(model, *trees.values(), output, **rates, progress=sys.stderr.isatty())
        print(f"the clip of each row is in {tree_scores.ids_file(output)}")
    else:
        scores = training_system.predict_features(model, *arrays.values(), output)
    print(f"{output}: {len(scores)} rows of {scores.shape[1]} scores")
    return 0


@classify.command(name="train")
def train_classes(
    *,
    data: Path,
    out: Path,
    params: Params = None,
    weights: Annotated[Literal["pretrained", "random"] | None, unset()] = None,
) -> int:
    """Features, cross-validated training and evaluation of class folders.

    Args:
        data: Folder <split>/<class>/….
        out: Folder of this run's results.
        params: Parameters, in a section for notebook 08.
        weights: Published weights or none; default: pretrained.
    """
    from helpers.config import ClassificationConfig
    from helpers.files import FolderLock
    from helpers.workbook import read_params

    values = {"weights": "pretrained", "progress": sys.stderr.isatty()}
    values |= read_params(params).get("08_clip_classification", {}) if params else {}
    values |= {"data_dir": str(data.resolve()), "out_dir": str(out.resolve())}
    cfg = ClassificationConfig.checked(values | ({"weights": weights} if weights else {}))
    with without_noise():
        from helpers.classes import classification, clip_classes, clip_features
    with FolderLock(cfg.out):
        made = clip_features.extract_clip_features(cfg, to_train=True)
        for failure in made["failed"]:
            print(f"left out: {failure['clip']}: {failure['reason']}", file=sys.stderr)
        results = classification.evaluate_all(cfg)
        clip_classes.keep_model(cfg, results)
    print(classification.as_text(results))
    return 0


@classify.command(name="predict")
def predict_classes(
    videos: Videos,
    *,
    model: Path,
    further: Annotated[tuple[Path, ...], unset(name="with", metavar="MODEL [MODEL ...]")] = (),
    json: Annotated[Path | None, unset(metavar="FILE")] = None,
) -> int:
    """Classes of videos.

    Args:
        videos: Video files, or folders of them.
        model: A run's classification/model.
        further: To average with: .keras files of the same backbone, classification/model of other runs.
        json: Write the probabilities and notes here as well.
    """
    from helpers.files import write_json

    with without_noise():
        from helpers.classes import clip_classes
        from helpers.container import VideoError
        from helpers.pipeline import CLIP_ERRORS
        from helpers.scores import named_videos

    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns that each checkpoint is compiled by itself
    videos, classifier = some(videos), clip_classes.load_clip_classifier(model, list(further))
    said, failed = {}, 0
    for _, video in named_videos(videos):
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
    if json:
        write_json(json, said | ({"warnings": notes} if notes else {}))
    return 1 if failed else 0


@classify.command(name="evaluate")
def evaluate_classes(
    *,
    run: Path,
    further: Annotated[tuple[Path, ...], unset(name="with", metavar="RUN [RUN ...]")] = (),
    json: Annotated[Path | None, unset(metavar="FILE")] = None,
) -> int:
    """The tables of a run that is trained.

    Args:
        run: The run's folder.
        further: No longer there.
        json: Write the results here as well.
    """
    from helpers.files import needs, read_json, write_json

    if further:
        raise ValueError("--with is gone: runs are no longer joined. Leave it out, or average predictions.csv.")
    results = read_json(needs(run / "classification" / "classification.json", "classify train"))
    with without_noise():
        from helpers.classes import classification

    if json:
        write_json(json, results)
    print(classification.as_text(results))
    return 0


def _given(params: Path | None, seeds: str | None, own: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the `--params` file, and over them those of the command line that are not None.

    Paths of the command line are taken from the current folder, those of the file from the repository.
    """
    from helpers.workbook import read_params

    sections = read_params(params) if params else {SECTION: {}}
    if SECTION not in sections:
        held = ", ".join(sections) or "nothing"
        raise ValueError(f"{params} must have a section {SECTION}, got {held}. Add it, or leave it out.")
    own = own | {name: str(value.resolve()) for name, value in own.items() if isinstance(value, Path)}
    own["seeds"] = None if seeds is None else _numbers(seeds)
    return sections[SECTION] | {name: value for name, value in own.items() if value is not None}


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds must be numbers with commas between them, got {text!r}. Correct it.") from None
