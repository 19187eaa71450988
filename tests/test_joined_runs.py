import json
import shutil

import numpy as np
import pandas as pd
import pytest
from drawn_features import write_drawn

from helpers import __main__
from helpers.classes import clip_training
from helpers.classes.classification import evaluate_all
from helpers.classes.joined_runs import join_runs, read_predictions
from helpers.config import ClassificationConfig
from helpers.workers import ONE_THREAD

SMALL = {"scales": [1.0], "folds": 3, "n_models": 1, "units": 4, "epochs": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run over drawn clips, and one of another backbone, whose classes are told after other thoughts."""
    folder = tmp_path_factory.mktemp("runs")
    cfg = ClassificationConfig(out_dir=str(folder / "a"), **SMALL)
    cfg.features.mkdir(parents=True)
    write_drawn(cfg.features, 5, noise=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_training, "cores", lambda: 0)  # train in this process: starting one takes seconds
        for name, value in ONE_THREAD.items():
            patch.setenv(name, value)  # as a training does; taken back here
        evaluate_all(cfg)
    rng = np.random.default_rng(0)
    columns = {f"p_{name}": lambda table: rng.random(len(table)) for name in ("down", "turn", "up")}
    other = change(folder / "a", folder / "b", **columns)
    path = other / "classification" / "classification.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps(results | {"config": results["config"] | {"backbone": "vgg19"}}))
    return folder / "a", other


def change(run, folder, **columns):
    """A copy of a run whose predictions differ in some columns, given by functions of the table."""
    shutil.copytree(run, folder)
    path = folder / "classification" / "predictions.csv"
    table = pd.read_csv(path)
    table.assign(**columns).to_csv(path, index=False)
    return folder


def test_joined_probabilities_are_the_mean_of_the_runs_clip_by_clip(runs):
    parts = [read_predictions(run) for run in runs]
    results = join_runs(runs)
    truth = parts[0].clips["truth"].to_numpy()
    for kind in ("plain", "noise"):
        p = np.mean([part.p[part.best][kind] for part in parts], axis=0)
        right = np.array(results["classes"])[p.argmax(axis=1)] == truth
        name = "accuracy" if kind == "plain" else "accuracy_corrupted"
        assert results["models"]["joined"][name] == pytest.approx(right.mean())
    assert results["order"] == ["majority", "bag_of_frames", *map(str, runs), "joined"]
    alone = json.loads((runs[0] / "classification" / "classification.json").read_text())
    ours = results["models"][str(runs[0])]
    assert ours == alone["models"][alone["best"]] | {"minus_bag_of_frames": ours["minus_bag_of_frames"]}
    for run in runs:
        gained = results["gains"][f"joined - {run}"]["clean"]
        accuracies = [results["models"][name]["accuracy"] for name in ("joined", str(run))]
        assert gained["difference"] == pytest.approx(accuracies[0] - accuracies[1])
        assert gained["interval"][0] <= gained["difference"] <= gained["interval"][1]
    assert [made["backbone"] for made in results["runs"].values()] == ["resnet50", "vgg19"]


def test_the_command_prints_the_joined_row_and_writes_it(runs, tmp_path, capsys):
    given = ["classify", "evaluate", "--run", str(runs[0]), "--with", str(runs[1]), "--json", str(tmp_path / "j.json")]
    assert __main__.main(given) == 0
    said = capsys.readouterr().out
    assert f"joined - {runs[1]}: clean " in said
    assert "15 test clips of 5 sources, split by source" in said
    assert json.loads((tmp_path / "j.json").read_text())["best"] == "joined"


def test_runs_of_other_clips_folds_and_classes_are_refused_with_counts(runs, tmp_path):
    def moved(table):
        return (table["fold"] + (table["source"] == "source0")) % 3

    with pytest.raises(ValueError, match=r"same folds, .*a and .*folds differ in 3 of 15 clips\. Train them with"):
        join_runs([runs[0], change(runs[1], tmp_path / "folds", fold=moved)])
    renamed = change(runs[1], tmp_path / "clips", clip=lambda table: table["clip"].replace("train/up/000", "x"))
    with pytest.raises(ValueError, match="have 15 and 15 test clips, 2 of them in one run only"):
        join_runs([runs[0], renamed])
    other = change(runs[1], tmp_path / "classes", p_left=0.0)
    path = other / "classification" / "classification.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": ["down", "left", "turn"]}))
    with pytest.raises(ValueError, match="same classes, .* differ in 2 of 4"):
        join_runs([runs[0], other])


def test_one_run_twice_and_predictions_without_folds_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="must be two different ones at least"):
        join_runs([runs[0], runs[0]])
    shutil.copytree(runs[1], tmp_path / "old")
    path = tmp_path / "old" / "classification" / "predictions.csv"
    pd.read_csv(path).drop(columns="fold").to_csv(path, index=False)
    with pytest.raises(ValueError, match="must have a column fold. Run classify train again"):
        join_runs([runs[0], tmp_path / "old"])
