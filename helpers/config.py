"""The parameters of every notebook with their defaults and legal values, as checked, frozen dataclasses.

In: names and values from a notebook's parameters cell, papermill or a YAML file. Out: an immutable object whose every
value has the right type and lies in its legal range, or a `ValueError` that names the parameter and what is legal.
"""

import ast
import math
import types
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

from helpers.files import resolve

ENDPOINTS = (
    "Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3", "Mixed_3b", "Mixed_3c",
    "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2", "Mixed_5b",
    "Mixed_5c",
)  # fmt: skip  # helpers.i3d.STAGES, without importing Keras
DECODERS = (
    "pyav",
    "opencv",
    "cuda",
    "qsv",
    "vaapi",
    "videotoolbox",
    "d3d11va",
    "drm",
    "amf",
)  # of helpers.video


def number(default: float, low: float, high: float = math.inf) -> Any:
    """A parameter in [low, high]; for a list, each of its items."""
    return _of(default, {"low": low, "high": high})


def choice(default: Any, *options: str) -> Any:
    """A parameter that is one of `options`; for a list, each of its items."""
    return _of(default, {"options": options})


def later(default: Any) -> Any:
    """A parameter that came after folders had been made without it: they count as made with its default (or rule)."""
    if isinstance(default, Field):
        return field(default=default.default, metadata={**default.metadata, "later": True})
    return _of(default, {"later": True})


def _of(default: Any, rule: dict) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=rule)
    return field(default=default, metadata=rule)


def _converted(value: Any, kind: Any) -> Any:
    """`value` as `kind`, or TypeError. An int is taken for a float, a bool never for a number."""
    if isinstance(kind, types.GenericAlias) and get_origin(kind) is list:
        if not isinstance(value, list | tuple):
            raise TypeError
        return [_converted(item, get_args(kind)[0]) for item in value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    return value


def _rule(kind: Any, rule: dict) -> str:
    name = str(kind) if get_origin(kind) else kind.__name__
    if "options" in rule:
        return f"{name}, one of {', '.join(map(repr, rule['options']))}"
    if "low" in rule:
        high = "" if rule["high"] == math.inf else f" and at most {rule['high']}"
        return f"{name}, at least {rule['low']}{high}"
    return name


def _legal(value: Any, rule: dict) -> bool:
    items = value if isinstance(value, list) else [value]
    if "options" in rule:
        return all(item in rule["options"] for item in items)
    if "low" in rule:
        return all(rule["low"] <= item <= rule["high"] for item in items)
    return True


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Base of the parameters of one notebook: types, ranges and choices are checked when it is made."""

    out_dir: str = "results/sample"

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            try:
                value = _converted(value, f.type)
                legal = _legal(value, f.metadata)
            except TypeError:
                legal = False
            if not legal:
                got = f"{value!r} ({type(value).__name__})"
                raise ValueError(f"{f.name} must be {_rule(f.type, f.metadata)}, got {got}.")
            object.__setattr__(self, f.name, value)

    @classmethod
    def checked(cls, values: dict[str, Any]) -> "Parameters":
        """Make one from names and values; an unknown name is a ValueError that lists the legal ones."""
        legal = [f.name for f in fields(cls)]
        unknown = [name for name in values if name not in legal]
        if unknown:
            raise ValueError(f"unknown parameter {unknown[0]!r}. Legal names: {', '.join(legal)}.")
        return cls(**values)

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> "Parameters":
        """Gather the parameters from a notebook's `globals()`.

        What papermill injected is checked for unknown names: papermill itself only warns about them, and a
        misspelt parameter would be a run with the default.
        """
        for source in namespace.get("In", []):
            if source.startswith("# Parameters\n"):
                cls.checked(_assigned(source))
        missing = [f.name for f in fields(cls) if f.name not in namespace]
        if missing:
            raise ValueError(f"{missing[0]} is not defined. Run the parameters cell first.")
        return cls(**{f.name: namespace[f.name] for f in fields(cls)})

    @property
    def out(self) -> Path:
        """The run's folder, absolute."""
        return resolve(self.out_dir)

    @property
    def data(self) -> Path:
        """The folder of clips, absolute."""
        return resolve(self.data_dir)

    def as_dict(self, *, without: tuple[str, ...] = ("data_dir", "out_dir", "limit", "progress")) -> dict[str, Any]:
        """The parameters that decide the result, as plain types; a `later` one only where it is not the default."""
        silent = {f.name for f in fields(self) if f.metadata.get("later") and getattr(self, f.name) == f.default}
        return {name: value for name, value in asdict(self).items() if name not in silent.union(without)}


def _assigned(source: str) -> dict[str, Any]:
    """Names and values of the plain assignments in a cell."""
    return {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
    }


@dataclass(frozen=True, kw_only=True)
class SetupConfig(Parameters):
    """00_setup_check."""

    require_gpu: bool = False
    size: int = number(1024, 64, 16384)
    repeats: int = number(5, 1, 1000)
    batches: list[int] = number([1, 2, 4, 8], 1, 65536)


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig(Parameters):
    """01_data_analysis."""

    data_dir: str = "data_sample"
    limit: int = number(0, 0)
    rating_low: float = 0.0
    rating_high: float = 1.0
    targets: str = later("ocean")


@dataclass(frozen=True, kw_only=True)
class PreparationConfig(Parameters):
    """02_clip_preparation."""

    data_dir: str = "data_sample"
    backend: str = choice("auto", "auto", *DECODERS)
    fps: float = number(15.0, 1.0, 240.0)
    detect_every: int = number(8, 1, 1000)
    min_coverage: float = number(0.3, 0.0, 1.0)
    crop_scale: float = number(1.7, 0.5, 5.0)
    detector: str = later(choice("haar", "haar", "yunet"))
    crop: str = later(choice("stable", "stable", "smooth"))
    align_eyes: bool = later(False)
    max_gap_s: float = later(number(1.0, 0.0, 60.0))
    workers: int = number(0, 0, 256)
    progress: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.align_eyes and self.detector == "haar":  # helpers.faces.LANDMARKS, without importing OpenCV
            raise ValueError("align_eyes needs the detector 'yunet', got 'haar', which finds no eyes. Set detector.")


@dataclass(frozen=True, kw_only=True)
class StaticConfig(Parameters):
    """03_static_extraction."""

    data_dir: str = "data_sample"
    backbone: str = choice("resnet50", "resnet50", "resnet101", "efficientnetv2_s", "efficientnetv2_m", "vgg19")
    weights: str = choice("random", "random", "pretrained")
    every_n_frames: int = number(8, 1, 1000)
    faces_dir: str = later("")
    faces_fps: float = later(number(30.0, 0.1, 1000.0))
    batch_size: int = number(32, 0, 4096)
    device: str = later("")
    precision: str = choice("float32", "float32", "bfloat16", "float16")
    workers: int = number(0, 0, 256)
    progress: bool = False


@dataclass(frozen=True, kw_only=True)
class DynamicConfig(Parameters):
    """04_dynamic_extraction."""

    data_dir: str = "data_sample"
    weights: str = choice("random", "random", "pretrained")
    endpoint: str = choice("Mixed_3c", "", *ENDPOINTS)
    input_px: int = number(112, 32, 512)
    flow: str = choice("dis_fast", "dis_fast", "dis_medium", "farneback", "tvl1")
    flow_clip_px: float = number(20.0, 0.1, 1000.0)
    remove_camera: bool = later(False)
    flow_dir: str = later("")
    flow_fps: float = later(number(6.0, 0.1, 1000.0))
    mode: str = choice("whole", "whole", "windows")
    segment: int = number(8, 8, 512)
    window: int = number(16, 9, 512)
    stride: int = number(8, 1, 512)
    batch_size: int = number(4, 0, 1024)
    device: str = later("")
    precision: str = choice("float32", "float32", "bfloat16", "float16")
    workers: int = number(0, 0, 256)
    progress: bool = False


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(Parameters):
    """05_alignment."""

    bank_dir: str = "data_sample/tokens"
    reduction: str = choice("auto", "auto", "groups", "pca", "none")
    static_dim: int = number(512, 1, 8192)
    dynamic_dim: int = number(256, 1, 8192)
    split: str = choice("source", "source", "kfold", "official", "random")
    validation_share: float = number(0.075, 0.01, 0.5)
    test_share: float = number(0.125, 0.01, 0.5)
    folds: int = later(number(5, 2, 1000))
    seed: int = number(0, 0)
    synthetic_labels: bool = False

    def width(self, stream: str) -> int:
        """Channels of a stream after the reduction."""
        return {"static": self.static_dim, "dynamic": self.dynamic_dim}[stream]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Parameters):
    """06_training. `fusion_dim` 64, `num_heads` 2 and `dropout_rate` 0.5 are the legal variants of the source model."""

    bank_dir: str = "data_sample/tokens"
    seeds: list[int] = number([0, 1, 2], 0)
    split: str = choice("source", "source", "kfold", "official", "random")
    validation_share: float = number(0.075, 0.01, 0.5)
    test_share: float = number(0.125, 0.01, 0.5)
    folds: int = later(number(5, 2, 1000))
    fusion_dim: int = number(128, 8, 4096)
    num_heads: int = number(4, 1, 64)
    dropout_rate: float = number(0.3, 0.0, 0.95)
    learning_rate: float = number(3e-3, 1e-6, 1.0)
    weight_decay: float = number(0.4, 0.0, 1.0)
    batch_size: int = number(32, 1, 65536)
    epochs: int = number(50, 1, 100000)
    schedule: str = choice("cosine", "cosine", "plateau")
    patience: int = number(0, 0, 100000)
    first_epoch: int = later(number(0, 0, 100000))
    frozen: str = later("")
    models: str = later("short")
    precision: str = later(choice("float32", "float32", "bfloat16", "float16"))
    tensorboard: bool = later(False)
    workers: int = number(2, 1, 256)
    progress: bool = False


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(Parameters):
    """07_attention_visualization."""

    data_dir: str = "data_sample"
    bank_dir: str = "data_sample/tokens"
    trait: str = "agreeableness"
    clip: str = ""


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(Parameters):
    """08_clip_classification. `input_px` 0: the input that the weights were trained with."""

    data_dir: str = "data_sample/motion"
    backbone: str = choice("resnet50", "resnet50", "resnet101", "efficientnetv2_s", "efficientnetv2_m", "vgg19")
    weights: str = choice("random", "random", "pretrained")
    input_px: int = number(32, 0, 1024)
    n_frames: int = number(12, 1, 4096)
    frame_px: int = number(64, 32, 1024)
    scales: list[float] = number([1.0, 0.85, 1.15], 0.1, 10.0)
    views: int = number(3, 0, 99)
    tta_views: int = number(2, 0, 99)
    flip: bool = False
    split: str = choice("source", "source", "official")
    batch_size: int = number(64, 1, 4096)
    precision: str = choice("float32", "float32", "bfloat16", "float16")
    workers: int = number(0, 0, 256)
    seed: int = number(0, 0)
    progress: bool = False
    folds: int = number(5, 3, 100)
    n_models: int = number(3, 1, 100)
    components: int = number(32, 1, 4096)
    units: int = number(32, 1, 4096)
    dropout_rate: float = number(0.3, 0.0, 0.95)
    learning_rate: float = number(3e-3, 1e-6, 1.0)
    label_smoothing: float = number(0.1, 0.0, 0.9)
    clips_per_batch: int = number(16, 1, 65536)
    epochs: int = number(30, 1, 100000)
    patience: int = number(8, 0, 100000)

    @property
    def multi_scale(self) -> bool:
        """Whether rows are means over temporal scales."""
        return self.scales != [1.0]

    @property
    def features(self) -> Path:
        """Folder of the feature files."""
        return self.out / "classification" / "features"


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Parameters):
    """09_score_a_clip."""

    video: str = "data_sample/test80_01"
    model_dir: str = "results/sample/model"


NOTEBOOKS: dict[str, type[Parameters]] = {
    "00_setup_check": SetupConfig,
    "01_data_analysis": AnalysisConfig,
    "02_clip_preparation": PreparationConfig,
    "03_static_extraction": StaticConfig,
    "04_dynamic_extraction": DynamicConfig,
    "05_alignment": AlignmentConfig,
    "06_training": TrainingConfig,
    "07_attention_visualization": AttentionConfig,
    "08_clip_classification": ClassificationConfig,
    "09_score_a_clip": ScoreConfig,
}
