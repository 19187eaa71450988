"""Class folders: what is a clip of which class, in which split, from which source, and what is refused or recorded."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_sample.make.motion_sample import CLASSES, motion_plan
from helpers import clip_frames
from helpers.class_folders import find_classes
from helpers.clip_frames import count_clips, read_clip
from helpers.container import VideoError
from helpers.files import ROOT


def make(root: Path, *names: str) -> Path:
    """Files of different content each."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes([number]) * 10)
    return root


def problems(root: Path) -> set[tuple[str, str]]:
    return set(find_classes(root).problems.itertuples(index=False, name=None))


def test_the_sample_is_found_whole():
    found, plan = find_classes(ROOT / "data_sample" / "motion"), motion_plan().set_index("key")
    assert found.categories == {name: label for label, name in enumerate(sorted(CLASSES))}
    assert found.problems.empty
    table = found.table.loc[plan.index]
    for column in ("source", "split", "category"):
        assert table[column].tolist() == plan[column].tolist()
    assert (table["label"].map(sorted(CLASSES).__getitem__) == table["category"]).all()


def test_a_class_has_the_same_label_in_every_split_and_may_lie_deep(tmp_path):
    make(tmp_path, "train/b/1.mp4", "train/a/x/y/-AmMDnVl4s8.002.mov", "val/b/2.mp4", "notes/c/3.mp4", "train/.c/4.mp4")
    found = find_classes(tmp_path)
    columns = ["key", "source", "split", "category", "label"]
    assert found.table.reset_index()[columns].to_numpy().tolist() == [
        ["train/a/x/y/-AmMDnVl4s8.002", "-AmMDnVl4s8", "train", "a", 0],
        ["train/b/1", "train/b/1", "train", "b", 1],
        ["val/b/2", "val/b/2", "validation", "b", 1],
    ]


def test_what_does_not_fit_is_recorded(tmp_path):
    make(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "test/b/3.mp4", "train/loose.mp4")
    (tmp_path / "test" / "empty").mkdir()
    assert problems(tmp_path) == {
        ("train/loose.mp4", "lies beside the class folders"),
        ("test/empty", "a class folder without clips"),
        ("test", "no clips of class a"),
    }


def test_one_content_in_two_classes_is_refused_naming_both(tmp_path):
    make(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "test/b/3.mp4")
    shutil.copy(tmp_path / "train/a/1.mp4", tmp_path / "test/b/again.mp4")
    with pytest.raises(ValueError, match=r"test/b/again\.mp4 and train/a/1\.mp4 are the same file"):
        find_classes(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.mp4"], "must hold folders train, validation, test"),
        (["train/a/1.mp4"], r"clips of two classes at least, got \['a'\]"),
        (["train/a/1.mp4", "train/b/2.mp4", "train/b/2.avi"], "have the same key 'train/b/2'"),
    ],
)
def test_folders_without_classes_are_refused(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        find_classes(make(tmp_path, *names))


def drawn_arrays() -> np.ndarray:
    """(N, T, C, H, W), distinct primes but for the channels."""
    return np.random.default_rng(0).integers(0, 256, (2, 5, 3, 7, 11), np.uint8)


@pytest.mark.parametrize("name", ["processed_data.npy", "processed_data.npz"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_arrays_of_clips_are_clips(tmp_path, name, kind):
    folder, videos = make(tmp_path, "train/a/1.mp4") / "train" / "b" / "sub", drawn_arrays()
    folder.mkdir(parents=True)
    stored = videos if kind is np.uint8 else (videos / np.float32(255)).astype(kind)
    np.save(folder / name, stored) if name.endswith("y") else np.savez_compressed(folder / name, x=0, videos=stored)
    table = find_classes(tmp_path).table.iloc[1:]
    assert table.index.tolist() == ["train/b/sub/processed_data/0000", "train/b/sub/processed_data/0001"]
    assert table["place"].tolist() == [0, 1]
    for row in table.itertuples():
        assert np.array_equal(read_clip(tmp_path / row.path, row.place), videos[row.place].transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.full((1, 2, 3, 4, 4), -1.5), "uint8, or floats in .* from -1.5 to -1.5. Undo their normalisation"),
        (np.zeros((1, 2, 4, 4, 3), np.uint8), r"must have shape \(N, T, 3, H, W\), got \(1, 2, 4, 4, 3\)"),
    ],
)
def test_arrays_of_other_kinds_are_refused(tmp_path, stored, message):
    np.save(tmp_path / "processed_data.npy", stored)
    with pytest.raises(VideoError, match=message):
        read_clip(tmp_path / "processed_data.npy", 0)


def test_a_damaged_array_is_a_problem_of_its_own(tmp_path):
    make(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "train/b/processed_data.npz")
    ((name, problem),) = problems(tmp_path)
    assert name == "train/b/processed_data.npz"
    assert problem.startswith("cannot be read as an array of clips")


def test_a_torch_file_without_torch_says_what_to_do(tmp_path, monkeypatch):
    make(tmp_path, "train/a/1.mp4", "train/b/processed_data.pt")
    monkeypatch.setattr(clip_frames.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs torch, which is not installed\. Install it, or save"):
        find_classes(tmp_path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_torch_file_is_read_as_the_array_it_holds(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    path, videos = tmp_path / "processed_data.pt", torch.from_numpy(drawn_arrays())
    for held in ({"videos": videos}, videos, {"videos": videos / 255}):
        torch.save(held, path, _use_new_zipfile_serialization=is_zip)
        assert count_clips(path) == 2
        assert np.array_equal(read_clip(path, 1), drawn_arrays()[1].transpose(0, 2, 3, 1))


class RunsCode:
    """What a pickle does with it, a reader must not."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_torch_file_with_code_or_without_a_tensor_is_refused_and_runs_nothing(tmp_path):
    torch = pytest.importorskip("torch")
    path, trace = tmp_path / "processed_data.pt", tmp_path / "ran"
    refused = {
        "code or objects, .* nothing of it was run": {"videos": RunsCode(trace)},
        "got dict .'frames'.": {"frames": torch.zeros(1)},
        "got list": [1, 2],
    }
    for message, held in refused.items():
        torch.save(held, path)
        with pytest.raises(VideoError, match=rf"cannot be read as an array of clips \(it .*{message}"):
            count_clips(path)
    path.write_bytes(pickle.dumps(RunsCode(trace), protocol=2))
    with pytest.raises(VideoError, match="nothing of it was run"):
        count_clips(path)
    assert not trace.exists()


def test_a_file_that_cannot_be_read_ends_no_search(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("helpers.class_folders.file_sha256", refuse)
    make(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "test/b/3.mp4")
    assert len(find_classes(tmp_path).table) == 3
