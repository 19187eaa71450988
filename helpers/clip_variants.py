"""The frame features of labelled clips with their views and damaged copies, pooled over the splits.

In: the folder of feature files, `{split}_features[_multiscale][_{variant}].h5` (`helpers.store`).
Variants are `view01`, ... (further training clips), `tta01`, ... (views to average over), the name of a corruption such
as `noise`, and `noise_tta01`, ...: views of the damaged clip. Out: `ClipVariants`, all clips in one order whatever the
variant.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from helpers.class_folders import LabelledClips
from helpers.config import ClassificationConfig
from helpers.large import FeatureSet, read_feature_set
from helpers.views import PLAIN

VIEW, TTA = re.compile(r"view\d+$"), re.compile(r"(?:(\w+)_)?tta\d+$")
VALIDATION_NAMES = ("validation", "val", "valid")


@dataclass(frozen=True)
class ClipVariants:
    """N clips, each in some variants; T is the longest clip of any of them.

    Attributes:
        keys, sources, splits: str (N,).
        labels: int64 (N,), places in `classes`.
        classes: Names.
        features: By variant, float32 (N, T, D).
        masks: By variant, bool (N, T); no frame of a clip is kept in a variant that its split does not have.
    """

    keys: np.ndarray
    sources: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    features: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]

    @property
    def feature_dim(self) -> int:
        return self.features[PLAIN].shape[-1]

    @property
    def views(self) -> list[str]:
        """Names of the variants that are further training clips."""
        return sorted(name for name in self.features if VIEW.match(name))

    @property
    def corruptions(self) -> list[str]:
        return sorted(n for n in self.features if n != PLAIN and not VIEW.match(n) and not TTA.match(n))

    def tta(self, variant: str = PLAIN) -> list[str]:
        """Names of the views to average over with `variant`: of the clips as they are, or of a damaged copy."""
        found = {name: TTA.match(name) for name in self.features}
        return sorted(name for name, match in found.items() if match and (match[1] or PLAIN) == variant)

    def inputs(self, variant: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the classifier takes for these clips in this variant; ValueError where a clip does not have it."""
        mask = self.masks[variant][rows]
        if not mask.any(axis=1).all():
            clip = self.keys[rows][~mask.any(axis=1)][0]
            raise ValueError(
                f"clip {clip} must have usable frames in the variant {variant}, got none. "
                "Extract it for all splits, or choose the split 'official'."
            )
        return {"features": self.features[variant][rows], "mask": mask}

    def training(self, rows: np.ndarray, *, augmented: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Inputs and labels of these clips to train on, followed by their views where `augmented`."""
        names = [PLAIN, *self.views] if augmented else [PLAIN]
        parts = [self.inputs(name, rows) for name in names]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}, np.tile(
            self.labels[rows], len(names)
        )


def feature_files(folder: str | Path, *, multi_scale: bool) -> dict[tuple[str, str], Path]:
    """The feature files of a folder by (split, variant).

    Raises:
        FileNotFoundError: There is none.
    """
    suffix = "_multiscale" if multi_scale else "(?!_multiscale)"
    name = re.compile(rf"(?P<split>.+?)_features{suffix}(?:_(?P<variant>\w+))?\.h5$")
    matches = {path: name.match(path.name) for path in sorted(Path(folder).glob("[!.]*.h5"))}
    files = {(m["split"], m["variant"] or PLAIN): path for path, m in matches.items() if m}
    if not files:
        kind = "features averaged over scales" if multi_scale else "features of one scale"
        raise FileNotFoundError(f"{folder} holds no {kind}. Run 08_clip_classification first: it makes them.")
    return files


def read_variants(folder: str | Path, *, multi_scale: bool) -> ClipVariants:
    """Read all variants of all splits; all of them are held: 4 N T D bytes each.

    Raises:
        FileNotFoundError: No feature files.
        ValueError: Files of different clips, classes or widths, or features that are not finite.
    """
    sets = {names: read_feature_set(path) for names, path in feature_files(folder, multi_scale=multi_scale).items()}
    plain = {split: found for (split, variant), found in sets.items() if variant == PLAIN}
    for (split, variant), found in sets.items():
        _check_fits(f"{split}, {variant}", found, plain.get(split), next(iter(plain.values()), found))
    first = next(iter(plain.values()))
    longest = max(found.features.shape[1] for found in sets.values())
    names = sorted({variant for _, variant in sets})
    pooled = {name: [_padded(sets.get((split, name)), len(plain[split].keys), longest, first) for split in plain]
              for name in names}  # fmt: skip
    classes = sorted(first.categories, key=first.categories.__getitem__)
    place = {first.categories[name]: i for i, name in enumerate(classes)}
    return ClipVariants(
        keys=np.concatenate([found.keys for found in plain.values()]),
        sources=np.concatenate([found.sources for found in plain.values()]),
        splits=np.concatenate([np.full(len(found.keys), split) for split, found in plain.items()]),
        labels=np.array([place[label] for found in plain.values() for label in found.labels.tolist()], np.int64),
        classes=tuple(classes),
        features={name: np.concatenate([features for features, _ in parts]) for name, parts in pooled.items()},
        masks={name: np.concatenate([mask for _, mask in parts]) for name, parts in pooled.items()},
    )


def _check_fits(name: str, found: FeatureSet, plain: FeatureSet | None, first: FeatureSet) -> None:
    """Raise ValueError where a feature file does not belong to the others."""
    if plain is None or not np.array_equal(found.keys, plain.keys):
        raise ValueError(f"features ({name}) must be of the clips of the plain features, got others. Extract again.")
    if found.categories != first.categories or found.features.shape[2] != first.features.shape[2]:
        raise ValueError(
            f"features ({name}) must have {first.features.shape[2]} channels and the classes "
            f"{', '.join(first.categories)}, got {found.features.shape[2]} and {', '.join(found.categories)}. "
            "Extract all splits with one backbone."
        )
    if not np.isfinite(found.features).all():
        clip = found.keys[~np.isfinite(found.features).all(axis=(1, 2))][0]
        raise ValueError(f"features ({name}) must be finite, got NaN or infinity in {clip}. Extract that clip again.")


def _padded(found: FeatureSet | None, n: int, longest: int, like: FeatureSet) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, longest, D) and mask (n, longest) of a file; no kept frame where there is no such file."""
    features = np.zeros((n, longest, like.features.shape[2]), np.float32)
    mask = np.zeros((n, longest), bool)
    if found is not None:
        features[:, : found.features.shape[1]] = found.features
        mask[:, : found.valid.shape[1]] = found.valid
    return features, mask


@dataclass(frozen=True)
class Fold:
    """Rows of the clips to train on, to choose the epoch on, and to test on, int."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def plan_folds(variants: ClipVariants, cfg: ClassificationConfig) -> list[Fold]:
    """Divide the clips for training.

    "source": `cfg.folds` parts of whole sources with equal shares of the classes; each is the test part once and the
    validation part once, so that every clip has a prediction of a model that saw neither it nor its source.
    "official": one fold, the folders train, validation and test.
    """
    if cfg.split == "official":
        return [_official(variants.splits)]
    n_sources = len(np.unique(variants.sources))
    if n_sources < cfg.folds:
        raise ValueError(f"folds must be at most the number of sources, {n_sources}, got {cfg.folds}. Lower it.")
    divide = StratifiedGroupKFold(cfg.folds, shuffle=True, random_state=cfg.seed)
    parts = [test for _, test in divide.split(variants.keys, variants.labels, variants.sources)]
    rest = [np.concatenate([p for i, p in enumerate(parts) if i not in (k, (k + 1) % len(parts))])
            for k in range(len(parts))]  # fmt: skip
    return [
        Fold(np.sort(train), parts[(k + 1) % len(parts)], test)
        for k, (train, test) in enumerate(zip(rest, parts, strict=True))
    ]


def check_folds(clips: LabelledClips, cfg: ClassificationConfig) -> None:
    """Raise ValueError, before hours of extraction, where labelled clips cannot be trained and tested on as `cfg` says.

    Every class has to be in the training clips of every fold and among the test clips, which are of two sources at
    least: intervals are drawn over sources.
    """
    table = clips.table
    columns = {"keys": table.index, "sources": table["source"], "splits": table["split"], "labels": table["label"]}
    arrays = {name: column.to_numpy() for name, column in columns.items()}
    classes = tuple(sorted(clips.categories, key=clips.categories.__getitem__))
    folds = plan_folds(ClipVariants(**arrays, classes=classes, features={}, masks={}), cfg)
    parts = {f"the training clips of fold {k}": fold.train for k, fold in enumerate(folds)}
    for part, rows in (parts | {"the test clips": np.concatenate([fold.test for fold in folds])}).items():
        absent = [name for label, name in enumerate(classes) if label not in arrays["labels"][rows]]
        if absent:
            raise ValueError(f"{part} must be of all classes, got none of {absent[0]}. Add some, or leave it out.")
    n_sources = len(np.unique(arrays["sources"][rows]))
    if n_sources < 2:
        raise ValueError(f"the test clips must be of 2 sources at least, got {n_sources}. Add clips of another source.")


def _official(splits: np.ndarray) -> Fold:
    rows = [np.flatnonzero(np.isin(splits, names)) for names in (["train"], VALIDATION_NAMES, ["test"])]
    if not all(len(part) for part in rows):
        found = ", ".join(np.unique(splits))
        raise ValueError(f"split 'official' needs folders train, validation and test, got {found}. Choose 'source'.")
    return Fold(*rows)
