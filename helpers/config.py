"""The parameters of every notebook with their defaults and legal values, as frozen dataclasses that pydantic checks.

In: names and values from a notebook's parameters cell, papermill or a YAML file. Out: an immutable object whose every
value has the right type and lies in its legal range, or a `ValueError` that names the parameter and what is legal.
"""

import ast
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from annotated_types import Ge, Interval

from helpers.files import resolve

ENDPOINTS = (
    "Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3", "Mixed_3b", "Mixed_3c",
    "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2", "Mixed_5b",
    "Mixed_5c",
)  # fmt: skip  # helpers.i3d.STAGES, without importing Keras
DECODERS = ("pyav", "opencv", "cuda", "qsv", "vaapi", "videotoolbox", "d3d11va", "drm", "amf")
_TYPES = {"number": "float", "integer": "int", "string": "str", "boolean": "bool"}  # JSON schema's names, Python's

Backbone = Literal["resnet50", "resnet101", "efficientnetv2_s", "efficientnetv2_m", "vgg19"]
Weights = Literal["random", "pretrained"]
Precision = Literal["float32", "bfloat16", "float16"]
Split = Literal["source", "kfold", "official", "random"]
Count = Annotated[int, Ge(0)]
Workers = Annotated[int, Interval(ge=0, le=256)]
Share = Annotated[float, Interval(ge=0.01, le=0.5)]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Base of the parameters of one notebook: types, ranges and choices are checked when it is made.

    An int is taken for a float and a tuple for a list; nothing else is converted.

    Attributes:
        newer: Parameters that folders were made without: they count as made with the default, and are left out of
            `as_dict` where they have it.
    """

    newer: ClassVar[tuple[str, ...]] = ()

    out_dir: str = "results/sample"

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            try:
                checked = _adapter(f.type).validate_python(list(value) if isinstance(value, tuple) else value)
            except ValueError:  # pydantic's
                got = f"{value!r} ({type(value).__name__})"
                raise ValueError(f"{f.name} must be {_rule(f.type)}, got {got}.") from None
            object.__setattr__(self, f.name, checked)

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
        """The parameters that decide the result, as plain types."""
        silent = {f.name for f in fields(self) if f.name in self.newer and getattr(self, f.name) == f.default}
        return {name: value for name, value in asdict(self).items() if name not in silent.union(without)}


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter  # here: processes that decode unpickle parameters, and check none

    return TypeAdapter(kind, config=ConfigDict(strict=True))


def _rule(kind: Any) -> str:
    """What a value of this type must be: "float, at least 1.0 and at most 240.0"."""
    if get_origin(kind) is UnionType:
        return " or ".join(map(_rule, get_args(kind)))
    schema = _adapter(kind).json_schema()
    item = schema.get("items", schema)
    name = _TYPES[item["type"]]
    rule = f"list[{name}]" if "items" in schema else name
    if "enum" in item:
        return f"{rule}, one of {', '.join(map(repr, item['enum']))}"
    words = {"minimum": "at least", "maximum": "at most"}
    bounds = [f"{word} {item[key]}" for key, word in words.items() if key in item]
    return f"{rule}, {' and '.join(bounds)}" if bounds else rule


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
    size: Annotated[int, Interval(ge=64, le=16384)] = 1024
    repeats: Annotated[int, Interval(ge=1, le=1000)] = 5
    batches: list[Annotated[int, Interval(ge=1, le=65536)]] = field(default_factory=lambda: [1, 2, 4, 8])


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig(Parameters):
    """01_data_analysis."""

    newer = ("targets",)

    data_dir: str = "data_sample"
    limit: Count = 0
    rating_low: float = 0.0
    rating_high: float = 1.0
    targets: str = "ocean"


@dataclass(frozen=True, kw_only=True)
class PreparationConfig(Parameters):
    """02_clip_preparation."""

    newer = ("detector", "crop", "align_eyes", "max_gap_s")

    data_dir: str = "data_sample"
    backend: Literal["auto", *DECODERS] = "auto"
    fps: Annotated[float, Interval(ge=1.0, le=240.0)] = 15.0
    detect_every: Annotated[int, Interval(ge=1, le=1000)] = 8
    min_coverage: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.3
    crop_scale: Annotated[float, Interval(ge=0.5, le=5.0)] = 1.7
    detector: Literal["haar", "yunet"] = "haar"
    crop: Literal["stable", "smooth"] = "stable"
    align_eyes: bool = False
    max_gap_s: Annotated[float, Interval(ge=0.0, le=60.0)] = 1.0
    workers: Workers = 0
    progress: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.align_eyes and self.detector == "haar":
            raise ValueError("align_eyes needs the detector 'yunet', got 'haar', which finds no eyes. Set detector.")


@dataclass(frozen=True, kw_only=True)
class StaticConfig(Parameters):
    """03_static_extraction."""

    newer = ("faces_dir", "faces_fps", "device")

    data_dir: str = "data_sample"
    backbone: Backbone = "resnet50"
    weights: Weights = "random"
    every_n_frames: Annotated[int, Interval(ge=1, le=1000)] = 8
    faces_dir: str = ""
    faces_fps: Annotated[float, Interval(ge=0.1, le=1000.0)] = 30.0
    batch_size: Annotated[int, Interval(ge=0, le=4096)] = 32
    device: str = ""
    precision: Precision = "float32"
    workers: Workers = 0
    progress: bool = False


@dataclass(frozen=True, kw_only=True)
class DynamicConfig(Parameters):
    """04_dynamic_extraction."""

    newer = ("remove_camera", "flow_dir", "flow_fps", "device")

    data_dir: str = "data_sample"
    weights: Weights = "random"
    endpoint: Literal["", *ENDPOINTS] = "Mixed_3c"
    input_px: Annotated[int, Interval(ge=32, le=512)] = 112
    flow: Literal["dis_fast", "dis_medium", "farneback", "tvl1"] = "dis_fast"
    flow_clip_px: Annotated[float, Interval(ge=0.1, le=1000.0)] = 20.0
    remove_camera: bool = False
    flow_dir: str = ""
    flow_fps: Annotated[float, Interval(ge=0.1, le=1000.0)] = 6.0
    mode: Literal["whole", "windows"] = "whole"
    segment: Annotated[int, Interval(ge=8, le=512)] = 8
    window: Annotated[int, Interval(ge=9, le=512)] = 16
    stride: Annotated[int, Interval(ge=1, le=512)] = 8
    batch_size: Annotated[int, Interval(ge=0, le=1024)] = 4
    device: str = ""
    precision: Precision = "float32"
    workers: Workers = 0
    progress: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.remove_camera:
            raise ValueError("remove_camera must be False: motion of the camera is no longer removed. Leave it out.")


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(Parameters):
    """05_alignment."""

    newer = ("folds",)

    bank_dir: str = "data_sample/tokens"
    reduction: Literal["auto", "groups", "pca", "none"] = "auto"
    static_dim: Annotated[int, Interval(ge=1, le=8192)] = 512
    dynamic_dim: Annotated[int, Interval(ge=1, le=8192)] = 256
    split: Split = "source"
    validation_share: Share = 0.075
    test_share: Share = 0.125
    folds: Annotated[int, Interval(ge=2, le=1000)] = 5
    seed: Count = 0
    synthetic_labels: bool = False

    def width(self, stream: str) -> int:
        """Channels of a stream after the reduction."""
        return {"static": self.static_dim, "dynamic": self.dynamic_dim}[stream]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Parameters):
    """06_training. `fusion_dim` 64, `num_heads` 2 and `dropout_rate` 0.5 are the legal variants of the source model."""

    newer = ("folds", "first_epoch", "frozen", "models", "precision", "tensorboard")

    bank_dir: str = "data_sample/tokens"
    seeds: list[Count] = field(default_factory=lambda: [0, 1, 2])
    split: Split = "source"
    validation_share: Share = 0.075
    test_share: Share = 0.125
    folds: Annotated[int, Interval(ge=2, le=1000)] = 5
    fusion_dim: Annotated[int, Interval(ge=8, le=4096)] = 128
    num_heads: Annotated[int, Interval(ge=1, le=64)] = 4
    dropout_rate: Annotated[float, Interval(ge=0.0, le=0.95)] = 0.3
    learning_rate: Annotated[float, Interval(ge=1e-6, le=1.0)] = 3e-3
    weight_decay: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.4
    batch_size: Annotated[int, Interval(ge=1, le=65536)] = 32
    epochs: Annotated[int, Interval(ge=1, le=100000)] = 50
    schedule: Literal["cosine", "plateau"] = "cosine"
    patience: Annotated[int, Interval(ge=0, le=100000)] = 0
    first_epoch: Annotated[int, Interval(ge=0, le=100000)] = 0
    frozen: str = ""
    models: str = "short"
    precision: Precision = "float32"
    tensorboard: bool = False
    workers: Annotated[int, Interval(ge=1, le=256)] = 2
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
    backbone: Backbone = "resnet50"
    weights: Weights = "random"
    input_px: Annotated[int, Interval(ge=0, le=1024)] = 32
    n_frames: Annotated[int, Interval(ge=1, le=4096)] = 12
    frame_px: Annotated[int, Interval(ge=32, le=1024)] = 64
    scales: list[Annotated[float, Interval(ge=0.1, le=10.0)]] = field(default_factory=lambda: [1.0, 0.85, 1.15])
    views: Annotated[int, Interval(ge=0, le=99)] = 3
    tta_views: Annotated[int, Interval(ge=0, le=99)] = 2
    flip: bool = False
    split: Literal["source", "official"] = "source"
    batch_size: Annotated[int, Interval(ge=1, le=4096)] = 64
    precision: Precision = "float32"
    workers: Workers = 0
    seed: Count = 0
    progress: bool = False
    folds: Annotated[int, Interval(ge=3, le=100)] = 5
    n_models: Annotated[int, Interval(ge=1, le=100)] = 3
    components: Annotated[int, Interval(ge=1, le=4096)] = 32
    units: Annotated[int, Interval(ge=1, le=4096)] = 32
    dropout_rate: Annotated[float, Interval(ge=0.0, le=0.95)] = 0.3
    learning_rate: Annotated[float, Interval(ge=1e-6, le=1.0)] = 3e-3
    label_smoothing: Annotated[float, Interval(ge=0.0, le=0.9)] = 0.1
    clips_per_batch: Annotated[int, Interval(ge=1, le=65536)] = 16
    epochs: Annotated[int, Interval(ge=1, le=100000)] = 30
    patience: Annotated[int, Interval(ge=0, le=100000)] = 8

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

    video: str | list[str] = "data_sample"
    model_dir: str = "results/sample/model"

    def __post_init__(self):
        super().__post_init__()
        if not self.video:
            raise ValueError(f"video must name at least one video or folder, got {self.video!r}. Name one.")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Parameters):
    """10_report."""


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
    "10_report": ReportConfig,
}
