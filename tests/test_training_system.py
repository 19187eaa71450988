"""Training from plain arrays: what is refused, what is written, and that the model's scores are read again."""

import logging

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers import __main__, arrays, training_system
from helpers.config import TrainingConfig
from helpers.files import read_json
from helpers.plots import training as figures
from helpers.training_system import TrainingSystem, predict_features, train_personality_model

N, DS, DD = 120, 7, 3
SMALL = TrainingConfig(fusion_dim=8, num_heads=1, learning_rate=0.02, weight_decay=0.0, test_share=0.25)


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
    data = arrays.read_arrays_by_row(*list(files.values())[:3], ids=files["ids"])
    assert (data.static_features.shape, data.dynamic_features.shape) == ((N, 1, DS), (N, 1, DD))
    assert data.clips[4] == "train/video000001.001"
    assert data.sources[3] == data.sources[5] == "video000001"
    assert np.isnan(data.labels[5, 1])
    pd.DataFrame({"row": range(N), "clip": data.clips}).to_csv(files["ids"].with_suffix(".csv"), index=False)
    again = arrays.read_arrays_by_row(*list(files.values())[:3], ids=files["ids"].with_suffix(".csv"))
    assert again.clips.tolist() == data.clips.tolist()
    files["ids"].write_text("\n".join(data.sources) + "\n")  # three rows of each clip
    shared = arrays.read_arrays_by_row(*list(files.values())[:3], ids=files["ids"])
    assert shared.sources.tolist() == data.sources.tolist()


def test_rows_that_do_not_belong_together_or_are_not_finite_are_refused(files):
    paths = list(files.values())[:3]
    static = np.load(paths[0])
    broken = static.copy()
    broken[17, 2] = np.nan
    np.save(paths[0], broken)
    with pytest.raises(
        ValueError, match=r"static_features must be finite, got nan .* train/video000005.002, .* column 2"
    ):
        arrays.read_arrays_by_row(*paths, ids=files["ids"])
    np.save(paths[0], static[:-1])
    with pytest.raises(ValueError, match=r"got 119 in static_features.npy and 120 in dynamic_features.npy"):
        arrays.read_arrays_by_row(*paths, ids=files["ids"])
    np.save(paths[0], static)
    np.save(paths[2], np.load(paths[2])[:-7])
    with pytest.raises(ValueError, match=r"got 113 in labels.npy and 120 in static_features.npy"):
        arrays.read_arrays_by_row(*paths)
    paths[1].write_bytes(b"no array")
    with pytest.raises(ValueError, match="cannot be read as a plain array"):
        arrays.read_arrays_by_row(*paths)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy leaves a cut archive open
def test_an_archive_is_no_array_and_what_it_holds_is_said(files, tmp_path):
    paths = list(files.values())[:3]
    np.savez(tmp_path / "S.npz", rows=np.load(paths[0]), t_s=np.arange(N))
    for wrong in ([tmp_path / "S.npz", *paths[1:]], [*paths[:2], tmp_path / "S.npz"]):
        with pytest.raises(ValueError, match=r"S.npz must hold one plain array, got 2 in an archive \(rows, t_s\)"):
            arrays.read_arrays_by_row(*wrong)
    (tmp_path / "S.npz").write_bytes((tmp_path / "S.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as a plain array"):
        arrays.read_features_by_row(tmp_path / "S.npz", paths[1])


def test_labels_of_another_scale_are_refused(files):
    paths = list(files.values())[:3]
    labels = np.load(paths[2])
    labels[17, 2] = 7
    np.save(paths[2], labels)
    with pytest.raises(ValueError, match=r"labels.npy: extraversion of 17 must be between 0 and 1, got 7"):
        arrays.read_arrays_by_row(*paths)


@pytest.mark.parametrize(("saw", "got"), [("vector", "sequence"), ("sequence", "vector")])
def test_rows_of_another_form_than_in_the_training_are_refused(files, tmp_path, caplog, saw, got):
    paths, output = list(files.values())[:3], tmp_path / "model.keras"
    rows = {"vector": [np.load(path) for path in paths[:2]]}
    rows["sequence"] = [np.repeat(array[:, None], 3, axis=1) for array in rows["vector"]]

    def write(form: str, n: int) -> None:
        for path, array in zip(paths, rows[form], strict=False):
            np.save(path, array[:n])

    write(saw, N)
    system = TrainingSystem(*paths, tmp_path / "e", config=SMALL)
    system.save(system.build_model(), output, {"split": {}, "metrics": {}, "verdict": ""})
    write(got, 60)
    with pytest.raises(ValueError, match=rf"static_features must hold a {saw} per row, .*, got {got}s, \(60,"):
        predict_features(output, *paths[:2], tmp_path / "s.npy")
    assert not (tmp_path / "s.npy").exists()
    output.with_suffix(".card.json").write_text("{}")  # as older ones were
    assert len(predict_features(output, *paths[:2], tmp_path / "s.npy")) == 60
    assert "no card says whether it saw vectors or sequences" in caplog.text
    write(saw, 60)
    output.with_suffix(".card.json").write_text('{"extractors": {}}')  # a run's model: always sequences
    if saw == "sequence":
        assert len(predict_features(output, *paths[:2], tmp_path / "s.npy")) == 60
    else:
        with pytest.raises(ValueError, match="must hold a sequence per row"):
            predict_features(output, *paths[:2], tmp_path / "s.npy")


def test_without_ids_the_order_is_trusted_and_the_split_is_said_to_leak(files, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        system = TrainingSystem(*list(files.values())[:3], tmp_path / "e", config=SMALL)
    assert system.kind == "random"
    assert "order trusted" in caplog.text
    assert "results flatter" in caplog.text
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
    assert found["verdict"].startswith("the model is better than a constant by 0.")
    assert found["metrics"]["mae"]["mean"] < found["constant"]["mae"]["mean"]
    assert found["split"]["test_rows_sharing_a_source_with_train"] == 0
    assert found["epochs"] == len(history) == 25
    assert found["best_epoch"] == history["val_loss"].idxmin()
    assert card["metrics"] == found["metrics"]
    assert card["data"]["rows"] == N
    assert card["weights"]["static_features.npy"].startswith("unknown")
    assert len(pd.read_csv(folder / "predictions.csv")) == found["split"]["test"]
    for file in ("batch_metrics/metrics_history.json", "time_tracking/time_logs.json", "lr_tracking/lr_logs.json"):
        assert len(read_json(folder / file)["epoch"]) == 25
    assert (folder / "figures" / "training_dashboard.png").stat().st_size > 10_000
    assert (folder / "figures" / "training_time.png").exists()
    assert not list(folder.glob("*.state.npz"))
    scores = predict_features(output, *paths[:2], tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, model.predict([np.load(p) for p in paths[:2]], verbose=0), atol=1e-5)
    assert np.array_equal(np.load(tmp_path / "scores.npy"), scores)


def test_outputs_of_another_kind_are_refused_before_anything_is_done(tmp_path, capsys):
    with pytest.raises(ValueError, match="output must end in .keras, got model.h5"):
        train_personality_model("a", "b", "c", tmp_path / "model.h5")
    with pytest.raises(ValueError, match="output must end in .npy"):
        predict_features("m", "a", "b", tmp_path / "scores.csv")
    command = ["predict", "--model", "m", "--static_features", "a", "--dynamic_features", "b", "--output", "c.txt"]
    assert __main__.main(command) == 1
    assert "error: output must end in .npy" in capsys.readouterr().err


@pytest.mark.usefixtures("figures")
def test_the_dashboards_show_what_was_logged():
    n = np.arange(4)
    epochs = [{"epoch": int(e), "loss": 0.04 / (e + 1), "val_loss": [0.09, 0.01, 0.04, 0.16][e]} for e in n]
    logs = {
        "metrics": {"epoch": epochs, "batch": [{"epoch": e // 2, "step": e % 2, "loss": 0.1} for e in range(8)]},
        "rates": {"epoch": [{"epoch": int(e), "learning_rate": 0.1 / 2**e} for e in n]},
        "times": {
            "epoch": [
                {"epoch": int(e), "seconds": 3.0 - e / 2, "steps_s": 2.0, "validation_s": 0.5, "other_s": 0.1}
                for e in n
            ],
            "execution": [{"epoch": int(e), "steps": 10, "seconds": 1.0} for e in n],
        },
    }
    time = {"share": {"start": 0.1, "steps": 0.6, "validation": 0.2, "other": 0.1}, "epochs": 4, "total_s": 9.0}
    time |= {"epoch_s": 2.0, "recommendations": ["Steps take 60%."]}
    traits = {"mae": {"O": 0.1, "interview": 0.2, "mean": 0.15}, "r2": {"O": 0.5, "interview": None, "mean": 0.5}}
    found = {"metrics": traits, "constant": traits, "verdict": "better", "time": time}
    losses, batches, rate, matrix, bars, shares, _ = figures.plot_dashboard(logs, found).axes
    np.testing.assert_allclose(losses.lines[1].get_ydata(), [0.3, 0.1, 0.2, 0.4])
    assert losses.lines[2].get_xdata().tolist() == [2]
    assert batches.lines[0].get_xdata()[:3].tolist() == [0.5, 1.0, 1.5]
    assert rate.get_yscale() == "log"
    assert [bar.get_height() for bar in bars.patches] == [0.1, 0.2, 0.1, 0.2]
    assert matrix.collections[0].get_array()[2, 3] == pytest.approx(np.corrcoef(0.1 / 2.0**n, 3 - n / 2)[0, 1])
    assert [bar.get_width() for bar in shares.patches] == [0.1, 0.6, 0.2, 0.1]
    figure = figures.plot_time_dashboard(logs["times"], time)
    assert "Steps take 60%." in figure.get_supxlabel()
    assert figure.axes[1].lines[0].get_xdata() == [2.0, 2.0]  # the median without the first epoch
    assert figure.axes[2].get_xlabel() == "time per step (ms)"
    _, ax = plt.subplots()
    assert figures.plot_rates(logs["rates"]["epoch"], ax=ax) is ax


@pytest.mark.slow
def test_the_commands_train_and_predict_from_files(files, tmp_path, capsys):
    legal = "fusion_dim: 64, num_heads: 2, dropout_rate: 0.5, learning_rate: 0.0001, frozen: head"
    (tmp_path / "p.yaml").write_text(f"06_training: {{{legal}, test_share: 0.25}}\n")
    given = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    output = tmp_path / "out" / "model.keras"
    more = ["--output", str(output), "--epochs", "2", "--batch_size", "16", "--params", str(tmp_path / "p.yaml")]
    assert __main__.main(["train", *given, *more]) == 0
    assert "Epoch 2 of 2 was kept." in capsys.readouterr().out
    scored = ["--output", str(tmp_path / "scores.npy"), "--model", str(output)]
    assert __main__.main(["predict", *given[:4], *scored]) == 0
    assert "120 rows of 5 scores" in capsys.readouterr().out
    (tmp_path / "p.yaml").write_text("06_training: {fusion: 8}\n")
    assert __main__.main(["train", *given, *more]) == 1
    assert "unknown parameter 'fusion'" in capsys.readouterr().err


@pytest.mark.slow
def test_several_seeds_in_one_call_leave_their_models_mean_and_spread(files, tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("06_training: {fusion_dim: 8, num_heads: 1, test_share: 0.25}\n")
    given = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    output = tmp_path / "out" / "model.keras"
    more = ["--output", str(output), "--epochs", "3", "--seeds", "3,1", "--params", str(tmp_path / "p.yaml")]
    assert __main__.main(["train", *given, *more]) == 0
    said = capsys.readouterr().out
    agreed = read_json(tmp_path / "out" / "model" / "seeds.json")
    each = [read_json(tmp_path / "out" / "model" / f"seed-{seed}" / "analysis.json") for seed in (3, 1)]
    accuracy = [found["metrics"]["mean_accuracy"] for found in each]
    assert agreed["mean"]["mean_accuracy"] == pytest.approx(np.mean(accuracy))
    assert agreed["sd"]["mean_accuracy"] == pytest.approx(np.std(accuracy, ddof=1))
    assert agreed["over_constant"]["clips"] == sum(found["split"]["test"] for found in each)
    assert f"seed 3: mean accuracy {accuracy[0]:.3f}" in said
    assert agreed["verdict"] in said
    first = tmp_path / "out" / "model" / "seed-3" / "model.keras"
    scores = [predict_features(path, *list(files.values())[:2], tmp_path / "s.npy") for path in (output, first)]
    assert np.array_equal(*scores)
    assert read_json(output.with_suffix(".card.json"))["over_seeds"]["seeds"] == [3, 1]


def test_the_command_line_wins_over_the_file_and_several_seeds_of_the_file_are_trained(tmp_path, capsys, monkeypatch):
    asked = []

    def note(*_, **options):
        asked.append(options)
        raise ValueError("noted")

    monkeypatch.setattr(training_system, "train_with_seeds", note)
    monkeypatch.setattr(training_system, "train_personality_model", note)
    given = [f"--{name}=x" for name in ("static_features", "dynamic_features", "labels", "output")]
    (tmp_path / "p.yaml").write_text("06_training: {epochs: 3, batch_size: 7, seeds: [7, 8]}\n")
    params = ["--params", str(tmp_path / "p.yaml")]
    for more in ([], params, [*params, "--epochs", "4", "--batch_size", "9", "--seeds", "5"]):
        assert __main__.main(["train", *given, *more]) == 1
    assert [(o["epochs"], o["batch_size"], o["config"].seeds) for o in asked] == [
        (50, 32, [0]),
        (3, 7, [7, 8]),
        (4, 9, [5]),
    ]
    assert [o.get("seeds") for o in asked] == [None, [7, 8], None]
    (tmp_path / "p.yaml").write_text("")
    assert __main__.main(["train", *given, *params]) == 1
    assert "p.yaml must have a section 06_training, got nothing" in capsys.readouterr().err


def test_seeds_must_be_different_numbers(capsys):
    with pytest.raises(ValueError, match="at least two different ones, got \\[1, 1\\]"):
        training_system.train_with_seeds("a", "b", "c", "m.keras", seeds=[1, 1])
    given = [f"--{name}=x" for name in ("static_features", "dynamic_features", "labels", "output")]
    assert __main__.main(["train", *given, "--seeds", "0;1"]) == 1
    assert "--seeds must be numbers with commas between them" in capsys.readouterr().err
