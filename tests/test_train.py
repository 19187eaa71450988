"""Fitting, going on after a kill, where the time went; training from plain arrays; scores of trees of pictures."""

import os
import signal
from multiprocessing import get_context

import keras
import numpy as np
import pandas as pd
import pytest
import test_extract
from trees import SIDE, some_flow, write_faces
from trees import write_pairs as write_flow

from helpers import callbacks, train
from helpers.__main__ import main
from helpers.align import ChannelGroups, Reduction, align_streams, read_reduction, write_reduction
from helpers.config import DynamicConfig, StaticConfig, TrainingConfig
from helpers.extract import extract_dynamic, extract_static
from helpers.files import read_json, write_json
from helpers.model import CompletePersonalityModel, load_model
from helpers.store import STREAMS
from helpers.train import FusedAdamW, RatedError, Trainer
from helpers.training_system import TrainingSystem, clips_of_trees, predict_trees, train_personality_model
from helpers.variants import freeze_parts

networks = test_extract.networks  # small ones in place of the real ones
N, DS, DD, K, ROWS = 53, 7, 3, 5, 120
TARGETS = ["openness", "neuroticism"]
SMALL = TrainingConfig(seeds=[0], fusion_dim=8, num_heads=1, learning_rate=0.02, weight_decay=0.0, test_share=0.25)


def clips(n: int = N, seed: int = 0) -> train.Part:
    rng = np.random.default_rng(seed)
    inputs = {"static": rng.standard_normal((n, DS), np.float32), "dynamic": rng.standard_normal((n, DD), np.float32)}
    return inputs, rng.random((n, K), np.float32)


def start(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return CompletePersonalityModel(DS, DD, 8, 1, 0.3, K)


def fitted(cfg: TrainingConfig, watchers: tuple = (), **how) -> tuple[pd.DataFrame, list[np.ndarray], list[int]]:
    """Losses and weights of a training, always of the same start, and the epochs of it that were done now."""
    model, done = start(), []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: done.append(epoch))
    history = Trainer(model, cfg).fit(model, clips(), clips(11, 1), callbacks=[*watchers, watch], **how)
    return history, model.get_weights(), done


def test_the_error_counts_what_is_rated_and_is_the_mean_squared_error_where_all_is():
    truth = np.array([[0.5, np.nan, 0.1], [np.nan, np.nan, 0.7]], "float32")
    guess = np.array([[0.1, 9.0, 0.3], [9.0, 9.0, 0.4]], "float32")
    assert float(RatedError()(truth, guess)) == pytest.approx((0.4**2 + 0.2**2 + 0.3**2) / 3, rel=1e-5)
    full = np.nan_to_num(truth)
    assert float(RatedError()(full, guess)) == pytest.approx(np.mean((full - guess) ** 2), rel=1e-6)
    assert float(RatedError()(truth * np.nan, guess)) == 0


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the other backends have Keras' own")
def test_the_fused_optimizer_does_what_keras_does():
    def moved(optimizer):
        rng = np.random.default_rng(0)
        variables = [keras.Variable(rng.standard_normal(shape).astype("float32")) for shape in ((DS, DD), (K,))]
        for size in (9.0, 0.1, 3.0, 0.2, 0.1):  # the long gradients are clipped, the short ones are not
            gradients = [keras.ops.convert_to_tensor(size * rng.standard_normal(v.shape), "float32") for v in variables]
            optimizer.apply(gradients, variables)
        return np.concatenate([keras.ops.convert_to_numpy(v.value).ravel() for v in variables])

    rate = keras.optimizers.schedules.CosineDecay(0.05, 5, 0.02)
    theirs = moved(keras.optimizers.AdamW(rate, weight_decay=0.3, clipnorm=1.0))
    np.testing.assert_allclose(moved(FusedAdamW(rate, 0.3, 1.0)), theirs, atol=1e-6)
    for other in ({"weight_decay": 0.3}, {"weight_decay": 0.0, "clipnorm": 1.0}):  # else nothing would be compared
        assert np.abs(moved(keras.optimizers.AdamW(rate, **other)) - theirs).max() > 1e-3


def test_a_second_fit_starts_anew_and_a_saved_model_needs_no_file_of_ours(tmp_path):
    trainer, weights = Trainer(start(7), TrainingConfig(epochs=2, batch_size=32, weight_decay=0.0)), []
    (inputs, labels), validation = clips(), clips(11, 1)
    labels[:, 2] = np.nan
    for seed in (0, 1, 0):
        model = start(seed)
        before = model.head.scores.get_weights()[1]
        history = trainer.fit(model, (inputs, labels), validation)
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    assert np.array_equal(weights[0], weights[2])
    assert not np.array_equal(weights[0], weights[1])
    of_another_trainer = Trainer(fresh := start(), trainer.cfg).fit(fresh, (inputs, labels), validation)
    pd.testing.assert_frame_equal(history, of_another_trainer)
    change = np.abs(model.head.scores.get_weights()[1] - before)
    assert np.flatnonzero(change == 0).tolist() == [2]  # what no clip is rated for teaches nothing
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")  # a warning would be an error
    np.testing.assert_allclose(again(inputs), model(inputs), atol=1e-6)


def test_on_a_plateau_the_rate_is_halved_and_training_stops_when_patience_ends():
    x, y = np.zeros((24, 3), "float32"), np.random.default_rng(0).uniform(0, 1, (24, 5)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])  # nothing to learn but the mean
    cfg = TrainingConfig(schedule="plateau", patience=13, epochs=400, learning_rate=0.01, batch_size=16)
    assert len(Trainer(model, cfg).fit(model, (x, y), (x, y * 0 - 1))) < 60
    assert float(model.optimizer.learning_rate) < 0.01 / 2


UNTIL_KILLED = TrainingConfig(epochs=5, batch_size=16, schedule="plateau", patience=4)


def train_until_killed(folder) -> None:
    callbacks.KEEP_EVERY_S = 0.0
    kill = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: epoch == 3 and os.kill(os.getpid(), 9))
    fitted(UNTIL_KILLED, (*callbacks.watchers(folder), kill), state=folder / "state.npz")


@pytest.mark.slow
def test_a_training_that_was_killed_ends_as_one_that_was_not(tmp_path):
    process = get_context("spawn").Process(target=train_until_killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    history, weights, done = fitted(UNTIL_KILLED, callbacks.watchers(tmp_path), state=tmp_path / "state.npz")
    assert done == [3, 4]  # epochs 0 to 2 were kept, the fourth was lost
    assert [entry["epoch"] for entry in callbacks.read_logs(tmp_path)["metrics"]["epoch"]] == [0, 1, 2, 3, 4]
    expected, of_uninterrupted, _ = fitted(UNTIL_KILLED)
    pd.testing.assert_frame_equal(history, expected, rtol=1e-6)
    for ours, theirs in zip(weights, of_uninterrupted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("patience", [1, 0])
def test_a_finished_state_gives_its_best_and_another_trainings_or_a_damaged_one_is_not_used(
    tmp_path, monkeypatch, patience
):
    monkeypatch.setattr(callbacks, "KEEP_EVERY_S", 0.0)
    cfg = TrainingConfig(epochs=4, batch_size=16, learning_rate=0.5, patience=patience)
    state, runs = tmp_path / "state.npz", []
    for known in ("", "", "another", "another"):
        if len(runs) == 3:
            state.write_bytes(b"half a file")
        runs.append(fitted(cfg, state=state, known=known))
    assert [done for *_, done in runs] == [found := runs[0][0]["epoch"].tolist(), [], found, found]
    for history, weights, _ in runs[1:]:
        pd.testing.assert_frame_equal(history, runs[0][0])
        assert all(map(np.array_equal, weights, runs[0][1]))


def test_a_training_that_diverges_and_a_part_that_is_not_there_are_named():
    inputs, labels = clips(11, 1)
    with pytest.raises(ValueError, match="learning_rate"):
        Trainer(model := start(), TrainingConfig(epochs=1)).fit(model, clips(), (inputs, labels * np.inf))
    with pytest.raises(ValueError, match="'ear'"):
        freeze_parts(start(), "ear")


def test_mixed_precision_keeps_weights_and_scores_float32_and_frozen_parts_stay_as_they_start():
    with train.computing_in("bfloat16"):
        model = start()
    freeze_parts(model, "query, key")
    parts = [getattr(model.cross_attention, name) for name in ("query", "key", "value")]
    before = [part.get_weights() for part in parts]
    cfg = TrainingConfig(epochs=2, batch_size=32, learning_rate=0.01)
    history = Trainer(model, cfg).fit(model, clips(), clips(11, 1))
    same = [all(map(np.array_equal, part.get_weights(), old)) for part, old in zip(parts, before, strict=True)]
    assert same == [True, True, False]
    assert model.head.hidden.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in model.variables if "seed" not in weight.path} == {"float32"}
    assert keras.ops.convert_to_numpy(model(clips()[0])).dtype == np.float32
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="runs its small network eagerly")
def test_losses_rates_and_seconds_are_written_as_the_training_goes(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    rate = keras.optimizers.schedules.PolynomialDecay(0.1, 12, 0.0)
    model.compile(keras.optimizers.SGD(rate), "mse", run_eagerly=True)
    x, y = np.ones((29, 3), "float32"), np.zeros((29, 2), "float32")
    how = {"batch_size": 8, "epochs": 3, "verbose": 0, "callbacks": callbacks.watchers(tmp_path)}
    model.fit(x, y, validation_data=(x, y), **how)
    metrics = read_json(tmp_path / "batch_metrics" / "metrics_history.json")
    assert [(e["epoch"], e["step"]) for e in metrics["batch"]] == [(e, s) for e in range(3) for s in range(4)]
    assert [e.keys() for e in metrics["epoch"]] == [{"epoch", "loss", "val_loss"}] * 3
    assert metrics["batch"][3]["loss"] == pytest.approx(metrics["epoch"][0]["loss"])
    rates = read_json(tmp_path / "lr_tracking" / "lr_logs.json")
    np.testing.assert_allclose([e["learning_rate"] for e in rates["epoch"]], 0.1 * (1 - np.array([4, 8, 12]) / 12))
    times = read_json(tmp_path / "time_tracking" / "time_logs.json")
    for epoch in times["epoch"]:
        assert epoch["steps_s"] + epoch["validation_s"] + epoch["other_s"] == pytest.approx(epoch["seconds"])
        assert min(epoch["steps_s"], epoch["validation_s"]) > 0
    assert [e["steps"] for e in times["execution"]] == [1] * 12


@pytest.mark.parametrize(
    ("losses", "spent", "seconds", "words"),
    [
        ((4, 3, 2, 1), (5.0, 0.1, 0.1), (5.0, 4.0, 0.4, 0.4), ["Starting takes 51% (5.0 s"]),
        ((4, 3, 2, 1), (0, 1.0, 0.1), (0, 4.0, 4.0, 0.4), ["Validation takes 48% (4.0 s)"]),
        ((4, 3, 2, 1), (0, 0.1, 0.5), (0, 4.0, 0.4, 2.0), ["take 31% (2.0 s)", "Steps take 62%"]),
        ((3, 1, 2, 2), (0, 0.1, 0.1), (0, 4.0, 0.4, 0.4), ["2: the 2 after it took about 2.4 s", "83% at 100.0 ms"]),
    ],
)
def test_shares_are_those_of_the_measured_seconds_and_a_recommendation_names_its_own(losses, spent, seconds, words):
    """10 steps in 1 s per epoch; `spent` are more seconds of the first, of each validation, and of each epoch else."""
    first, validation_s, other_s = spent
    executions = [{"steps": 10, "seconds": 1.0 + more} for more in (first, 0, 0, 0)]
    rest = {"validation_s": validation_s, "other_s": other_s}
    epochs = [{"seconds": e["seconds"] + sum(spent[1:]), "steps_s": e["seconds"]} | rest for e in executions]
    metrics = {"epoch": [{"val_loss": float(loss)} for loss in losses]}
    found = callbacks.analyse_time({"execution": executions, "epoch": epochs}, metrics)
    assert list(found["seconds"].values()) == pytest.approx(seconds)  # start, steps, validation, other
    assert found["step_ms"] == pytest.approx(100)
    said = found["recommendations"]
    assert [word in sentence for word, sentence in zip(words, said, strict=True)] == [True] * len(words)


@pytest.fixture
def files(tmp_path):
    """Rows of 40 videos; every trait follows the first face channel."""
    rng = np.random.default_rng(0)
    static, dynamic = (rng.normal(size=(ROWS, width)).astype("float32") for width in (DS, DD))
    labels = np.clip(0.5 + 0.2 * static[:, :1] + 0.02 * rng.normal(size=(ROWS, 5)), 0, 1).astype("float32")
    labels[5, 1] = np.nan  # a missing rating is no error
    made = {"static_features": static, "dynamic_features": dynamic, "labels": labels}
    for name, array in made.items():
        np.save(tmp_path / f"{name}.npy", array)
    ids = [f"train/video{k // 3:06d}.{k % 3:03d}" for k in range(ROWS)]
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n")
    return {name: tmp_path / f"{name}.npy" for name in made} | {"ids": tmp_path / "ids.txt"}


def test_rows_are_read_with_their_clips_and_sources_or_else_split_at_random_and_any_network_is_trained(
    files, tmp_path, caplog
):
    *paths, ids = files.values()
    system = TrainingSystem(*paths, tmp_path / "e", ids_path=ids, config=SMALL)
    data = system.data
    assert (data.static_features.shape, data.dynamic_features.shape) == ((ROWS, 1, DS), (ROWS, 1, DD))
    assert data.clips[4] == "train/video000001.001"
    assert data.sources[3] == data.sources[5] == "video000001"
    assert np.isnan(data.labels[5, 1])
    assert pd.Series(system.split).groupby(data.sources).nunique().max() == 1
    pd.DataFrame({"row": range(ROWS), "clip": data.clips}).to_csv(ids.with_suffix(".csv"), index=False)
    ids.write_text("\n".join(data.sources) + "\n")  # three rows of each clip
    for path in (ids, ids.with_suffix(".csv")):
        again = TrainingSystem(*paths, tmp_path / "e", ids_path=path, config=SMALL).data
        assert again.sources.tolist() == data.sources.tolist()
    assert again.clips.tolist() == data.clips.tolist()
    assert "order trusted" not in caplog.text
    assert TrainingSystem(*paths, tmp_path / "e", config=SMALL).config.split == "random"
    assert "order trusted" in caplog.text
    assert "flatter" in caplog.text
    inputs = {name: keras.Input((width,), name=name) for name, width in (("static", DS), ("dynamic", DD))}
    mine = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Concatenate()(list(inputs.values()))))
    model, history = system.train_model(mine, batch_size=16, epochs=2)
    assert model is mine
    assert len(history) == 2


def changed(array, value):
    array[17, 2] = value
    return array


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("static_features", lambda a: changed(a, np.nan), "finite.* train/video000005.002"),
        ("static_features", lambda a: a[:-1], "119 in static_features.npy, 120 in dynamic_features.npy"),
        ("labels", lambda a: a[:-7], "113 in labels.npy"),
        ("labels", lambda a: changed(a, 7), "labels must lie in"),
        ("labels", lambda a: a[:, 0], "numbers"),
        ("dynamic_features", lambda a: a.astype(int), "floats"),
        ("static_features", lambda a: np.array([{}] * ROWS, object), "plain array"),
        ("labels", lambda a: {"rows": a}, "plain array"),
        ("clips.csv", None, "holds a run"),  # whose files are not replaced
        ("run.json", None, "holds a run"),
        ("aligned", None, "holds a run"),
    ],
)
def test_what_does_not_belong_together_or_is_no_plain_array_is_refused(files, tmp_path, name, change, said):
    if change is None:
        (tmp_path / "mine" / name).mkdir(parents=True)
    elif isinstance(array := change(np.load(files[name])), dict):
        with open(files[name], "wb") as file:
            np.savez(file, **array)
    else:
        np.save(files[name], array, allow_pickle=True)
    with pytest.raises(ValueError, match=said):
        TrainingSystem(*list(files.values())[:3], tmp_path / "mine", ids_path=files["ids"])


@pytest.mark.slow
def test_one_call_trains_analyses_and_saves_and_the_model_scores_again(files, tmp_path):
    given, output = {f"{name}_path": path for name, path in files.items()}, tmp_path / "out" / "model.keras"
    _, history = train_personality_model(**given, output_path=output, epochs=25, batch_size=16, config=SMALL)
    folder = output.with_suffix("")
    found, card = read_json(folder / "analysis.json"), read_json(output.with_suffix(".card.json"))
    ours, constant = found["models"]["token_cross_attention"], found["models"]["constant"]
    assert found["comparisons"][0]["low"] > 0
    assert ours["mae"]["mean"] < constant["mae"]["mean"]
    assert found["split"]["test_clips_sharing_a_source_with_train"] == 0
    assert found["epochs"] == len(history)
    assert found["best_epoch"] == history["val_loss"].idxmin()
    assert (card["metrics"], card["data"]["rows"]) == (ours, ROWS)
    table = pd.read_csv(folder / "predictions.csv")
    for file in ("batch_metrics/metrics_history.json", "time_tracking/time_logs.json", "lr_tracking/lr_logs.json"):
        assert len(read_json(folder / file)["epoch"]) == len(history)
    assert not list(folder.glob("*.state.npz"))
    scores = load_model(output).predict({name: np.load(files[f"{name}_features"]) for name in STREAMS}, verbose=0)
    said = table[(table["model"] != "constant") & (table["trait"] == "openness")].set_index("clip")["prediction"]
    np.testing.assert_allclose(said, pd.Series(scores[:, 0], files["ids"].read_text().split())[said.index], atol=1e-5)


@pytest.mark.slow
def test_the_command_trains_from_files_and_the_line_wins(files, tmp_path, capsys):
    legal = "fusion_dim: 64, num_heads: 2, dropout_rate: 0.5, learning_rate: 0.0001, frozen: head, epochs: 9"
    params = tmp_path / "p.yaml"
    params.write_text(f"06_training: {{{legal}, test_share: 0.25}}\n")
    given = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    output = tmp_path / "out" / "model.keras"
    more = ["--output", str(output), "--epochs", "2", "--batch_size", "16", "--params", str(params)]
    assert main(["train", *given, *more]) == 0
    assert " of 2 was kept." in capsys.readouterr().out  # not of 9
    params.write_text("06_training: {fusion: 8}\n")
    for command, said in (
        (["train", *given, *more], "'fusion'"),
        (["train", *given, "--output", "m.h5"], "output must end in .keras, got m.h5"),
    ):
        assert main(command) == 1
        assert said in capsys.readouterr().err


@pytest.fixture
def trees(tmp_path):
    """Clips 10 and 9 in both trees with 20 faces and 25 flows each, one more in either; a model of their features."""
    for name, first in (("clip10", 0), ("clip9", 40), ("face_only", 0)):
        write_faces(tmp_path / "faces" / name, range(first, first + 100, 5))
    for name, scale in (("clip10", 1), ("clip9", 2), ("flow_only", 1)):
        write_flow(tmp_path / "flow" / name, scale * some_flow(25, SIDE, SIDE))
    folders = {"out_dir": str(tmp_path / "run"), "workers": 1}
    static = StaticConfig(**folders, faces_dir=str(tmp_path / "faces"))
    dynamic = DynamicConfig(**folders, flow_dir=str(tmp_path / "flow"), input_px=SIDE)
    clips, _ = clips_of_trees(static, dynamic)
    made = {"static": extract_static(clips, static), "dynamic": extract_dynamic(clips, dynamic)}
    extractors, model = {name: manifest["identity"] for name, manifest in made.items()}, tmp_path / "model"
    write_reduction(model / "reduction.npz", Reduction(ChannelGroups(3, 3), ChannelGroups(2, 2), extractors))
    write_json(model / "card.json", {"targets": TARGETS, "extractors": extractors, "warnings": []})
    CompletePersonalityModel(3, 2, 8, 1, n_targets=2).save(model / "model.keras")
    return tmp_path


def test_every_row_is_the_score_of_the_clip_in_its_line(trees, capsys):
    model, faces, flow, output = (trees / name for name in ("model", "faces", "flow", "out/scores.npy"))
    given = ["--model", str(model), "--face_dir", str(faces), "--flow_dir", str(flow)]
    assert main(["predict", *given, "--output", str(output)]) == 0
    assert "2 rows of 2 scores" in capsys.readouterr().out
    assert (output.parent / "scores_ids.txt").read_text() == "clip9\nclip10\n"  # natural order
    clips, _ = clips_of_trees(StaticConfig(faces_dir=str(faces)), DynamicConfig(flow_dir=str(flow)))
    folders = [trees / "run" / name for name in STREAMS]
    aligned = align_streams(clips, *folders, read_reduction(model / "reduction.npz"), targets=())
    expected = load_model(model).predict(aligned.take(np.argsort(aligned.clips)[::-1]).inputs(), verbose=0)
    np.testing.assert_allclose(scores := np.load(output), expected, atol=1e-5)
    assert scores.dtype == np.float32
    assert not np.allclose(*scores)
    about = read_json(output.with_suffix(".json"))
    assert about["targets"] == TARGETS
    assert about["left_out"]["face_only"] == "it has no flow in flow"
    assert about["left_out"]["flow_only"].startswith("its flow fits no faces")
    assert about["trained_on_other_input"] == []


def test_another_view_and_a_clip_without_rows_are_said_and_other_names_and_networks_are_refused(trees):
    model, faces, flow, output = (trees / name for name in ("model", "faces", "flow", "s.npy"))
    card = read_json(model / "card.json")
    known = card["extractors"]["static"]
    known["preparation"] = known.pop("stored")
    write_json(model / "card.json", card)
    for file in (flow / "clip9").iterdir():
        file.write_bytes(b"")
    assert predict_trees(model, faces, flow, output, flow_fps=5.0).index.tolist() == ["clip10"]
    about = read_json(output.with_suffix(".json"))
    assert about["left_out"]["clip9"].startswith("dynamic: ")
    assert "dynamic.fps: 5.0 here, 6.0 there" in about["trained_on_other_input"]
    assert "static.cut_from: None here, 'videos' there" in about["trained_on_other_input"]
    write_flow(trees / "other" / "somebody", some_flow(25, SIDE, SIDE))
    known["weights"]["sha256"] = "1" * 64
    write_json(model / "card.json", card)
    for folder, said in (("other", "same names, got 3 and 1 and none in both"), ("flow", "sha256")):
        with pytest.raises(ValueError, match=said):
            predict_trees(model, faces, trees / folder, trees / "s2.npy")
