"""Training from plain arrays and scores of arrays or trees: what is refused, what is written, whose score is whose."""

import keras
import numpy as np
import pandas as pd
import pytest
import test_extract
from trees import SIDE, some_flow, write_faces
from trees import write_pairs as write_flow

from helpers.__main__ import main
from helpers.align import ChannelGroups, Reduction, align_streams, read_reduction, write_reduction
from helpers.config import DynamicConfig, StaticConfig, TrainingConfig
from helpers.extract import extract_dynamic, extract_static
from helpers.files import read_json, write_json
from helpers.model import CompletePersonalityModel, load_model
from helpers.store import STREAMS
from helpers.training_system import TrainingSystem, clips_of_trees, predict_trees, train_personality_model

networks = test_extract.networks  # small ones in place of the real ones
TARGETS = ["openness", "neuroticism"]
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
    ids = [f"train/video{k // 3:06d}.{k % 3:03d}" for k in range(N)]
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n")
    return {name: tmp_path / f"{name}.npy" for name in made} | {"ids": tmp_path / "ids.txt"}


def test_rows_are_read_with_their_clips_and_sources_or_else_split_at_random_and_any_network_is_trained(
    files, tmp_path, caplog
):
    *paths, ids = files.values()
    system = TrainingSystem(*paths, tmp_path / "e", ids_path=ids, config=SMALL)
    data = system.data
    assert (data.static_features.shape, data.dynamic_features.shape) == ((N, 1, DS), (N, 1, DD))
    assert data.clips[4] == "train/video000001.001"
    assert data.sources[3] == data.sources[5] == "video000001"
    assert np.isnan(data.labels[5, 1])
    assert pd.Series(system.split).groupby(data.sources).nunique().max() == 1
    pd.DataFrame({"row": range(N), "clip": data.clips}).to_csv(ids.with_suffix(".csv"), index=False)
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
        ("static_features", lambda a: np.array([{}] * N, object), "plain array"),
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
    output, (*paths, ids) = tmp_path / "out" / "model.keras", files.values()
    _, history = train_personality_model(*paths, output, epochs=25, batch_size=16, ids_path=ids, config=SMALL)
    folder = output.with_suffix("")
    found, card = read_json(folder / "analysis.json"), read_json(output.with_suffix(".card.json"))
    ours, constant = found["models"]["token_cross_attention"], found["models"]["constant"]
    assert found["comparisons"][0]["low"] > 0
    assert ours["mae"]["mean"] < constant["mae"]["mean"]
    assert found["split"]["test_clips_sharing_a_source_with_train"] == 0
    assert found["epochs"] == len(history)
    assert found["best_epoch"] == history["val_loss"].idxmin()
    assert (card["metrics"], card["data"]["rows"]) == (ours, N)
    table = pd.read_csv(folder / "predictions.csv")
    for file in ("batch_metrics/metrics_history.json", "time_tracking/time_logs.json", "lr_tracking/lr_logs.json"):
        assert len(read_json(folder / file)["epoch"]) == len(history)
    assert not list(folder.glob("*.state.npz"))
    scores = load_model(output).predict({name: np.load(files[f"{name}_features"]) for name in STREAMS}, verbose=0)
    said = table[(table["model"] != "constant") & (table["trait"] == "openness")].set_index("clip")["prediction"]
    np.testing.assert_allclose(said, pd.Series(scores[:, 0], ids.read_text().split())[said.index], atol=1e-5)


@pytest.mark.slow
def test_the_command_trains_from_files_and_the_line_wins(files, tmp_path, capsys):
    legal = "fusion_dim: 64, num_heads: 2, dropout_rate: 0.5, learning_rate: 0.0001, frozen: head, epochs: 9"
    params = tmp_path / "p.yaml"
    params.write_text(f"06_training: {{{legal}, test_share: 0.25}}\n")
    given = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    output = tmp_path / "out" / "model.keras"
    more = ["--output", str(output), "--epochs", "2", "--batch_size", "16", "--params", str(params)]
    assert main(["train", *given, *more]) == 0
    assert "Epoch 2 of 2 was kept." in capsys.readouterr().out
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
