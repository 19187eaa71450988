"""The parameters of every notebook with their defaults and legal values, as frozen dataclasses that pydantic checks."""

import ast
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, wraps
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, dataclass_transform

from annotated_types import Ge, Interval, MinLen, MultipleOf

from helpers.files import resolve

ENDPOINTS = (
    "Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3", "Mixed_3b", "Mixed_3c",
    "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2", "Mixed_5b",
    "Mixed_5c",
)  # fmt: skip  # helpers.i3d.STAGES, without importing Keras
DECODERS = ("pyav", "opencv", "cuda", "qsv", "vaapi", "videotoolbox", "d3d11va", "drm", "amf")
Backbone = Literal["resnet50", "resnet101", "efficientnetv2_s", "efficientnetv2_m", "vgg19"]
Weights = Literal["random", "pretrained"]
Precision = Literal["float32", "bfloat16", "float16"]
Split = Literal["source", "official", "random"]
Count = Annotated[int, Ge(0)]
Workers = Annotated[int, Interval(ge=0, le=256)]
Share = Annotated[float, Interval(ge=0.01, le=0.5)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Base of the parameters of one notebook: types, ranges and choices are checked when it is made.

    An int is taken for a float and a tuple for a list; nothing else is converted. What is not given has its default,
    or with `weights` "pretrained" the value in `PRETRAINED`.
    """

    PRETRAINED: ClassVar[Mapping[str, Any]]
    out_dir: str = "results/sample"

    def __init_subclass__(cls, pretrained: Mapping[str, Any] = MappingProxyType({})):
        dataclass(frozen=True, kw_only=True)(cls)
        cls.PRETRAINED, init = pretrained, cls.__init__

        @wraps(init)
        def with_preset(self, **given):
            init(self, **(pretrained if given.get("weights") == "pretrained" else {}) | given)

        cls.__init__ = with_preset

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            try:
                checked = _adapter(f.type).validate_python(list(value) if isinstance(value, tuple) else value)
            except ValueError as error:
                said = " or ".join(dict.fromkeys(part["msg"].removeprefix("Input ") for part in error.errors()))
                raise ValueError(f"{f.name} {said}, got {value!r} ({type(value).__name__}).") from None
            object.__setattr__(self, f.name, checked)

    @classmethod
    def checked(cls, values: dict[str, Any]) -> "Parameters":
        """Make one from names and values; an unknown name is a ValueError that lists the legal ones."""
        legal = [f.name for f in fields(cls)]
        for name in values:
            if name not in legal:
                raise ValueError(f"unknown parameter {name!r}. Legal names: {', '.join(legal)}.")
        return cls(**values)

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> "Parameters":
        """Gather the parameters from a notebook's `globals()`, with all that papermill injected into it.

        Papermill only warns about an unknown name, and a misspelt parameter would be a run with the default.
        """
        injected = []
        for source in namespace.get("In", []):
            if source.startswith("# Parameters\n"):
                injected += [line.targets[0].id for line in ast.parse(source).body if isinstance(line, ast.Assign)]
        if missing := [f.name for f in fields(cls) if f.name not in namespace]:
            raise ValueError(f"{missing[0]} is not defined. Run the parameters cell first.")
        changed = [name for name, default in asdict(cls()).items() if namespace[name] != default]
        return cls.checked({name: namespace[name] for name in [*changed, *injected]})

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
        return {name: value for name, value in asdict(self).items() if name not in without}


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter  # here: processes that decode unpickle parameters, and check none

    return TypeAdapter(kind, config=ConfigDict(strict=True))


class Extraction(Parameters):
    """What 03 and 04 share."""

    data_dir: str = "data_sample"
    weights: Weights = "random"
    device: str = ""
    precision: Precision = "float32"
    workers: Workers = 0
    progress: bool = False


class Splits(Parameters):
    """What 05 and 06 share."""

    bank_dir: str = "data_sample/tokens"
    split: Split = "source"
    validation_share: Share = 0.075
    test_share: Share = 0.125


class SetupConfig(Parameters):
    """00_setup_check."""

    require_gpu: bool = False
    size: Annotated[int, Interval(ge=64, le=16384)] = 1024
    repeats: Annotated[int, Interval(ge=1, le=1000)] = 5
    batches: list[Annotated[int, Interval(ge=1, le=65536)]] = field(default_factory=lambda: [1, 2, 4])


class AnalysisConfig(Parameters):
    """01_data_analysis."""

    data_dir: str = "data_sample"
    limit: Count = 0
    rating_low: float = 0.0
    rating_high: float = 1.0
    targets: str = "ocean"


class PreparationConfig(Parameters, pretrained={"fps": 25, "detect_every": 10, "detector": "auto"}):
    """02_clip_preparation. What is `pretrained` are the networks of 03 and 04: I3D was trained on 25 fps."""

    data_dir: str = "data_sample"
    backend: Literal["auto", *DECODERS] = "auto"
    fps: Annotated[float, Interval(ge=1.0, le=240.0)] = 15.0
    detect_every: Annotated[int, Interval(ge=1, le=1000)] = 8
    min_coverage: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.3
    crop_scale: Annotated[float, Interval(ge=0.5, le=5.0)] = 1.7
    detector: Literal["haar", "yunet", "auto"] = "haar"
    min_face: Annotated[float, Interval(ge=0.02, le=0.9)] = 0.2
    align_eyes: bool = False
    max_gap_s: Annotated[float, Interval(ge=0.0, le=60.0)] = 1.0
    workers: Workers = 0
    progress: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.align_eyes and self.detector == "haar":
            raise ValueError("align_eyes needs the detector 'yunet', got 'haar', which finds no eyes. Set detector.")


class StaticConfig(Extraction, pretrained={"every_n_frames": 5}):
    """03_static_extraction."""

    backbone: Backbone = "resnet50"
    every_n_frames: Annotated[int, Interval(ge=1, le=1000)] = 8
    faces_dir: str = ""
    faces_fps: Annotated[float, Interval(ge=0.1, le=1000.0)] = 30.0
    batch_size: Annotated[int, Interval(ge=0, le=4096)] = 32


class DynamicConfig(Extraction, pretrained={"endpoint": "", "input_px": 224, "flow": "dis_medium", "segment": 8}):
    """04_dynamic_extraction. Published weights saw flow "tvl1", which costs about 70 times the time of "dis_medium"."""

    endpoint: Literal["", *ENDPOINTS] = "Mixed_3c"
    input_px: Annotated[int, Interval(ge=32, le=512)] = 112
    flow: Literal["dis_fast", "dis_medium", "farneback", "tvl1"] = "dis_fast"
    flow_clip_px: Annotated[float, Interval(ge=0.1, le=1000.0)] = 20.0
    flow_dir: str = ""
    flow_fps: Annotated[float, Interval(ge=0.1, le=1000.0)] = 6.0
    mode: Literal["whole", "windows"] = "whole"
    segment: Annotated[int, Interval(ge=8, le=512), MultipleOf(8)] = 8  # the network halves time three times
    window: Annotated[int, Interval(ge=9, le=512)] = 16
    stride: Annotated[int, Interval(ge=1, le=512)] = 8
    batch_size: Annotated[int, Interval(ge=0, le=1024)] = 4

    def __post_init__(self):
        super().__post_init__()
        if not self.endpoint and self.input_px != 224:
            raise ValueError(
                f"input_px must be 224 without an endpoint, got {self.input_px}. Set it, or name an endpoint."
            )


class AlignmentConfig(Splits):
    """05_alignment."""

    reduction: Literal["auto", "groups", "pca", "none"] = "auto"
    static_dim: Annotated[int, Interval(ge=1, le=8192)] = 512
    dynamic_dim: Annotated[int, Interval(ge=1, le=8192)] = 256
    seed: Count = 0
    synthetic_labels: bool = False


class TrainingConfig(Splits):
    """06_training. `fusion_dim` 64, `num_heads` 2 and `dropout_rate` 0.5 are the legal variants of the source model."""

    seeds: list[Count] = field(default_factory=lambda: [0, 1, 2])
    fusion_dim: Annotated[int, Interval(ge=8, le=4096)] = 128
    num_heads: Annotated[int, Interval(ge=1, le=64)] = 4
    dropout_rate: Annotated[float, Interval(ge=0.0, le=0.95)] = 0.3
    learning_rate: Annotated[float, Interval(ge=1e-6, le=1.0)] = 3e-3
    weight_decay: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.4
    batch_size: Annotated[int, Interval(ge=1, le=65536)] = 32
    epochs: Annotated[int, Interval(ge=1, le=100000)] = 50
    schedule: Literal["cosine", "plateau"] = "cosine"
    patience: Annotated[int, Interval(ge=0, le=100000)] = 16
    frozen: str = ""
    models: str = "short"
    precision: Precision = "float32"
    tensorboard: bool = False
    workers: Annotated[int, Interval(ge=1, le=256)] = 2
    progress: bool = False


class AttentionConfig(Parameters):
    """07_attention_visualization."""

    data_dir: str = "data_sample"
    trait: str = "agreeableness"
    clip: str = ""


class ClassificationConfig(Parameters, pretrained={"input_px": 0, "frame_px": 256, "n_frames": 32}):
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
    learning_rate: Annotated[float, Interval(ge=1e-6, le=1.0)] = 1e-2
    label_smoothing: Annotated[float, Interval(ge=0.0, le=0.9)] = 0.1
    clips_per_batch: Annotated[int, Interval(ge=1, le=65536)] = 32
    epochs: Annotated[int, Interval(ge=1, le=100000)] = 20
    patience: Annotated[int, Interval(ge=0, le=100000)] = 8


class ScoreConfig(Parameters):
    """09_score_a_clip."""

    video: Annotated[str, MinLen(1)] | Annotated[list[str], MinLen(1)] = "data_sample"
    model_dir: str = "results/sample/model"


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
