"""Settings of all flows: typed, validated, frozen.

The command line, a YAML file, `prefect.yaml` and the form in the Prefect UI all fill the same object of a flow.
Library functions receive the values that they use, not the whole object.
"""

from hip_mri.config.backbones import (
    ARCHITECTURES,
    KERAS_ADDRESS,
    PRESET,
    PRESETS,
    Architecture,
    BackboneName,
    InputScaling,
)
from hip_mri.config.base import Settings
from hip_mri.config.classes import (
    LABELS,
    SPLITS,
    SYNTHETIC_MARK,
    Label,
    check_class_names,
    normalize_class_name,
)
from hip_mri.config.comparison import CandidateSettings, CompareConfig
from hip_mri.config.data import DataSettings, ImageSettings, PredictionDataSettings, PreprocessingSettings, SourceLimits
from hip_mri.config.flows import (
    DEFAULT_DASK_ADDRESS,
    PipelineConfig,
    PredictConfig,
    RetrainConfig,
    RunnerSettings,
    SheetSettings,
    TrainingConfig,
)
from hip_mri.config.promotion import DriftSettings, ReleaseSettings, RetrainSettings
from hip_mri.config.serving import ServeConfig, ServiceLimits
from hip_mri.config.tracking import TrackingSettings
from hip_mri.config.training import (
    Engine,
    EvaluationSettings,
    FeatureSettings,
    FineTuneSettings,
    HeadDesign,
    HeadName,
    ModelSettings,
    Precision,
    TrainingSettings,
)
