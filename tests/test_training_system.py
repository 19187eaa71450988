"""Training from plain arrays: what is refused, what is written, and that the model's scores are read again."""

import logging

import keras
import numpy as np
import pandas as pd
import pytest

from helpers.__main__ import main
from helpers.config import TrainingConfig
from helpers.files import read_json
from helpers.training_system import TrainingSystem, predict_features, read_arrays_by_row, train_personality_model
from helpers.variants import TOKEN_MODEL, start_model

N, DS, DD = 120, 7, 3
SMALL = TrainingConfig(seeds=[0], fusion_dim=8, num_heads=1, learning_rate=0.02, weight_decay=0.0, test_share=0.25)


@pytest.fixture
def files(tmp_path):
    """Rows of 40 videos; every trait is the mean of two face channels."""
    rng = np.random.default_rng(0)
    static = rng.normal(size=(N, DS)).astype("float32")
    labels = np.clip(0.5 + 0.2 * static[:, :1] + 0.02 * rng.normal(size=(N, 5)), 0, 1).astype("float32")
    labels[5, 1] = np.nan  # a missing rating is no error
    made = {"static_features": static, "dynamic_features": rng.normal(size=(N, DD)).astype("float32"), "labels": labels}
    for name, array in made.items():
        np.save(tmp_path / f"{name}.npy", array)
    ids = [f"train/video{k // 3:06d}.{k % 3:03d}.mp4"[:-4] for k in range(N)]
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n")
    return {name: tmp_path / f"{name}.npy" for name in made} | {"ids": tmp_path / "ids.txt"}


def test_rows_are_read_with_their_clips_and_sources(files):
    data = read_arrays_by_row(*files.values())
    assert (data.static_features.shape, data.dynamic_features.shape) == ((N, 1, DS), (N, 1, DD))
    assert data.clips[4] == "train/video000001.001"
    assert data.sources[3] == data.sources[5] == "video000001"
    assert np.isnan(data.labels[5, 1])
    paths, ids = list(files.values())[:3], files["ids"].with_suffix(".csv")
    pd.DataFrame({"row": range(N), "clip": data.clips}).to_csv(ids, index=False)
    assert read_arrays_by_row(*paths, ids).clips.tolist() == data.clips.tolist()
    files["ids"].write_text("\n".join(data.sources) + "\n")  # three rows of each clip
    assert read_arrays_by_row(*files.values()).sources.tolist() == data.sources.tolist()


def _nan(a):
    a[17, 2] = np.nan
    return a


def _seven(a):
    a[17, 2] = 7
    return a


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("static_features", _nan, "finite.* train/video000005.002"),
        ("static_features", lambda a: a[:-1], "119 in static_features.npy and 120 in dynamic_features.npy"),
        ("labels", lambda a: a[:-7], "ids must be 113"),
        ("labels", _seven, "extraversion of .* got 7"),
        ("dynamic_features", lambda a: a.astype(int), "floats"),
    ],
)
def test_rows_that_do_not_belong_together_or_are_no_numbers_are_refused(files, name, change, said):
    np.save(files[name], change(np.load(files[name])))
    with pytest.raises(ValueError, match=said):
        read_arrays_by_row(*files.values())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy leaves a cut archive open
def test_what_is_no_plain_array_is_refused(files, tmp_path):
    paths, archive = list(files.values())[:3], tmp_path / "S.npz"
    np.savez(archive, rows=np.load(paths[0]))
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    for damage, said in ((lambda: None, "archive"), (lambda: archive.write_bytes(b"no array"), "plain array")):
        damage()
        for wrong in ([archive, *paths[1:]], [*paths[:2], archive]):
            with pytest.raises(ValueError, match=said):
                read_arrays_by_row(*wrong)
    with pytest.raises(ValueError, match="plain array"):  # a pickle
        read_arrays_by_row(tmp_path / "o.npy", *paths[1:])


@pytest.mark.parametrize(("saw", "got"), [("vector", "sequence"), ("sequence", "vector")])
def test_rows_of_another_form_than_in_the_training_are_refused(files, tmp_path, caplog, saw, got):
    paths, output = list(files.values())[:3], tmp_path / "model.keras"
    rows = {"vector": [np.load(path) for path in paths[:2]]}
    rows["sequence"] = [np.repeat(array[:, None], 3, axis=1) for array in rows["vector"]]

    def write(form: str) -> None:
        for path, array in zip(paths, rows[form], strict=False):
            np.save(path, array)

    write(saw)
    system = TrainingSystem(*paths, tmp_path / "e", config=SMALL)
    model = start_model(TOKEN_MODEL, system.data, SMALL, 0)
    system.save(model, output, {"split": {}, "metrics": {}, "verdict": ""})
    write(got)
    with pytest.raises(ValueError, match=rf"static_features must hold a {saw} per row"):
        predict_features(output, *paths[:2], tmp_path / "s.npy")
    assert not (tmp_path / "s.npy").exists()
    output.with_suffix(".card.json").write_text('{"extractors": {}}')  # a run's model: always sequences
    with pytest.raises(ValueError, match="must hold a sequence") if got == "vector" else caplog.at_level(logging.INFO):
        predict_features(output, *paths[:2], tmp_path / "s.npy")
    output.with_suffix(".card.json").write_text("{}")  # as older ones were
    assert len(predict_features(output, *paths[:2], tmp_path / "s.npy")) == N
    assert "no card" in caplog.text


def test_without_ids_the_order_is_trusted_and_the_split_is_said_to_leak(files, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        system = TrainingSystem(*list(files.values())[:3], tmp_path / "e", config=SMALL)
    assert system.config.split == "random"
    assert "order trusted" in caplog.text
    assert "flatter" in caplog.text
    by_source = TrainingSystem(*list(files.values())[:3], tmp_path / "e", ids_path=files["ids"], config=SMALL)
    pairs = pd.DataFrame({"source": by_source.data.sources, "split": by_source.split})
    assert pairs.groupby("source")["split"].nunique().max() == 1


@pytest.mark.slow
def test_one_call_trains_analyses_and_saves_and_the_model_scores_again(files, tmp_path):
    output, paths = tmp_path / "out" / "model.keras", list(files.values())[:3]
    model, history = train_personality_model(
        *paths, output, epochs=25, batch_size=16, ids_path=files["ids"], config=SMALL
    )
    folder = output.with_suffix("")
    found, card = read_json(folder / "analysis.json"), read_json(output.with_suffix(".card.json"))
    assert found["over_constant"]["low"] > 0
    assert found["metrics"]["mae"]["mean"] < found["constant"]["mae"]["mean"]
    assert found["split"]["test_rows_sharing_a_source_with_train"] == 0
    assert found["epochs"] == len(history)
    assert found["best_epoch"] == history["val_loss"].idxmin()
    assert card["metrics"] == found["metrics"]
    assert card["data"]["rows"] == N
    assert card["weights"]["static_features.npy"].startswith("unknown")
    table = pd.read_csv(folder / "predictions.csv")
    assert len(table) == found["split"]["test"] * 5 * 2
    for file in ("batch_metrics/metrics_history.json", "time_tracking/time_logs.json", "lr_tracking/lr_logs.json"):
        assert len(read_json(folder / file)["epoch"]) == len(history)
    assert {path.name for path in (folder / "figures").iterdir()} == {"training_dashboard.png", "training_time.png"}
    assert not list(folder.glob("*.state.npz"))
    scores = predict_features(output, *paths[:2], tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, model.predict([np.load(p) for p in paths[:2]], verbose=0), atol=1e-5)
    assert np.array_equal(np.load(tmp_path / "scores.npy"), scores)
    said = table[(table["model"] != "constant") & (table["trait"] == "openness")].set_index("clip")["prediction"]
    ids = files["ids"].read_text().split()
    np.testing.assert_allclose(said, [scores[ids.index(clip), 0] for clip in said.index], atol=1e-5)


def test_a_network_of_ones_own_is_trained(files, tmp_path):
    widths = {"static": DS, "dynamic": DD}
    inputs = {name: keras.Input((width,), name=name) for name, width in widths.items()}
    mine = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Concatenate()(list(inputs.values()))))
    system = TrainingSystem(*list(files.values())[:3], tmp_path / "e", ids_path=files["ids"], config=SMALL)
    model, history = system.train_model(mine, batch_size=16, epochs=2)
    assert model is mine
    assert len(history) == 2


def test_outputs_of_another_kind_are_refused_before_anything_is_done(tmp_path, capsys):
    with pytest.raises(ValueError, match="output must end in .keras, got model.h5"):
        train_personality_model("a", "b", "c", tmp_path / "model.h5")
    command = ["predict", "--model", "m", "--static_features", "a", "--dynamic_features", "b", "--output", "c.txt"]
    assert main(command) == 1
    assert "output must end in .npy" in capsys.readouterr().err


@pytest.mark.usefixtures("figures")
@pytest.mark.slow
def test_the_commands_train_and_predict_from_files_and_the_line_wins(files, tmp_path, capsys):
    legal = "fusion_dim: 64, num_heads: 2, dropout_rate: 0.5, learning_rate: 0.0001, frozen: head, epochs: 9"
    params = tmp_path / "p.yaml"
    params.write_text(f"06_training: {{{legal}, test_share: 0.25}}\n")
    given = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    output = tmp_path / "out" / "model.keras"
    more = ["--output", str(output), "--epochs", "2", "--batch_size", "16", "--params", str(params)]
    assert main(["train", *given, *more]) == 0
    assert "Epoch 2 of 2 was kept." in capsys.readouterr().out
    scored = ["--output", str(tmp_path / "scores.npy"), "--model", str(output)]
    assert main(["predict", *given[:4], *scored]) == 0
    assert "120 rows of 5 scores" in capsys.readouterr().out
    for text, said in (("06_training: {fusion: 8}\n", "'fusion'"), ("", "06_training")):
        params.write_text(text)
        assert main(["train", *given, *more]) == 1
        assert said in capsys.readouterr().err
