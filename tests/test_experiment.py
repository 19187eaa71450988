"""Training: splits, controls, repeatability, resume, the table and the card, on small synthetic tokens."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from toy_tokens import DD, DS, TD, aligned

from helpers import experiment, report, variants
from helpers.__main__ import main
from helpers.align import Aligned, ChannelGroups, Reduction, write_aligned, write_reduction
from helpers.clips import write_clips
from helpers.config import TrainingConfig
from helpers.experiment import Job, TrainingData, choose_data
from helpers.feature_quality import read_training_tokens
from helpers.files import read_json, write_json
from helpers.store import read_arrays
from helpers.variants import SHUFFLED_MODEL, TOKEN_MODEL

N = 60
SMALL = {"epochs": 2, "batch_size": 16, "fusion_dim": 8, "num_heads": 1, "seeds": [0, 1], "workers": 1}
FEW = ("constant", "ridge", TOKEN_MODEL)
STATIC = {"parameters": {"weights": "random"}, "weights": {"name": "random"}}
IDENTITY = {"static": STATIC, "dynamic": {}, "reduction": {}}


def tokens(n: int = N, name: str = "bank") -> Aligned:
    """Clips, three of each source; openness is the mean of the first face channel, so that ridge can find it."""
    made = aligned(n, per_source=3)
    made.labels[:, 0] = np.clip(0.5 + 0.4 * made.static_features[:, :, 0].mean(1), 0, 1)
    clips, sources = (np.array([name + text.format(i, i // 3) for i in range(n)]) for text in ("/{0:03d}", "{1}"))
    return replace(made, clips=clips, sources=sources)


def write_folder(folder, aligned: Aligned, identity: dict = IDENTITY, fitted_on: tuple = ()) -> None:
    write_aligned(folder, aligned)
    write_reduction(folder / "reduction.npz", Reduction(ChannelGroups(DS, DS), ChannelGroups(DD, DD), {}, fitted_on))
    write_json(folder / "manifest.json", {"identity": identity, "finished": True})


@pytest.fixture
def data(tmp_path):
    write_folder(tmp_path / "bank", tokens())
    unrated = tokens(6, "live")
    unrated.labels[1] = np.nan
    write_folder(tmp_path / "aligned", unrated)
    return TrainingData(tmp_path / "bank", tmp_path / "aligned", "a bank")


@pytest.fixture
def cfg(tmp_path):
    return TrainingConfig(out_dir=str(tmp_path / "run"), models=",".join(FEW), **SMALL)


def test_the_control_keeps_each_clips_tokens_and_moves_its_motion_and_aligned_inputs_are_paired_by_time():
    clips = tokens()
    clips.dynamic_mask[:, -1] = False
    order = variants.shuffled_order(clips, 3)
    plain, mixed = (variants.model_inputs(name, clips, 3) for name in (TOKEN_MODEL, SHUFFLED_MODEL))
    assert (order[:, -1] == TD - 1).all()
    assert np.array_equal(np.sort(order, 1), np.tile(np.arange(TD), (N, 1)))
    assert np.array_equal(mixed["dynamic"][4, 0], clips.dynamic_features[4, order[4, 0]])
    assert not np.array_equal(mixed["dynamic"], plain["dynamic"])
    for name in ("static", "dynamic_t_s"):
        assert np.array_equal(mixed[name], plain[name])
    paired = variants.model_inputs("aligned_mlp", clips, 0)["dynamic"]  # faces at 0, 1, 2, ..., motion half a second on
    np.testing.assert_array_equal(paired[:, 1:4], clips.dynamic_features[:, :3])


@pytest.mark.slow
def test_a_table_of_best_epochs_is_resumed_to_the_same_and_only_what_is_missing_is_trained(data, cfg):
    folder = cfg.out / "training"

    def trained(*jobs: Job, **changes) -> set[str]:
        """The files that a call writes."""
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
        experiment.train_all(jobs, data, replace(cfg, **changes))
        return {path.stem for path in folder.glob("*.npz") if before.get(path) != path.stat().st_mtime_ns}

    found = experiment.run_table(data, cfg)
    (folder / f"{TOKEN_MODEL}-1.npz").unlink()
    (folder / f"{TOKEN_MODEL}-0.keras").unlink()
    (folder / "ridge-0.npz").write_bytes(b"half a file")
    jobs = [Job(name, seed) for name in FEW for seed in (0, 1)]
    assert trained(*jobs, seeds=[5], workers=3) == {f"{TOKEN_MODEL}-0", f"{TOKEN_MODEL}-1", "ridge-0"}
    assert experiment.run_table(data, cfg) == found
    ridge = found["models"]["ridge"]
    assert list(ridge["r2"]) == ["O", "C", "E", "A", "N", "mean"]
    assert ridge["r2"]["O"] == pytest.approx(np.mean([s["r2"]["O"] for s in ridge["seeds"]]))
    assert {"ccc", "pearson", "mae", "mean_accuracy", "skill"} <= set(ridge)
    counts = {"train": 48, "validation": 6, "test": 6, "test_clips_sharing_a_source_with_train": 0}
    assert found["split"] == {"by": "source"} | counts | {"warning": None}
    pairs = [(c["a"], c["b"]) for c in found["comparisons"]]
    assert pairs == [("ridge", "constant"), (TOKEN_MODEL, "constant"), (TOKEN_MODEL, "ridge")]
    shown = report.as_table(found)
    assert set(shown.index) == {*FEW, "constant, 5 clips of this run", f"{TOKEN_MODEL}, 5 clips of this run"}
    assert shown.loc["ridge", "O"] == ridge["r2"]["O"]
    table = pd.read_csv(cfg.out / "predictions.csv")
    assert len(table) == len(FEW) * 2 * (6 + 6 + 6) * 5
    assert table["truth"].isna().sum() == len(FEW) * 2 * 5
    history = pd.read_csv(folder / "history.csv")
    epochs = [[TOKEN_MODEL, seed, epoch] for seed in (0, 1) for epoch in (0, 1)]
    assert history[["model", "seed", "epoch"]].to_numpy().tolist() == epochs
    network, clips = experiment.load_trained(cfg, TOKEN_MODEL, 0), experiment.rated_clips(data)
    said = read_arrays(folder / f"{TOKEN_MODEL}-0.npz")
    for of, name in ((clips, "prediction"), (data.live_clips, "live_prediction")):
        np.testing.assert_allclose(network.predict(of.inputs(), verbose=0), said[name], atol=1e-6)
    error = ((said["prediction"] - clips.labels) ** 2)[experiment.split_of(clips, cfg, 0) == "validation"].mean()
    assert error == pytest.approx(history["val_loss"][history["seed"] == 0].min(), rel=1e-4)
    card = experiment.keep_model(data, cfg, found)
    assert (card["weights"], card["synthetic"]) == ("random", False)  # no truth.csv beside the clips
    assert ["random weights" in text for text in card["warnings"]] == [True]
    assert card["interval_half_width"]["openness"] == 1  # six validation clips bound nothing
    of_training = read_training_tokens(cfg.out / "model" / "training_tokens.npz")
    assert {name: len(known.held_out) for name, known in of_training.items()} == {"static": 6, "dynamic": 6}
    assert trained(*jobs[:2], epochs=3) == {"constant-0", "constant-1"}
    write_folder(data.live, tokens(9, "live"))
    assert trained(*jobs[:2], epochs=3) == {"constant-0", "constant-1"}


@pytest.mark.slow
def test_a_training_that_cannot_be_names_itself_and_its_reason(data, cfg, monkeypatch):
    write_folder(data.folder, tokens(), fitted_on=tuple(tokens().clips[:30]))
    with pytest.raises(ValueError, match="fitted on.*with seed 0"):  # clips that are held out
        experiment.run_table(data, cfg)
    write_folder(data.folder, replace(tokens(), labels=np.full((N, 5), np.nan)))
    with pytest.raises(ValueError, match="rated clips .* a bank"):
        experiment.run_table(data, cfg)
    with pytest.raises(RuntimeError, match="constant, seed 1 failed: .* rated clips"):
        experiment.train_all([Job("constant", 1)], data, cfg)
    monkeypatch.setenv("KERAS_BACKEND", "abacus")  # of the workers: here Keras is imported already
    with pytest.raises(RuntimeError, match=f"{TOKEN_MODEL}, seed 0 failed: .*abacus"):
        experiment.train_all([Job(TOKEN_MODEL, 0)], data, cfg)


@pytest.mark.parametrize(
    ("analysis", "identity", "targets", "takes_bank"),
    [
        ({"synthetic": True}, IDENTITY, slice(None), True),
        ({}, IDENTITY, slice(None), False),
        ({"synthetic": True}, IDENTITY | {"dynamic": {"endpoint": "Mixed_4b"}}, slice(None), False),
        ({"synthetic": True}, IDENTITY, slice(1), False),  # fewer targets
        ({"synthetic": True}, IDENTITY, slice(None, None, -1), False),  # in another order
    ],
)
def test_a_bank_stands_in_for_synthetic_clips_made_alike_only_and_changed_clips_are_not_shown_with_old_models(
    data, analysis, identity, targets, takes_bank, tmp_path
):
    live = tokens(6)
    write_json(tmp_path / "analysis.json", analysis)
    write_folder(data.live, replace(live, targets=live.targets[targets], labels=live.labels[:, targets]), identity)
    chosen = choose_data(data.folder, data.live)
    assert (chosen.folder, chosen.live) == ((data.folder, data.live) if takes_bank else (data.live, None))
    assert ("dynamic.endpoint: 'Mixed_4b' here" in chosen.statement) == (identity != IDENTITY)
    assert choose_data(tmp_path / "none", data.live).folder == data.live
    about = {"seeds": [0], "models": FEW, "config": {}, "bank_dir": str(data.folder)}
    write_json(tmp_path / "training" / "training.json", about | {"clips_sha256": experiment.clips_sha256(chosen)})
    assert experiment.load_run(tmp_path)[0] == chosen
    write_folder(data.live, tokens(30), identity)
    with pytest.raises(ValueError, match="06_training"):
        experiment.load_run(tmp_path)


def test_a_leaking_split_is_flagged_and_groups_and_the_ceiling_of_the_ratings_come_with_the_results(tmp_path):
    clips = tokens()
    of_source = np.random.default_rng(1).uniform(0.2, 0.8, (20, 5)).astype("float32")
    clips.labels[:] = np.repeat(of_source, 3, 0)  # the clips of a source are rated alike
    clips.labels[::2, 1] = np.nan  # what is missing is left out
    group = np.where(np.arange(N) // 3 % 2, "b", "a")
    table = pd.DataFrame({"path": "x", "source": clips.sources, "split": "", "group": group}, index=clips.clips)
    write_clips(table.rename_axis("key").assign(openness=0.5), tmp_path / "clips.csv")
    write_json(tmp_path / "analysis.json", {"reliability": {"openness": {"max_r2": 0.64, "max_pearson": 0.8}}})
    found, options = {}, {"seeds": [0, 1], "validation_share": 0.2, "test_share": 0.4, "out_dir": str(tmp_path)}
    for split in ("random", "source"):
        cfg, parts = TrainingConfig(models="same_video", split=split, **options), []
        for name, seed in product(("constant", "same_video", "ridge"), cfg.seeds):
            test = experiment.split_of(clips, cfg, seed) == "test"
            said = experiment.train_one(Job(name, seed), clips, None, cfg)[0]["prediction"][test]
            job = Job(name.replace("ridge", TOKEN_MODEL), seed)  # for which ridge stands in: it takes long
            parts.append(experiment.prediction_rows(job, np.full(test.sum(), "test"), clips.take(test), said))
        found[split] = experiment.summarise(pd.concat(parts, ignore_index=True), clips, cfg)
    leaking, sound = found.values()
    assert np.isfinite(leaking["models"][TOKEN_MODEL]["r2"]["C"])
    assert "leaks" in leaking["split"]["warning"]
    assert sound["split"]["warning"] is None
    assert leaking["comparisons"][0]["low"] > 0 >= sound["comparisons"][0]["low"]  # of same_video and the constant
    assert sound["ceiling"] == {"r2": {"O": 0.64}, "pearson": {"O": 0.8}}
    errors = sound["groups"]["a"]
    assert errors["mae_low"] < errors["mae"] < errors["mae_high"]


@pytest.mark.slow
def test_the_command_compares_and_the_line_wins_over_the_file(data, tmp_path, capsys):
    out, params = tmp_path / "compared", tmp_path / "p.yaml"
    params.write_text("06_training: {seeds: [5], models: aligned_mlp, epochs: 1, batch_size: 16, num_heads: 1}\n")
    given = ["compare", "--data", str(data.folder), "--out", str(out), "--params", str(params)]
    assert main([*given, "--models", "concat_mlp"]) == 0
    assert set(pd.read_csv(out / "models.csv")["model"]) == {"constant", "concat_mlp", TOKEN_MODEL}
    assert read_json(out / "training" / "training.json")["seeds"] == [5]
    params.write_text("03: {weights: random}\n")
    for more, said in ((["--models", "ridge,oracle"], "'oracle'"), (["--params", str(params)], "06_")):
        assert main(["compare", "--out", str(tmp_path / "out"), *more]) == 1
        assert said in capsys.readouterr().err
