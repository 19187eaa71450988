"""What the answer rests on: motion tokens are taken away, one at a time or one after the other.

In: a trained CompletePersonalityModel, its inputs, the mean motion token that stands for "nothing special". Out:
changes of a score. No gradient and no attention is needed: this is the measure that the others are held against.
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from helpers.align import Aligned

BATCH = 1024
PASS_NUMBERS = 2**22  # of tokens' channels, and of a head's attention, that go through the model at once: 16 MB each


def occlusion(model: keras.Model, inputs: dict[str, np.ndarray], target: int, baseline: np.ndarray) -> np.ndarray:
    """Replace one motion token at a time and see how far the prediction moves.

    Args:
        model: Trained model.
        inputs: As for the model, with `dynamic` (N, Td, D) and `dynamic_mask` (N, Td).
        target: Column of the prediction.
        baseline: What the token is replaced by, usually the mean motion token of the training clips, (D,).

    Returns:
        Change of the prediction by each token, float32 (N, Td); 0 where the mask is False.
    """

    def predict(dynamic: np.ndarray) -> np.ndarray:
        return model.predict(inputs | {"dynamic": dynamic}, batch_size=BATCH, verbose=0)[:, target]

    before = predict(inputs["dynamic"])
    effects = np.zeros(inputs["dynamic"].shape[:2], "float32")
    for j in range(effects.shape[1]):
        changed = inputs["dynamic"].copy()
        changed[:, j] = baseline
        effects[:, j] = predict(changed) - before
    return effects * inputs["dynamic_mask"]


def effects_of_motion(
    model: keras.Model, inputs: dict[str, np.ndarray], parts: Sequence[np.ndarray], usual: np.ndarray
) -> np.ndarray:
    """How far every score moves when the motion of one part is replaced by the usual motion: occlusion.

    Args:
        model: Trained model.
        inputs: Of one clip, each (1, T, ...) or (1, T).
        parts: Indices of the motion tokens of each part.
        usual: What they are replaced by: the mean motion token of the training clips, (D,).

    Returns:
        Score of the whole clip minus score without the part, float32 (n, k): above 0, the part raised the score.
    """
    n_pairs = inputs["static"].shape[1] * inputs["dynamic"].shape[1]
    at_once = max(1, PASS_NUMBERS // max(inputs["dynamic"].size, n_pairs))
    without = []
    for i in range(0, len(parts), at_once):
        chosen = parts[i : i + at_once]
        batch = {name: np.repeat(x, len(chosen), axis=0) for name, x in inputs.items()}
        for row, part in enumerate(chosen):
            batch["dynamic"][row, part] = usual
        without.append(keras.ops.convert_to_numpy(model(batch, training=False)))
    whole = keras.ops.convert_to_numpy(model(inputs, training=False))
    return whole - np.concatenate(without)


def mean_motion(aligned: Aligned) -> np.ndarray:
    """Mean motion token of some clips, float32 (D,): the baseline of `occlusion`."""
    return aligned.dynamic_features[aligned.dynamic_mask].mean(0)


def column_of(bank: Aligned, trait: str) -> int:
    """The column of `labels` that a target stands in; ValueError lists the targets."""
    targets = bank.targets.tolist()
    if trait not in targets:
        raise ValueError(f"trait must be one of {', '.join(targets)}, got {trait!r}. Set it for 07.")
    return targets.index(trait)


def order_of(importance: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The tokens of each clip from the most important on, int (N, Td); those that the mask leaves out come last."""
    return np.where(mask, -importance, np.inf).argsort(1, kind="stable")


def random_orders(mask: np.ndarray, n: int, seed: int = 0) -> list[np.ndarray]:
    """Draw n orders of each clip's tokens, each int (N, Td)."""
    random = np.random.RandomState(seed)
    return [order_of(random.random_sample(mask.shape), mask) for _ in range(n)]


def replaced_per_step(mask: np.ndarray) -> np.ndarray:
    """How many tokens are replaced at each step, int (N, Td + 1): none at the first, all at the last."""
    steps = mask.shape[1]
    return np.rint(mask.sum(1)[:, None] * np.arange(steps + 1) / steps).astype(int)


def delete(
    model: keras.Model,
    inputs: dict[str, np.ndarray],
    order: np.ndarray,
    target: int,
    baseline: np.ndarray,
    *,
    insert: bool = False,
) -> np.ndarray:
    """Replace motion tokens one after the other, or with `insert` all but those, and predict at each step.

    Deletion and insertion of Petsiuk, Das and Saenko (2018), RISE, with the mean motion token for a blurred picture.

    Args:
        model, inputs, target, baseline: See `occlusion`.
        order: Tokens of each clip in the order in which they go, or come, int (N, Td); see `order_of`.
        insert: Start from mean motion, and put the clip's tokens back.

    Returns:
        Predictions float32 (N, Td + 1). Clips of fewer tokens than others have the same number of steps, some empty.
    """
    n, td = order.shape
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(td)[None], 1)
    changed = rank[:, None] < replaced_per_step(inputs["dynamic_mask"])[..., None]  # (N, Td + 1, Td)
    if insert:
        changed = ~changed
    motion = np.where(changed[..., None], baseline, inputs["dynamic"][:, None]).astype("float32")
    repeated = {name: np.repeat(x, td + 1, axis=0) for name, x in inputs.items() if name != "dynamic"}
    repeated["dynamic"] = motion.reshape(-1, *inputs["dynamic"].shape[1:])
    return model.predict(repeated, batch_size=BATCH, verbose=0)[:, target].reshape(n, td + 1)


def step_effects(predictions: np.ndarray, order: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Change of the prediction as each token went, by token, (N, Td); 0 where the mask is False.

    Averaged over random orders it is the token's Shapley value, sampled (Castro, Gomez and Tejada 2009): unlike
    occlusion it sees tokens that can stand in for each other.
    """
    count = replaced_per_step(mask)
    effects = np.zeros(order.shape)
    clip, step = np.nonzero(np.diff(count, axis=1))
    effects[clip, order[clip, count[clip, step]]] = np.diff(predictions, axis=1)[clip, step]
    return effects


def curves(
    model: keras.Model,
    inputs: dict[str, np.ndarray],
    orders: Mapping[str, list[np.ndarray]],
    target: int,
    baseline: np.ndarray,
) -> dict[str, dict[str, np.ndarray]]:
    """How far the prediction is from that of the clip as it is, while tokens go (deletion) and come (insertion).

    Args:
        model, inputs, target, baseline: See `occlusion`.
        orders: By name one order, or several random ones, over which the mean is taken; those are inserted backwards,
            which is as random and needs no further predictions.

    Returns:
        By name `deletion` and `insertion`, |change of the score| (N, Td + 1), and `effects` (N, Td), see
        `step_effects`, of the deletion.
    """
    found = {}
    for name, drawn in orders.items():
        away = [delete(model, inputs, order, target, baseline) for order in drawn]
        if len(drawn) > 1:
            back = [predictions[:, ::-1] for predictions in away]
        else:
            back = [delete(model, inputs, drawn[0], target, baseline, insert=True)]
        effects = [step_effects(p, order, inputs["dynamic_mask"]) for p, order in zip(away, drawn, strict=True)]
        found[name] = {
            "deletion": np.mean([np.abs(p - p[:, :1]) for p in away], 0),
            "insertion": np.mean([np.abs(p - p[:, -1:]) for p in back], 0),
            "effects": np.mean(effects, 0),
        }
    return found
