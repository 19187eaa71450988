"""The commands that train and predict: `compare`, `train` and `predict` for arrays, `classify` for classes of clips."""

import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from helpers.files import stderr_into

TRAINING, CLASSES = "06_training", "08_clip_classification"  # sections of a file given with `--params`
classify = SubcommandApp()


def option(text: str, metavar: str | None = None, *, name: str | None = None) -> Any:
    """What `--help` says of an option; a default is named by the text."""
    return arg(help=text, metavar=metavar, name=name, help_behavior_hint="")


Pretrained = Annotated[Literal["pretrained", "random"] | None, option("published ones, or none; default: pretrained")]
Video = Positional[Annotated[Path, option("a video file, or a folder of them", "VIDEO")]]
Params = Annotated[Path | None, option("further parameters, in a section for this notebook", "FILE.yaml")]
Videos = Positional[Annotated[tuple[Path, ...], option("further ones", "[VIDEO ...]")]]


def compare(
    *,
    data: Annotated[Path | None, option("token bank, or a run's aligned/; default: data_sample/tokens")] = None,
    out: Annotated[Path | None, option("folder of the table and its trainings; default: results/compare")] = None,
    models: Annotated[str | None, option("names, or all (default), short", "NAMES")] = None,
    params: Params = None,
) -> int:
    """Train models on the same clips and compare them in one table, `models.csv`."""
    from helpers.config import TrainingConfig
    from helpers.files import FolderLock, replacing, resolve

    with stderr_into():  # what TensorFlow writes while it is imported
        from helpers import experiment, report

    default = {"models": "all", "out_dir": "results/compare", "progress": sys.stderr.isatty()}
    own = {"bank_dir": data, "out_dir": out, "models": models}
    cfg = TrainingConfig.checked(default | _given(TRAINING, params, own))
    folder = resolve(cfg.bank_dir)
    with FolderLock(cfg.out), replacing(cfg.out / "models.csv") as part:
        found = experiment.run_table(experiment.TrainingData(folder, None, f"the clips of {folder.name}"), cfg)
        table = report.as_table(found)
        table.to_csv(part, float_format="%.6g")
    print(table.round(3).to_string(), "", *report.verdicts(found), f"all of it is in {cfg.out}", sep="\n")
    return 0


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
    from helpers.config import TrainingConfig
    from helpers.files import read_json

    with stderr_into():
        from helpers import training_system

    own = {"epochs": epochs, "batch_size": batch_size}
    cfg = TrainingConfig.checked(asdict(training_system.SOURCE_CONFIG) | _given(TRAINING, params, own))
    paths = static_features, dynamic_features, labels, output
    training_system.train_personality_model(*paths, cfg.epochs, cfg.batch_size, ids_path=ids, config=cfg)
    folder = output.with_suffix("")
    found = read_json(folder / "analysis.json")
    print(f"{output}: {found['verdict']} Epoch {found['best_epoch'] + 1} of {found['epochs']} was kept.")
    print(*found["time"]["recommendations"], f"all of it is in {folder}", sep="\n")
    return 0


def predict(
    *,
    model: Annotated[Path, option("the .keras file, or a model folder")],
    static_features: Annotated[Path | None, option("rows of faces", "FILE.npy")] = None,
    dynamic_features: Annotated[Path | None, option("rows of motion", "FILE.npy")] = None,
    face_dir: Annotated[Path | None, option("a folder of face pictures per clip, instead", "DIR")] = None,
    flow_dir: Annotated[Path | None, option("a folder of stored flow per clip, instead", "DIR")] = None,
    faces_fps: Annotated[float | None, option("pictures per second; default: as in the training", "R")] = None,
    flow_fps: Annotated[float | None, option("fields per second; default: as in the training", "R")] = None,
    output: Annotated[Path, option("the scores, (N, targets)", "FILE.npy")],
) -> int:
    """Score rows of features, or trees of faces and flow."""
    arrays = {"static_features": static_features, "dynamic_features": dynamic_features}
    trees, rates = {"face_dir": face_dir, "flow_dir": flow_dir}, {"faces_fps": faces_fps, "flow_fps": flow_fps}
    given = [name for name, value in (arrays | trees | rates).items() if value is not None]
    if given != list(arrays) and given[:2] != list(trees):
        named = ", ".join(f"--{name}" for name in given) or "none of them"
        raise ValueError(
            "predict takes --static_features and --dynamic_features, or --face_dir and --flow_dir with their rates, "
            f"got {named}."
        )
    with stderr_into():
        from helpers import training_system

    if given == list(arrays):
        scores = training_system.predict_features(model, *arrays.values(), output)
    else:
        progress = sys.stderr.isatty()
        scores = training_system.predict_trees(model, *trees.values(), output, **rates, progress=progress)
        print(f"the clip of each row is in {output.stem}_ids.txt beside it")
    print(f"{output}: {len(scores)} rows of {scores.shape[1]} scores")
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
    from helpers.config import ClassificationConfig
    from helpers.files import FolderLock

    default = {"weights": "pretrained", "progress": sys.stderr.isatty()}
    own = {"data_dir": data, "out_dir": out, "weights": weights}
    cfg = ClassificationConfig.checked(default | _given(CLASSES, params, own))
    with stderr_into():
        from helpers import classification, clip_features
    with FolderLock(cfg.out):
        clips = clip_features.extract_clip_features(cfg, to_train=True)
        for note in clips.notes():
            print(note, file=sys.stderr)
        results = classification.evaluate_all(clips, cfg)
    print(classification.as_table(results["models"]).to_string())
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

    with stderr_into():
        from helpers import classifier as classes
        from helpers.container import VideoError
        from helpers.score import named_videos
        from helpers.store import reason_of

    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns that each checkpoint is compiled by itself
    classifier = classes.load_clip_classifier(model)
    said, failed = {}, 0
    for _, path in named_videos([video, *more]):
        try:
            if path.is_dir():
                raise VideoError(f"{path.name}: this folder holds no videos. Check the path")
            p = said[str(path)] = classes.classify_clip(path, classifier)
        except BaseException as error:
            failed += 1
            print(f"error: {path}: {reason_of(error, path.name)}", file=sys.stderr)
        else:
            ranked = sorted(p, key=p.get, reverse=True)
            print(f"{path}: {', '.join(f'{name} {p[name]:.2f}' for name in ranked)}", flush=True)
    for note in classifier.warnings:
        print(f"note: {note}")
    if json:
        write_json(json, said | ({"warnings": classifier.warnings} if classifier.warnings else {}))
    return 1 if failed else 0


def _given(section: str, params: Path | None, own: dict[str, Any]) -> dict[str, Any]:
    """A section of the `--params` file, and over it the parameters of the command line that are not None.

    Paths of the command line are taken from the current folder, those of the file from the repository.
    """
    from helpers.workbook import read_params

    sections = read_params(params) if params else {section: {}}
    if section not in sections:
        held = ", ".join(sections) or "nothing"
        raise ValueError(f"{params} must have a section {section}, got {held}. Add it, or leave it out.")
    own = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in own.items()}
    return sections[section] | {name: value for name, value in own.items() if value is not None}
