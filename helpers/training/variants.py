"""The models by name: what each takes of a clip, and the network it is.

In: `Aligned` clips and the name of a model. Out: its inputs, arrays by name with N rows, and its Keras model. A name
says the same thing everywhere: in `training.json`, in the table, as the file of a training.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from helpers.align import Aligned, nearest_motion
from helpers.config import TrainingConfig
from helpers.model import CompletePersonalityModel
from helpers.training.networks import aligned_mlp, concat_mlp, freeze_parts, stream_mlp

TOKEN_MODEL, SHUFFLED_MODEL = "token_cross_attention", "token_cross_attention_shuffled"
SHUFFLED_LABELS_MODEL = "token_cross_attention_shuffled_labels"
SALIENCE_MODEL, SALIENCE_SHUFFLED_MODEL = "salience_cross_attention", "salience_cross_attention_shuffled"
WARMUP_SHARE = 0.3  # of the training steps, for the salience model's auxiliary loss


@dataclass(frozen=True)
class Variant:
    """One row of the table of models.

    Attributes:
        says: What it is, in words.
        inputs: "tokens", "shuffled", "pooled", "aligned", "static" or "dynamic" (one stream's tokens), "untimed" (all
            tokens at one time), "coarse" (every other token); "" where there is no network.
        network: "cross_attention", "concat_mlp", "aligned_mlp", "stream_mlp", or "" for a baseline without one.
        options: Further arguments of CompletePersonalityModel.
        changes: Parameters of the training that it has otherwise.
        longer: Its epochs over those of the others.
        settles: Share of its epochs of which none is kept.
        labels: "own", or "shuffled": each training and validation clip has the ratings of another one of them.
    """

    says: str
    inputs: str = "tokens"
    network: str = "cross_attention"
    options: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    longer: float = 1.0
    settles: float = 0.0
    labels: str = "own"

    @property
    def cost(self) -> float:
        """Duration of a training, roughly, in trainings of an MLP."""
        return self.longer * {"": 0, "cross_attention": 4}.get(self.network, 1)


def _baseline(says: str) -> Variant:
    return Variant(says, "", "")


VARIANTS: dict[str, Variant] = {
    "constant": _baseline("the mean training rating for everyone"),
    "same_video": _baseline("the mean of the training clips of the same source, shrunken; sees no pixel"),
    "ridge_face": _baseline("ridge regression on the mean face token"),
    "ridge_motion": _baseline("ridge regression on the mean motion token"),
    "ridge": _baseline("ridge regression on the mean tokens of both streams"),
    "face_mlp": Variant("face tokens alone, no time", "static", "stream_mlp"),
    "motion_mlp": Variant("motion tokens alone, no time", "dynamic", "stream_mlp"),
    "concat_mlp": Variant("mean tokens of both streams, concatenated", "pooled", "concat_mlp"),
    "one_token_cross_attention": Variant("cross-attention over one mean token per stream", "pooled"),
    TOKEN_MODEL: Variant("cross-attention over tokens in time"),
    SHUFFLED_MODEL: Variant("the same, motion tokens moved to other times: the control", "shuffled"),
    SHUFFLED_LABELS_MODEL: Variant(
        "the same, trained on other clips' ratings: nothing can be learned", labels="shuffled"
    ),
    "token_cross_attention_untied": Variant("the same, keys not started as queries", options={"tied_start": False}),
    "token_cross_attention_pooled_before": Variant("the same, pooled before the head", options={"pool": "before"}),
    SALIENCE_MODEL: Variant(
        "attention from a flat start, at a price", options={"attention": "salience"}, longer=1.6, settles=0.6
    ),
    SALIENCE_SHUFFLED_MODEL: Variant(
        "the same, motion tokens moved to other times: its control",
        "shuffled",
        options={"attention": "salience"},
        longer=1.6,
        settles=0.6,
    ),
    "aligned_mlp": Variant("face and motion of the same time concatenated, no attention", "aligned", "aligned_mlp"),
}
ABLATIONS: dict[str, Variant] = {
    "heads_1": Variant("1 head", changes={"num_heads": 1}),
    "heads_2": Variant("2 heads", changes={"num_heads": 2}),
    "heads_8": Variant("8 heads", changes={"num_heads": 8}),
    "fusion_dim_64": Variant("tokens of width 64", changes={"fusion_dim": 64}),
    "fusion_dim_256": Variant("tokens of width 256", changes={"fusion_dim": 256}),
    "every_other_token": Variant("every other token of both streams", "coarse"),
    "no_positions": Variant("no times: attention cannot tell when", "untimed"),
}
MODELS = (
    "constant", "same_video", "ridge_face", "ridge_motion", "ridge", "concat_mlp", "one_token_cross_attention",
    TOKEN_MODEL, SHUFFLED_MODEL, "aligned_mlp",
)  # fmt: skip  # the short list, which the demo has minutes for


def variant_of(name: str) -> Variant:
    """Look up a model or an ablation; ValueError lists the names."""
    known = VARIANTS | ABLATIONS
    if name not in known:
        raise ValueError(f"models must be names among {', '.join(known)}, got {name!r}. Correct the name.")
    return known[name]


def chosen_models(models: str) -> tuple[str, ...]:
    """The models that `models` of the training's parameters means.

    Args:
        models: Names with commas between them; "short" is MODELS, "all" every variant, "ablations" every ablation.

    Returns:
        Their names in the order of the table, the constant and the token model always among them: every comparison
        needs both.
    """
    groups = {"all": tuple(VARIANTS), "ablations": tuple(ABLATIONS), "short": MODELS}
    wanted = [each for name in models.split(",") for each in groups.get(name.strip(), (name.strip(),))]
    for name in wanted:
        variant_of(name)
    return tuple(name for name in VARIANTS | ABLATIONS if name in {*wanted, "constant", TOKEN_MODEL})


def config_of(name: str, cfg: TrainingConfig) -> TrainingConfig:
    """The parameters that a model is trained with."""
    variant = variant_of(name)
    epochs = round(cfg.epochs * variant.longer)
    return replace(
        cfg, epochs=epochs, first_epoch=max(cfg.first_epoch, int(epochs * variant.settles)), **variant.changes
    )


def shuffled_order(aligned: Aligned, seed: int) -> np.ndarray:
    """Draw where the motion token at each place comes from, int (N, Td): a permutation within each clip's tokens."""
    keys = np.random.RandomState(seed).random_sample(aligned.dynamic_mask.shape)
    return np.where(aligned.dynamic_mask, keys, np.inf).argsort(1, kind="stable")


def shuffle_motion(aligned: Aligned, seed: int) -> Aligned:
    """Move the motion tokens of each clip to other times: the control that has all of the clip but what was when."""
    order = shuffled_order(aligned, seed)
    return replace(aligned, dynamic_features=np.take_along_axis(aligned.dynamic_features, order[..., None], 1))


def model_labels(name: str, labels: np.ndarray, fitted: np.ndarray, seed: int) -> np.ndarray:
    """The ratings (N, k) that the model of this name is fitted to; `fitted`, bool (N,), are the clips it may see."""
    if variant_of(name).labels == "own":
        return labels
    out, rows = labels.copy(), np.flatnonzero(fitted)
    out[rows] = labels[np.random.RandomState(seed).permutation(rows)]
    return out


def model_inputs(name: str, aligned: Aligned, seed: int) -> dict[str, np.ndarray]:
    """What the model of this name takes: token sequences, pooled vectors, or pairs of tokens of the same time."""
    kind = variant_of(name).inputs
    if kind in ("static", "dynamic"):
        return {"tokens": getattr(aligned, f"{kind}_features"), "mask": getattr(aligned, f"{kind}_mask")}
    if kind == "aligned":
        motion = np.take_along_axis(aligned.dynamic_features, nearest_motion(aligned)[..., None], 1)
        return {"static": aligned.static_features, "dynamic": motion, "mask": aligned.static_mask}
    if kind == "pooled":
        return aligned.pooled()
    inputs = (shuffle_motion(aligned, seed) if kind == "shuffled" else aligned).inputs()
    if kind == "untimed":
        return inputs | {name: np.zeros_like(inputs[name]) for name in ("static_t_s", "dynamic_t_s")}
    if kind == "coarse":
        return {name: values[:, ::2] for name, values in inputs.items()}
    return inputs


def build_model(name: str, aligned: Aligned, cfg: TrainingConfig, n_train: int) -> keras.Model:
    """Build the network of this name for the widths of these clips, to be trained on `n_train` of them."""
    variant, cfg = variant_of(name), config_of(name, cfg)
    widths = {"static": aligned.static_features.shape[-1], "dynamic": aligned.dynamic_features.shape[-1]}
    n_targets = len(aligned.targets)
    if variant.network == "stream_mlp":
        return stream_mlp(widths[variant.inputs], cfg.dropout_rate, n_targets)
    if variant.network in ("concat_mlp", "aligned_mlp"):
        build = {"concat_mlp": concat_mlp, "aligned_mlp": aligned_mlp}[variant.network]
        return build(*widths.values(), cfg.dropout_rate, n_targets)
    options = dict(variant.options)
    if options.get("attention") == "salience":
        options["warmup_steps"] = round(WARMUP_SHARE * cfg.epochs * -(-n_train // cfg.batch_size))
    sizes = cfg.fusion_dim, cfg.num_heads, cfg.dropout_rate, n_targets
    model = CompletePersonalityModel(*widths.values(), *sizes, **options)
    freeze_parts(model, cfg.frozen)
    return model


def start_model(name: str, aligned: Aligned, cfg: TrainingConfig, seed: int, n_train: int | None = None) -> keras.Model:
    """The network as it is before its training with this seed: the same weights at every call.

    Args:
        name: Of a variant that has a network.
        aligned: Clips whose widths it is for.
        cfg: Its sizes.
        seed: Of its weights.
        n_train: Clips it will be trained on; default all of `aligned`. Only the salience model's warm-up needs it.
    """
    keras.utils.set_random_seed(seed)
    return build_model(name, aligned, cfg, n_train or len(aligned))
