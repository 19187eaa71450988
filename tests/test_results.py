"""One table from one call, on models without a network: leaks and shuffled labels are found out."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_experiment import tokens, write_folder

from helpers import experiment, results
from helpers.__main__ import main
from helpers.align import Aligned
from helpers.clips import write_clips
from helpers.config import TrainingConfig
from helpers.files import ROOT, read_json, resolve, write_json

QUICK = "constant,same_video,ridge"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Compare the quick models on these clips, in this process; the token model, which takes long, is left out."""
    monkeypatch.setattr(results, "chosen_models", lambda models: tuple(models.split(",")))

    def run_on(clips: Aligned, **changes) -> tuple[pd.DataFrame, dict]:
        def train_here(wanted: list, data: experiment.TrainingData, cfg: TrainingConfig) -> None:
            for job in wanted:
                fitted = experiment.train_one(job, clips, None, cfg)
                experiment.write_fitted(cfg.out / "training", job, "", fitted)

        monkeypatch.setattr(results, "train_all", train_here)
        write_folder(tmp_path / "clips", clips)
        options = {"models": QUICK, "seeds": [0, 1], "workers": 1, "validation_share": 0.2, "test_share": 0.4}
        cfg = TrainingConfig(out_dir=str(tmp_path / "run"), **options | changes)
        return results.compare_models_of(tmp_path / "clips", cfg)

    return run_on


def test_the_table_has_every_model_with_intervals_and_is_written(run, tmp_path):
    table, found = run(tokens())
    assert table.index.tolist() == QUICK.split(",")
    assert table.loc["ridge", "O"] > 0.5
    assert table.loc["ridge", "over_constant_low"] < table.loc["ridge", "over_constant"]
    assert np.isnan(table.loc["constant", "over_constant"])
    written = pd.read_csv(tmp_path / "run" / "models.csv", index_col="model")
    np.testing.assert_allclose(written["mean"], table["mean"], rtol=1e-5)
    from_file = read_json(tmp_path / "run" / "training" / "training.json")
    assert from_file["comparisons"] == found["comparisons"]
    pd.testing.assert_frame_equal(results.table_of(from_file), results.table_of(found))
    text = results.as_text(table)
    assert "over the constant" in text
    assert "[" in text.splitlines()[-1]


def test_shuffled_labels_are_reported_as_no_better_than_a_constant(run):
    clips = tokens()
    order = np.random.default_rng(0).permutation(len(clips))
    _, found = run(dataclasses.replace(clips, labels=clips.labels[order]))
    for comparison in found["comparisons"]:
        assert "is no better than a constant" in comparison["verdict"]


def test_a_leaking_split_is_flagged_and_the_look_up_shows_what_it_gives_away(run, caplog):
    clips = tokens()
    of_source = np.random.default_rng(1).uniform(0.2, 0.8, (20, 5)).astype("float32")
    clips.labels[:] = np.repeat(of_source, 3, 0)  # the clips of a source are rated alike
    with caplog.at_level(logging.WARNING, logger="helpers"):
        _, found = run(clips, split="random", models="constant,same_video")
    assert "this split leaks" in caplog.text
    assert found["split"]["warning"].startswith("this split leaks: ")
    assert found["comparisons"][0]["verdict"].startswith("same video is better than a constant by")
    _, found = run(clips, models="constant,same_video")
    assert found["split"]["warning"] is None
    assert found["comparisons"][0]["verdict"].startswith("same video is no better than a constant")


def test_the_sentences_that_matter_are_few_and_none_is_said_twice():
    names = ("token_cross_attention", "one_token_cross_attention", "token_cross_attention_shuffled", "ridge")
    models = {name: {"r2": {"mean": r2}} for name, r2 in zip(names, (0.7, 0.6, 0.5, 0.4), strict=True)}
    pairs = [(name, "constant") for name in names] + [(names[0], name) for name in names[1:]]
    comparisons = [{"a": a, "b": b, "low": 0.1, "verdict": f"{a} and {b}."} for a, b in pairs]
    comparisons[3]["low"] = -0.1
    said = results.telling({"models": models, "comparisons": comparisons, "groups": {}})
    expected = [f"{names[0]} and {b}." for b in ("constant", *names[1:3])]
    assert said == [*expected, "No better than a constant: ridge."]  # the strongest rival is among the controls


def test_missing_ratings_are_counted_and_left_out(run):
    clips = tokens()
    clips.labels[::2, 1] = np.nan
    table, found = run(clips)
    assert found["ratings"]["rated"]["conscientiousness"] == 30
    assert found["ratings"]["first_missing"] == "conscientiousness of bank/000"
    assert np.isfinite(table.loc["ridge", "C"])
    clips.labels[:, 1] = np.nan
    with pytest.raises(ValueError, match="conscientiousness must be rated in every part of the split"):
        run(clips)


def test_a_wrong_model_is_refused_by_the_command_line(tmp_path, capsys):
    write_folder(tmp_path / "clips", tokens())
    arguments = ["--data", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--models", "ridge,oracle"]
    assert main(["compare", *arguments]) == 1
    assert "got 'oracle'" in capsys.readouterr().err


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path, capsys, monkeypatch):
    asked = []

    def note(folder: Path, cfg: TrainingConfig) -> tuple[None, None]:
        asked.append((folder, cfg))
        return None, None

    monkeypatch.setattr(results, "compare_models_of", note)
    for name in ("as_text", "sizes_as_text", "telling"):
        monkeypatch.setattr(results, name, lambda _: "")
    (tmp_path / "p.yaml").write_text("06_training: {seeds: [5], models: ridge, epochs: 3}\n")
    params = ["--params", str(tmp_path / "p.yaml")]
    monkeypatch.chdir(tmp_path)
    for more in ([], params, [*params, "--seeds", "7,8", "--models", "short", "--data", "mine", "--out", "out"]):
        assert main(["compare", *more]) == 0
    chosen = [(folder, cfg.out, cfg.seeds, cfg.models, cfg.epochs) for folder, cfg in asked]
    default = ROOT / "data_sample" / "tokens", resolve("results/compare")
    assert chosen[0] == (*default, [0, 1, 2], "all", 50)
    assert chosen[1] == (*default, [5], "ridge", 3)
    assert chosen[2] == (tmp_path / "mine", tmp_path / "out", [7, 8], "short", 3)
    assert capsys.readouterr().out.endswith(f"all of it is in {tmp_path / 'out'}\n")


def test_a_file_without_the_section_of_the_training_is_refused(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("03: {weights: random}\n")
    assert main(["compare", "--params", str(tmp_path / "p.yaml")]) == 1
    assert "p.yaml must have a section 06_training, got 03_static_extraction" in capsys.readouterr().err


def test_groups_and_the_ceiling_of_the_ratings_come_with_the_results(run, tmp_path, monkeypatch):
    clips = tokens()
    group = np.where(np.arange(len(clips)) // 3 % 2, "b", "a")
    table = pd.DataFrame({"path": "x", "source": clips.sources, "split": "", "group": group}, index=clips.clips)
    write_clips(table.rename_axis("key").assign(openness=0.5), tmp_path / "run" / "clips.csv")
    agreement = {"openness": {"max_r2": 0.64, "max_pearson": 0.8}}
    write_json(tmp_path / "run" / "analysis.json", {"reliability": agreement})
    monkeypatch.setattr(results, "TOKEN_MODEL", "ridge")  # trained in no time
    _, found = run(clips)
    assert found["ceiling"] == {"r2": {"O": 0.64}, "pearson": {"O": 0.8}}
    assert list(found["groups"]) == ["a", "b"]
    errors = found["groups"]["a"]
    assert errors["mae"]["low"] < errors["mae"]["value"] < errors["mae"]["high"]


def test_sizes_of_networks_are_a_table_without_the_models_that_are_none():
    rows = {"ridge": [np.nan] * 4, "aligned_mlp": [54_533, 54_000, 6, 853_489]}
    table = pd.DataFrame.from_dict(rows, "index", columns=["parameters", "trainable", "layers", "flops"])
    header, row = results.sizes_as_text(table).splitlines()
    assert header.split() == ["parameters", "trainable", "layers", "Mflop"]
    assert row.split() == ["aligned_mlp", "54533", "54000", "6", "0.85"]
