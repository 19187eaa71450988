"""The token bank: its shape, its clean reduction, and that clips drawn or extracted again give its tokens."""

import numpy as np
import pytest

from data_sample.make import bank, sample
from helpers import align
from helpers.align import read_reduction
from helpers.clips import read_clips
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.extract import extract_dynamic, extract_static
from helpers.faces import prepare_clips
from helpers.files import ROOT, read_json
from helpers.store import STREAMS

DATA = ROOT / "data_sample"
TOKENS = DATA / "tokens"


def extracted(clips, data, out):
    """Reduced tokens of some clips, by the path of notebooks 02 to 05 at their defaults."""
    folders = {"data_dir": str(data), "out_dir": str(out)}
    prepare_clips(clips, PreparationConfig(**folders))
    extract_static(clips, StaticConfig(**folders))
    extract_dynamic(clips, DynamicConfig(**folders))
    return align.align_streams(clips, out / "static", out / "dynamic", read_reduction(TOKENS / "reduction.npz"))


def agreement(ours, theirs, keys):
    """Per stream: correlation of the tokens, and their mean distance in units of the tokens' spread."""
    rows = [theirs.clips.tolist().index(key) for key in keys]
    found = {}
    for name in STREAMS:
        a, b = getattr(ours, f"{name}_features"), getattr(theirs.take(rows), f"{name}_features")
        found[name] = np.corrcoef(a.ravel(), b.ravel())[0, 1], np.abs(a - b).mean() / b.std()
    return found


def test_the_bank_holds_a_thousand_clips_of_two_hundred_sources_in_nine_tokens():
    tokens = align.read_aligned(TOKENS)
    assert tokens.static_features.shape == (1000, 9, 64)
    assert tokens.dynamic_features.shape == (1000, 9, 32)
    assert tokens.static_mask.all()
    assert tokens.dynamic_mask.all()
    assert len(np.unique(tokens.sources)) == 200
    assert tokens.rated.all()
    np.testing.assert_allclose(tokens.static_t_s, tokens.dynamic_t_s, atol=0.05)


def test_any_split_of_the_bank_is_clean():
    tokens, shipped = align.read_aligned(TOKENS), read_clips(DATA).dropna()
    fitted = {key.rpartition("/")[2][:11] for key in read_reduction(TOKENS / "reduction.npz").fitted_on}
    assert len(fitted) >= 100
    assert not fitted & set(tokens.sources)
    assert not fitted & set(shipped["source"])
    assert not set(tokens.sources) & set(shipped["source"])


def test_the_manifest_names_what_made_the_tokens():
    identity = read_json(TOKENS / "manifest.json")["identity"]
    assert identity["static"]["weights"]["name"] == identity["dynamic"]["weights"]["name"] == "random"
    assert identity["reduction"] == read_reduction(TOKENS / "reduction.npz").identity


@pytest.mark.slow
def test_shipped_clips_extracted_again_give_the_shipped_tokens(tmp_path):
    clips = read_clips(DATA).dropna().iloc[[0, 17, 35]]
    shipped = align.read_aligned(TOKENS / "shipped")
    for correlation, distance in agreement(extracted(clips, DATA, tmp_path), shipped, clips.index).values():
        assert correlation > 0.999
        assert distance < 0.02


@pytest.mark.slow
def test_a_clip_of_the_bank_drawn_again_gives_its_tokens(tmp_path):
    plan = sample.sample_plan(bank.BANK_CLIPS, bank.BANK_SEED, bank.BANK_CLIPS_PER_SOURCE, splits=False).iloc[[3, 500]]
    for _, row in plan.iterrows():
        sample.write_clip(tmp_path / "clips", row)
    clips = read_clips(tmp_path / "clips")
    ours = extracted(clips, tmp_path / "clips", tmp_path / "out")
    for correlation, distance in agreement(ours, align.read_aligned(TOKENS), clips.index).values():
        assert correlation > 0.98  # the encoder's bytes differ from run to run
        assert distance < 0.15
