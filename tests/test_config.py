import json
import math
import os
from contextlib import nullcontext
from functools import reduce
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from prefect.utilities.schema_tools.validation import validate
from pydantic import BaseModel, ValidationError

from hip_mri.config import (
    ARCHITECTURES,
    CandidateSettings,
    CompareConfig,
    ImageSettings,
    PipelineConfig,
    PredictConfig,
    PredictionDataSettings,
    ReleaseSettings,
    RetrainConfig,
    RunnerSettings,
    ServeConfig,
    SourceLimits,
)
from hip_mri.config.base import FORMER_NAMES as PRESENT_NAMES
from hip_mri.config.base import list_settings
from hip_mri.config.reference import describe_settings

JUST = 1e-9

BOUNDS = [  # setting, allowed at the ends, refused just beyond
    ("seed", (0, 2**32 - 1), (-1, 2**32)),
    ("limits.max_entries", (1, 100_000_000), (0, 100_000_001)),
    ("limits.max_bytes", (1, 2**50), (0, 2**50 + 1)),
    ("limits.max_compression_ratio", (1, 2000), (0.999, 2000.1)),
    ("data.max_slices", (1, 100_000), (0, 100_001)),
    ("limits.fetch_timeout_seconds", (JUST, 604_800), (0, 604_801)),
    ("limits.stall_timeout_seconds", (JUST, 3600), (0, 3601)),
    ("data.val_fraction", (JUST, 0.5 - JUST), (0, 0.5)),
    ("data.test_fraction", (JUST, 0.5 - JUST), (0, 0.5)),
    ("preprocessing.clahe_clip_limit", (0, 40), (-JUST, 40.001)),
    ("preprocessing.clahe_num_tiles", (1, 64), (0, 65)),
    ("preprocessing.image_size", (32, 1024), (31, 1025)),
    ("model.hidden_units", (1, 65536), (0, 65537)),
    ("training.epochs", (1, 10_000), (0, 10_001)),
    ("training.batch_size", (1, 65536), (0, 65537)),
    ("training.learning_rate", (JUST, 1), (0, 1.001)),
    ("training.early_stopping_patience", (0, 10_000), (-1, 10_001)),
    ("training.fine_tune.epochs", (0, 1000), (-1, 1001)),
    ("training.fine_tune.learning_rate", (JUST, 1), (0, 1.001)),
    ("training.fine_tune.batch_size", (1, 4096), (0, 4097)),
    ("training.fine_tune.early_stopping_patience", (0, 1000), (-1, 1001)),
    ("evaluation.required_sensitivity", (JUST, 1), (0, 1.001)),
    ("evaluation.uncertain_error_rate", (JUST, 0.5 - JUST), (0, 0.5)),
    ("evaluation.num_resamples", (200, 100_000), (199, 100_001)),
    ("evaluation.cross_validation_folds", (2, 20), (1, 21)),
    ("evaluation.cross_validation_seeds", (0, 20), (-1, 21)),
    ("evaluation.outside_fraction", (JUST, 0.5 - JUST), (0, 0.5)),
    ("evaluation.min_subgroup_size", (5, 1_000_000), (4, 1_000_001)),
    ("runner.num_workers", (1, 1024), (0, 1025)),
    ("runner.num_threads", (0, 1024), (-1, 1025)),
    ("runner.shard_size", (1, 1_000_000), (0, 1_000_001)),
    ("tracking.timeout_seconds", (1, 3600), (0.9, 3601)),
]
CHOICES = {
    "preprocessing.interpolation": {"linear", "area"},
    "model.backbone": set(ARCHITECTURES),
    "model.head": {"dense", "logistic", "knn"},
    "model.input_scaling": {"auto", "caffe", "caffe_255", "tf", "tf_128", "torch", "none"},
    "features.engine": {"auto", "keras", "openvino"},
    "features.precision": {"auto", "float32", "bfloat16"},
    "training.class_weight": {"none", "balanced"},
    "evaluation.threshold_rule": {"youden", "sensitivity"},
    "runner.kind": {"local", "dask"},
    "data.given_split": {"keep", "ignore"},
    "training.fine_tune.from_block": {"conv2", "conv3", "conv4", "conv5"},
}
OTHERS = {
    "source",
    "source_sha256",
    "workspace",
    "data.collection",
    "data.patients_file",
    "data.train_file",
    "data.val_file",
    "data.test_file",
    "data.corrections_file",
    "data.patient_pattern",
    "data.group_similar",
    "data.infer_examinations",
    "data.slices",
    "data.find_text",
    "data.accept_burned_in_text",
    "model.mirror_averaging",
    "model.pretrained_on",
    "model.weights",
    "training.horizontal_flip",
    "evaluation.prevalences",
    "evaluation.recalibrate",
    "runner.dask_address",
    "data.class_names",
    "tracking.mlflow_uri",
    "tracking.name",
}


RELEASE_BOUNDS = [
    ("release.non_inferiority_margin", (JUST, 0.5 - JUST), (0, 0.5)),
    ("release.error_budget", (JUST, 0.5), (0, 0.501)),
    ("release.num_looks", (1, 10_000), (0, 10_001)),
    ("release.min_sensitivity", (0, 1), (-JUST, 1.001)),
    ("release.min_subgroup_sensitivity", (0, 1), (-JUST, 1.001)),
    ("release.min_specificity", (0, 1), (-JUST, 1.001)),
    ("release.min_first_auc", (0, 0.999), (-JUST, 1)),
    ("release.min_groups_per_class", (5,), (4,)),
]
RELEASE_CHOICES = {"release.rule": {"superior", "non_inferior"}, "release.spending": {"even", "falling"}}

PREDICT_BOUNDS = [("sheet.max_shown", (0, 1000), (-1, 1001)), ("sheet.max_explained", (1, 1000), (0, 1001))]
PREDICT_CHOICES = {"engine": {"auto", "keras", "openvino"}, "precision": {"auto", "float32", "bfloat16"}}
PREDICT_OTHERS = {"source", "source_sha256", "workspace", "model", "keep_images", "sheet.explain"}
PREDICT_OTHERS |= {f"runner.{name}" for name in RunnerSettings.model_fields}
PREDICT_OTHERS |= {f"data.{name}" for name in PredictionDataSettings.model_fields}
PREDICT_OTHERS |= {f"limits.{name}" for name in SourceLimits.model_fields}

SERVE_BOUNDS = [
    ("port", (0, 65535), (-1, 65536)),
    ("service.max_request_bytes", (2**10, 2**31), (2**10 - 1, 2**31 + 1)),
    ("service.max_images", (1, 4096), (0, 4097)),
    ("service.max_requests", (1, 256), (0, 257)),
    ("service.upload_timeout_seconds", (JUST, 3600), (0, 3601)),
    ("service.decoding_timeout_seconds", (JUST, 60), (0, 61)),
]
SERVE_OTHERS = {"workspace", "model", "host", "token"} | {f"data.{name}" for name in ImageSettings.model_fields}

ALL_BOUNDS = [
    pytest.param(kind, *row, id=row[0])
    for kind, rows in (
        (PipelineConfig, BOUNDS),
        (RetrainConfig, RELEASE_BOUNDS),
        (PredictConfig, PREDICT_BOUNDS),
        (ServeConfig, SERVE_BOUNDS),
        (ServeConfig, SERVE_BOUNDS),
    )
    for row in rows
]
ALL_CHOICES = [
    pytest.param(kind, *row, id=row[0])
    for kind, rows in (
        (PipelineConfig, CHOICES),
        (RetrainConfig, RELEASE_CHOICES),
        (PredictConfig, PREDICT_CHOICES),
        (ServeConfig, PREDICT_CHOICES),
    )
    for row in rows.items()
]


CANDIDATE_BOUNDS = [
    ("hidden_units", (1, 65536), (0, 65537)),
    ("clahe_clip_limit", (0, 40), (-JUST, 40.001)),
    ("image_size", (32, 1024), (31, 1025)),
    ("fine_tune_epochs", (0, 1000), (-1, 1001)),
]


def nest(setting: str, value: object) -> dict:
    for name in reversed(setting.split(".")):
        value = {name: value}
    return value  # type: ignore[return-value]


def look_up(config: BaseModel, setting: str) -> object:
    for name in setting.split("."):
        config = getattr(config, name)
    return config


def make(setting: str, value: object, kind: type[BaseModel] = PipelineConfig) -> object:
    return look_up(kind.model_validate(nest(setting, value)), setting)


def list_groups(config: BaseModel) -> list[BaseModel]:
    inner = [value for _, value in config if isinstance(value, BaseModel)]
    return [config, *(group for value in inner for group in list_groups(value))]


def list_schema_errors(kind: type[BaseModel], values: dict) -> list[str]:
    """Messages of a Prefect server, which repeat most values."""
    schema = json.loads(json.dumps(kind.model_json_schema()).replace("$defs", "definitions"))
    return [error.message for error in validate(values, schema)]


def test_the_tables_above_name_every_setting():
    assert {setting for setting, *_ in BOUNDS} | set(CHOICES) | OTHERS == set(list_settings(PipelineConfig))
    of_release = {f"release.{name}" for name in list_settings(ReleaseSettings)}
    assert {setting for setting, *_ in RELEASE_BOUNDS} | set(RELEASE_CHOICES) == of_release
    of_predict = {setting for setting, *_ in PREDICT_BOUNDS} | set(PREDICT_CHOICES) | PREDICT_OTHERS
    assert of_predict == set(list_settings(PredictConfig))
    of_serve = {setting for setting, *_ in SERVE_BOUNDS} | set(PREDICT_CHOICES) | SERVE_OTHERS
    assert of_serve == set(list_settings(ServeConfig))


@pytest.mark.parametrize(("kind", "setting", "allowed", "refused"), ALL_BOUNDS)
def test_numbers_are_bounded(kind, setting, allowed, refused):
    for value in allowed:
        assert make(setting, value, kind) == value
    for value in (*refused, math.nan, math.inf, -math.inf, "many", None):
        with pytest.raises(ValidationError) as caught:
            make(setting, value, kind)
        assert ".".join(map(str, caught.value.errors()[0]["loc"])) == setting


@pytest.mark.parametrize(("kind", "setting", "values"), ALL_CHOICES)
def test_choices_are_listed(kind, setting, values):
    for value in values:
        assert make(setting, value, kind) == value
        with pytest.raises(ValidationError):
            make(setting, value.upper() + "x", kind)
    with pytest.raises(ValidationError) as caught:
        make(setting, "", kind)
    assert all(f"'{value}'" in str(caught.value) for value in values)


@pytest.mark.parametrize(
    "group", ["", *sorted({setting.rpartition(".")[0] for setting in list_settings(PipelineConfig)} - {""})]
)
def test_unknown_settings_are_refused_everywhere(group):
    setting = f"{group}.epoch" if group else "epoch"
    with pytest.raises(ValidationError, match="Extra inputs are not permitted") as caught:
        PipelineConfig.model_validate(nest(setting, 3))
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == setting


@pytest.mark.parametrize("setting", list_settings(PipelineConfig))
def test_nothing_changes_afterwards(setting):
    config = PipelineConfig()
    group, _, name = setting.rpartition(".")
    owner = look_up(config, group) if group else config
    with pytest.raises(ValidationError, match="Instance is frozen"):
        setattr(owner, name, getattr(owner, name))
    assert config == PipelineConfig()


def test_groups_cannot_be_exchanged_either():
    config = PipelineConfig()
    for group in list_groups(config):
        for name in type(group).model_fields:
            with pytest.raises(ValidationError):
                setattr(group, name, None)


def test_hip_compare_has_all_settings_of_a_run_and_candidates():
    assert set(list_settings(CompareConfig)) == {*list_settings(PipelineConfig), "candidates"}
    with pytest.raises(ValidationError, match="at least 2 items"):
        CompareConfig.model_validate({"candidates": [{"name": "a"}]})


@pytest.mark.parametrize(("setting", "allowed", "refused"), CANDIDATE_BOUNDS)
def test_settings_of_a_candidate_are_bounded_as_those_that_they_replace(setting, allowed, refused):
    for value in allowed:
        assert getattr(CandidateSettings.model_validate({"name": "a", setting: value}), setting) == value
    for value in refused:
        with pytest.raises(ValidationError, match=setting):
            CandidateSettings.model_validate({"name": "a", setting: value})


def test_a_candidate_replaces_what_it_names_and_nothing_else():
    given = {
        "backbone": "DenseNet121", "weights": "random", "input_scaling": "tf", "head": "logistic", "hidden_units": 7,
        "mirror_averaging": True, "clahe_clip_limit": 3.0, "image_size": 96, "fine_tune_epochs": 2,
    }  # fmt: skip
    config = CompareConfig.model_validate(
        {"seed": 3, "candidates": [{"name": "as it is"}, {"name": "all", **given}, {"name": "other", "image_size": 64}]}
    )
    assert {"name", *given} == set(CandidateSettings.model_fields)
    plain, changed, other = map(config.configure, config.candidates)
    assert plain == PipelineConfig(seed=3)
    for name, value in given.items():
        places = {"image_size": "preprocessing", "clahe_clip_limit": "preprocessing"}
        setting = "training.fine_tune.epochs" if name == "fine_tune_epochs" else f"{places.get(name, 'model')}.{name}"
        assert look_up(changed, setting) == value
        changed_alone = look_up(other, setting)
        assert changed_alone == (64 if name == "image_size" else look_up(plain, setting))


@pytest.mark.parametrize(
    ("candidates", "named"),
    [
        ([{"name": "a"}, {"name": "a"}], "a occurs more than once"),
        ([{"name": "a"}, {"name": "b", "backbone": "InceptionV3", "image_size": 40}], "b: .*image_size is 40"),
        ([{"name": "a"}, {"name": "b", "head": "knn", "fine_tune_epochs": 1}], "b: .*knn"),
    ],
)
def test_candidates_that_cannot_be_compared_are_refused(candidates, named):
    with pytest.raises(ValidationError, match=named):
        CompareConfig.model_validate({"candidates": candidates})
    with pytest.raises(ValidationError, match="cross_validation_seeds is 0"):
        CompareConfig.model_validate({"evaluation": {"cross_validation_seeds": 0}})


def test_the_defaults_are_the_original_recipe():
    config = PipelineConfig()
    assert (config.data.val_fraction, config.data.test_fraction) == (0.15, 0.15)
    assert config.preprocessing.model_dump() == {
        "clahe_clip_limit": 2.0,
        "clahe_num_tiles": 8,
        "image_size": 224,
        "interpolation": "linear",
    }
    assert (config.model.backbone, config.model.weights, config.model.hidden_units) == ("ResNet101", "imagenet", 1024)
    assert (config.training.epochs, config.training.batch_size, config.training.learning_rate) == (30, 150, 1e-4)
    assert (config.training.horizontal_flip, config.training.fine_tune.epochs) == (True, 0)
    assert config.data.group_similar
    assert config.is_demo


def test_settings_survive_a_round_through_json():
    config = PipelineConfig.model_validate(
        {"source": "hip.zip", "workspace": "/tmp/somewhere", "training": {"epochs": 3, "fine_tune": {"epochs": 2}}}
    )
    assert PipelineConfig.model_validate_json(config.model_dump_json()) == config
    assert PipelineConfig.model_validate(config.model_dump()) == config
    assert config.training.batch_size == PipelineConfig().training.batch_size
    assert config.workspace == Path("/tmp/somewhere")
    assert not config.is_demo


def test_the_reference_of_settings_is_current():
    """`make docs` writes it."""
    assert (Path(__file__).parents[1] / "docs" / "settings.md").read_text() == describe_settings()


def test_the_reference_names_every_setting_with_its_range():
    page = describe_settings()
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    for kind in (PipelineConfig, RetrainConfig, PredictConfig):
        assert {name.rpartition(".")[2] for name in list_settings(kind)} <= rows.keys()
    assert "| integer | `30` | ≥ 1, ≤ 10,000 |" in page  # training.epochs
    assert "`auto`, `keras`, `openvino`" in rows["engine"]


FORMER_NAMES = [  # former and present name, with a value that is not the default
    (PipelineConfig, "limits.most_entries", "limits.max_entries", 7),
    (PipelineConfig, "limits.most_bytes", "limits.max_bytes", 8),
    (PipelineConfig, "limits.most_ratio", "limits.max_compression_ratio", 9),
    (PipelineConfig, "evaluation.subgroup_minimum_size", "evaluation.min_subgroup_size", 11),
    (RetrainConfig, "drift.least_effect", "drift.min_effect_size", 1.5),
    (RetrainConfig, "drift.least_auc", "drift.min_auc", 0.9),
    (RetrainConfig, "release.minimum_sensitivity", "release.min_sensitivity", 0.5),
    (RetrainConfig, "release.minimum_subgroup_sensitivity", "release.min_subgroup_sensitivity", 0.6),
    (PredictConfig, "sheet.most_shown", "sheet.max_shown", 5),
    (PredictConfig, "sheet.most_explained", "sheet.max_explained", 6),
]


def test_the_table_above_has_every_former_name():
    listed = {former.rpartition(".")[2]: present.rpartition(".")[2] for _, former, present, _ in FORMER_NAMES}
    assert listed == PRESENT_NAMES


@pytest.mark.parametrize(("kind", "former", "present", "value"), FORMER_NAMES, ids=[row[1] for row in FORMER_NAMES])
def test_a_former_name_is_accepted_with_a_warning(kind, former, present, value, caplog):
    config = kind.model_validate(nest(former, value))
    assert look_up(config, present) == value
    assert config == kind.model_validate(nest(present, value))
    (record,) = caplog.records
    assert former.rpartition(".")[2] in record.getMessage()
    assert present.rpartition(".")[2] in record.getMessage()


@pytest.mark.parametrize(("kind", "former", "present", "value"), FORMER_NAMES, ids=[row[1] for row in FORMER_NAMES])
def test_both_names_of_a_setting_are_an_error(kind, former, present, value):
    group, _, name = former.rpartition(".")
    with pytest.raises(ValidationError, match=rf"{name} was renamed to"):
        kind.model_validate(nest(group, {name: value, present.rpartition(".")[2]: value}))


@pytest.mark.parametrize(("kind", "former", "present", "value"), FORMER_NAMES, ids=[row[1] for row in FORMER_NAMES])
def test_a_server_accepts_a_former_name_in_a_deployment_and_its_form_does_not_show_it(kind, former, present, value):
    schema = kind.model_json_schema()
    assert Draft202012Validator(schema).is_valid(nest(former, value))
    assert not Draft202012Validator(schema).is_valid(nest(f"{former}s", value))
    assert not any(former.rpartition(".")[2] in group.get("properties", {}) for group in schema["$defs"].values())


@pytest.mark.parametrize(
    ("setting", "allowed", "refused"),
    [
        ("model", ("champion", "0003", "runs/0001"), ("", None)),
        ("sheet.explain", (True, False), ("perhaps",)),
        ("source_sha256", (), ("ab" * 31, "ab" * 32)),  # without a source even a valid one is rejected
    ],
)
def test_other_settings_of_hip_predict_are_checked(setting, allowed, refused):
    for value in allowed:
        assert make(setting, value, PredictConfig) == value
    for value in refused:
        with pytest.raises(ValidationError):
            make(setting, value, PredictConfig)


@pytest.mark.parametrize("kind", [PipelineConfig, PredictConfig, CompareConfig])
def test_the_form_explains_every_setting(kind):
    schema = kind.model_json_schema()
    explained = 0
    for title, group in {kind.__name__: schema, **schema["$defs"]}.items():
        assert group["description"], title
        for name, field in group["properties"].items():
            reference = field.get("$ref", "").rpartition("/")[2]
            description = field.get("description") or schema["$defs"].get(reference, {}).get("description")
            assert description, f"{title}.{name}"
            assert description.endswith("."), f"{title}.{name}"
            explained += not reference
    of_candidates = len(list_settings(CandidateSettings)) if kind is CompareConfig else 0
    assert explained == len(list_settings(kind)) + of_candidates


@pytest.mark.parametrize("kind", [PipelineConfig, PredictConfig, RetrainConfig])
def test_each_setting_is_one_field_of_the_form_and_may_be_left_empty(kind):
    schema = kind.model_json_schema()
    for group in (schema, *schema["$defs"].values()):
        assert [name for name, field in group["properties"].items() if not {"type", "$ref"} & field.keys()] == []
    assert list_schema_errors(kind, kind().model_dump(mode="json")) == []


@pytest.mark.parametrize("address", ["10.0.0.5:8786", "http://10.0.0.5:8786", "tcp://anna:7f3a9c@10.0.0.5:8786"])
def test_a_server_does_not_repeat_a_refused_address_of_a_cluster(address):
    (message,) = list_schema_errors(PipelineConfig, nest("runner.dask_address", address))
    assert "tcp://HOST:PORT" in message
    assert address not in message


@pytest.mark.parametrize("value", ["ab" * 31, "ab" * 33, "xy" * 32, "", " " + "ab" * 32])
def test_a_checksum_has_64_hexadecimal_digits(value):
    with pytest.raises(ValidationError):
        PipelineConfig(source="hip.zip", source_sha256=value)


@pytest.mark.parametrize("value", ["ab" * 32, "AB" * 32])
def test_a_checksum_belongs_to_a_source(value):
    assert PipelineConfig(source="hip.zip", source_sha256=value).source_sha256 == value
    with pytest.raises(ValidationError, match=r"source_sha256 .*without a source"):
        PipelineConfig(source_sha256=value)


def test_weights_are_named():
    with pytest.raises(ValidationError):
        make("model.weights", "")


def test_threads_are_those_asked_for_or_those_there_are(monkeypatch):
    assert RunnerSettings(num_threads=3).count_threads() == 3
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5, 7, 9})
        assert RunnerSettings().count_threads() == 5
        monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert RunnerSettings().count_threads() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert RunnerSettings().count_threads() == 1


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.5:8786", "tls://scheduler.example:8786", "tcp://[::1]:8786", "env:X"]
)
def test_a_scheduler_has_an_address(address):
    assert RunnerSettings(kind="dask", dask_address=address).dask_address == address
    with pytest.raises(ValidationError, match=r"dask_address .*kind dask"):
        RunnerSettings(dask_address=address)


@pytest.mark.parametrize("address", ["", "10.0.0.5:8786", "http://10.0.0.5:8787", "tcp://10.0.0.5", "env:"])
def test_other_addresses_are_refused(address):
    with pytest.raises(ValidationError, match="dask_address"):
        RunnerSettings(kind="dask", dask_address=address)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:5000",
        "https://mlflow.example.org/team/",
        "http://[::1]:5000",
        "sqlite:////srv/ml flow@1.db",
        "sqlite:///mlflow.db",
    ],
)
def test_runs_are_logged_to_a_server_or_a_database_file(address):
    assert make("tracking.mlflow_uri", address) == address
    assert Draft202012Validator(PipelineConfig.model_json_schema()).is_valid({"tracking": {"mlflow_uri": address}})


@pytest.mark.parametrize(
    "address",
    [
        *("https://anna:7f3a9c@example.org", "http://7f3a9c@example.org:5000", "anna:7f3a9c@example.org"),
        *("https://example.org/?token=7f3a9c", "https://example.org#7f3a9c", "sqlite:////srv/mlflow.db?key=7f3a9c"),
        *(
            "postgresql://anna:7f3a9c@example.org/mlflow",
            "databricks",
            "file:///srv/mlruns",
            "/srv/mlruns",
            "",
            "http://",
        ),
        *("http://example.org:port", "http://example.org:5000 ", "sqlite:///", "sqlite:////srv/", "http:/example.org"),
    ],
)
def test_another_address_for_runs_is_refused_and_not_repeated(address):
    for kind in (PipelineConfig, RetrainConfig):
        with pytest.raises(ValidationError, match=r"http://127\.0\.0\.1:5000.*MLFLOW_TRACKING_USERNAME") as caught:
            make("tracking.mlflow_uri", address, kind)
        assert "7f3a9c" not in str(caught.value)
        assert not Draft202012Validator(kind.model_json_schema()).is_valid({"tracking": {"mlflow_uri": address}})


@pytest.mark.parametrize(
    ("name", "is_allowed"), [("hip-mri", True), ("Hip 2.1_x", True), ("a'b", False), ("a/b", False), ("", False)]
)
def test_a_name_in_mlflow_is_plain(name, is_allowed):
    with nullcontext() if is_allowed else pytest.raises(ValidationError, match="name"):
        assert make("tracking.name", name) == name


@pytest.mark.parametrize("workspace", ["s3://bucket/hip", Path("s3://bucket/hip"), "gs://bucket", "https://host/x"])
def test_a_workspace_is_a_folder(workspace):
    for config in (PipelineConfig, PredictConfig, RetrainConfig):
        with pytest.raises(ValidationError, match="give a path") as caught:
            config(workspace=workspace)
        assert caught.value.errors()[0]["loc"] == ("workspace",)


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (PipelineConfig, ("workspace",)),
        (PipelineConfig, ("data", "patients_file")),
        (PipelineConfig, ("data", "test_file")),
        (PipelineConfig, ("data", "corrections_file")),
        (PipelineConfig, ("model", "weights")),
        (PredictConfig, ("workspace",)),
        (PredictConfig, ("model",)),
    ],
)
def test_an_address_in_place_of_a_path_is_neither_kept_nor_repeated(config, place):
    address = "https://anna:secret@example.org/x"
    values = reduce(lambda value, name: {name: value}, reversed(place), address)
    with pytest.raises(ValidationError, match="https:") as caught:
        config.model_validate(values)
    assert "secret" not in str(caught.value)
    (message,) = list_schema_errors(config, values)
    assert "secret" not in message
    assert list_schema_errors(config, {}) == []


@pytest.mark.parametrize("workspace", ["C:/hip", "/mnt/hip", "hip", "a:b/c", "/mnt/s3:/x"])
def test_a_folder_may_have_any_name(workspace):
    assert PipelineConfig(workspace=Path(workspace)).workspace == Path(workspace)


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/hip.zip?X-Amz-Signature=secret",
        "https://example.org/hip.zip?dl=1&token=secret",
        "https://example.org/hip.zip#secret",
        "https://anna:secret@example.org/hip.zip",
        "https://secret@example.org/hip.zip",
        "s3://key:secret@bucket/hip.zip",
        "http://anna:secret@example.org/hip.zip",
        "https://www.googleapis.com/drive/v3/files/1?alt=media&key=secret",
        "https://drive.google.com/uc?id=1&key=secret",
        " https://anna:secret@example.org/hip.zip",
        "https:/anna:secret@example.org/hip.zip",
        "https:///example.org/hip.zip?token=secret",
    ],
)
def test_an_address_with_a_secret_is_no_setting(address: str) -> None:
    for config, values in (
        (PipelineConfig, {"source": address}),
        (PredictConfig, {"source": address}),
        (RetrainConfig, {"sources": ["incoming", address]}),
    ):
        with pytest.raises(ValidationError, match="env:NAME") as caught:
            config.model_validate(values)
        (message,) = list_schema_errors(config, values)
        assert "secret" not in (str(caught.value) + message).replace("secret:NAME", "")


@pytest.mark.parametrize("source", ["env:https://example.org/secret.zip", " secret:https://u:p@h", "env:", "secret: "])
def test_behind_a_reference_stands_a_name(source: str) -> None:
    with pytest.raises(ValidationError, match="name of a variable") as caught:
        PipelineConfig(source=source)
    assert "secret.zip" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        *("hip.zip", "C:\\hip?.zip", "user@home#1.zip", "env:HIP_SOURCE", "secret:hip-source", "s3://bucket/a@b.zip"),
        "https://drive.google.com/file/d/1/view?usp=sharing",
        "https://drive.google.com/uc?export=download&id=1",
        "https://example.org/hip.zip?dl=1",
        "https://example.org/hip.zip?versionId=abc",
    ],
)
def test_other_sources_are_settings(source: str) -> None:
    assert PipelineConfig(source=source).source == source
    assert RetrainConfig(sources=(source,)).sources == (source,)
    assert list_schema_errors(PipelineConfig, {"source": source}) == []
    assert list_schema_errors(RetrainConfig, {"sources": [source]}) == []
