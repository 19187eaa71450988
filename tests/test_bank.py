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


def test_the_bank_holds_a_thousand_clips_of_two_hundred_sources_in_nine_tokens():
    tokens, identity = align.read_aligned(TOKENS), read_json(TOKENS / "manifest.json")["identity"]
    assert tokens.static_features.shape == (1000, 9, 64)
    assert tokens.dynamic_features.shape == (1000, 9, 32)
    assert all(of.all() for of in (tokens.static_mask, tokens.dynamic_mask, tokens.rated))
    assert len(np.unique(tokens.sources)) == 200
    np.testing.assert_allclose(tokens.static_t_s, tokens.dynamic_t_s, atol=0.05)
    assert identity["static"]["weights"]["name"] == identity["dynamic"]["weights"]["name"] == "random"
    assert identity["reduction"] == read_reduction(TOKENS / "reduction.npz").identity


def test_any_split_of_the_bank_is_clean():
    sources = set(align.read_aligned(TOKENS).sources), set(read_clips(DATA).dropna()["source"])
    fitted = {key.rpartition("/")[2][:11] for key in read_reduction(TOKENS / "reduction.npz").fitted_on}
    assert len(fitted) >= 100
    assert fitted.isdisjoint(sources[0] | sources[1])
    assert sources[0].isdisjoint(sources[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("again", "least", "most"),
    [("extracted", 0.999, 0.02), ("drawn", 0.98, 0.15)],  # the encoder's bytes differ from run to run
)
def test_clips_extracted_or_drawn_again_give_their_tokens(tmp_path, again, least, most):
    data, tokens = DATA, TOKENS / "shipped"
    if again == "drawn":
        data, tokens = tmp_path / "clips", TOKENS
        plan = sample.sample_plan(bank.BANK_CLIPS, bank.BANK_SEED, bank.BANK_CLIPS_PER_SOURCE, splits=False)
        for place in (3, 500):
            sample.write_clip(data, plan.iloc[place])
    clips = read_clips(data)
    clips = clips if again == "drawn" else clips.dropna().iloc[[0, 17, 35]]
    ours, theirs = extracted(clips, data, tmp_path / "out"), align.read_aligned(tokens)
    theirs = theirs.take([theirs.clips.tolist().index(key) for key in clips.index])
    for name in STREAMS:
        a, b = getattr(ours, f"{name}_features"), getattr(theirs, f"{name}_features")
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > least
        assert np.abs(a - b).mean() < most * b.std()
