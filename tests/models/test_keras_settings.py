"""Networks do not depend on the user's `keras.json` and environment."""

import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from hip_mri.config import EvaluationSettings, HeadDesign, TrainingSettings
from hip_mri.dataset.preprocessing import name_set
from hip_mri.errors import SettingsError
from hip_mri.hashes import digest
from hip_mri.models import keras_settings
from hip_mri.models.backbones import backbone as backbones
from hip_mri.models.backbones.backbone import Backbone, build_backbone
from hip_mri.models.backbones.export import has_export
from hip_mri.models.backbones.preparation import prepare_backbone
from hip_mri.models.backbones.weights import resolve_weights
from hip_mri.models.cross_validation import plan_folds
from hip_mri.models.features import FeatureSet
from hip_mri.models.heads.dense import compile_head
from hip_mri.models.keras_settings import (
    BACKEND_VARIABLE,
    choose_backend,
    count_network_threads,
    describe_keras,
    import_keras,
    list_keras_folders,
)
from hip_mri.workspace import Workspace
from tests.processes import PROJECT, run_python

CHANNELS_FIRST = {
    "floatx": "float32",
    "epsilon": 1e-07,
    "backend": "tensorflow",
    "image_data_format": "channels_first",
}
THEANO = {"image_dim_ordering": "th", "epsilon": 1e-07, "floatx": "float32", "backend": "theano"}

REPORT = """
import hashlib, json, logging, os, sys
logging.basicConfig(level=logging.WARNING)
{before}
from hip_mri.models.backbones import backbone, random_weights
from hip_mri.models import network
from hip_mri.models.heads.dense import compile_head
from hip_mri.models.heads.head import join_network
from hip_mri.models.keras_settings import import_keras, list_keras_folders
from hip_mri.config import TrainingSettings
from tests.small_network import build_small_resnet
import numpy as np

backbone.get_builder = lambda name: build_small_resnet
keras = import_keras()
built = backbone.build_backbone("ResNet50", 32, standardized=True)
random_weights.draw_weights(built, 0, "_3_bn")
images = list(np.random.default_rng(0).integers(0, 256, (10, 32, 32), dtype=np.uint8))
random_weights.calibrate(built, images)
head = compile_head(2048, 4, TrainingSettings())
features = built.predict_on_batch(np.stack(images)[..., None].astype(np.float32))
head.train_on_batch(features, np.arange(10)[:, None] % 2)
numbers = b"".join(np.asarray(w).tobytes() for w in [features, *built.get_weights(), *head.get_weights()])
config = keras.config
print(json.dumps({{
    "numbers": hashlib.sha256(numbers).hexdigest(),
    "settings": [config.backend(), config.image_data_format(), config.floatx(), config.epsilon(),
                 config.dtype_policy().name, config.max_epochs(), config.is_nnx_enabled()],
    "variables": sorted((n, v) for n, v in os.environ.items() if n.startswith("KERAS_")),
    "folder": str(list_keras_folders()[0]),
    "downloads": os.path.dirname(os.path.dirname(keras.utils.get_file("x", "file://" + {file!r}))),
}}))
"""


def report(keras_home: Path, before: str = "", **variables: str) -> dict:
    """Results and settings of a new process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KERAS_")}
    given = {"KERAS_HOME": str(keras_home), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(PROJECT)} | variables
    code = REPORT.format(before=before, file=__file__)
    done = run_python("-c", code, environment=kept | given)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return report(tmp_path_factory.mktemp("no-settings"))


def write_json_file(folder: Path, content: object) -> None:
    (folder / "keras.json").write_text(json.dumps(content))


FAIL_TO_IMPORT = """
try:
    import keras
except (ValueError, ImportError):
    pass
else:
    sys.exit("it was loaded")
"""

IMPORT_BEFORE = """
import keras
assert (keras.config.image_data_format(), keras.config.floatx()) == ("channels_first", "float16")
"""


@pytest.mark.parametrize(
    ("write", "before", "variables"),
    [
        (
            lambda home: write_json_file(home, CHANNELS_FIRST | {"epsilon": 0.25}),
            "",
            {"KERAS_BACKEND": "jax", "KERAS_NNX_ENABLED": "1", "KERAS_MAX_EPOCHS": "1", "TF_USE_LEGACY_KERAS": "1"},
        ),
        pytest.param(
            lambda home: write_json_file(home, THEANO | {"nnx_enabled": True}),
            FAIL_TO_IMPORT,
            {"KERAS_BACKEND": "theano"},
            marks=pytest.mark.system,
        ),
        pytest.param(
            lambda home: write_json_file(home, [1]),
            "",
            {"KERAS_BACKEND": "torch", "KERAS_MAX_EPOCHS": "many"},
            marks=pytest.mark.system,
        ),
        pytest.param(
            lambda home: (home / "keras.json").mkdir(), "", {"KERAS_BACKEND": "numpy"}, marks=pytest.mark.system
        ),
        (lambda home: write_json_file(home, CHANNELS_FIRST | {"floatx": "float16"}), IMPORT_BEFORE, {}),
    ],
    ids=["channels first", "theano, tried before", "damaged", "a folder", "channels first and float16, loaded before"],
)
def test_the_users_settings_of_keras_change_nothing(
    write: Callable[[Path], None], before: str, variables: dict[str, str], undisturbed: dict, tmp_path: Path
) -> None:
    write(tmp_path)
    content = [file.read_bytes() for file in tmp_path.iterdir() if file.is_file()]
    found = report(tmp_path, before, **variables)
    assert found["settings"] == ["tensorflow", "channels_last", "float32", 1e-7, "float32", None, False]
    assert found["numbers"] == undisturbed["numbers"]
    given = {"KERAS_HOME": str(tmp_path)} | {n: v for n, v in variables.items() if n.startswith("KERAS_")}
    assert dict(found["variables"]) == given  # restored after the import
    assert found["folder"] == found["downloads"] == str(tmp_path)
    assert content == [file.read_bytes() for file in tmp_path.iterdir() if file.is_file()]


def test_no_settings_file_is_written(undisturbed: dict) -> None:
    assert {file.name for file in Path(undisturbed["folder"]).iterdir()} == {"datasets"}


@pytest.mark.system
def test_a_home_folder_without_write_access_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = "from hip_mri.models.keras_settings import import_keras; print(import_keras().config.backend())"
    environment = os.environ | {"KERAS_HOME": str(tmp_path / "file" / "home"), "KERAS_BACKEND": "theano"}
    done = run_python("-c", code, environment=environment)
    assert done.stdout.strip() == "tensorflow", done.stderr


@pytest.fixture
def _keras_as_before():
    yield
    import_keras()


@pytest.mark.usefixtures("_keras_as_before")
def test_settings_that_are_changed_in_the_process_are_set_again(caplog: pytest.LogCaptureFixture) -> None:
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float64")
    keras.config.set_epsilon(0.1)
    keras.config.set_dtype_policy("mixed_float16")
    with caplog.at_level(logging.WARNING):
        network = build_backbone("ResNet50", 32)
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.data_format for layer in convolutions} == {"channels_last"}
    assert {layer.dtype_policy.name for layer in network.layers} == {"float32"}
    assert keras.config.epsilon() == 1e-7
    for name in ("image_data_format was channels_first", "floatx was float64", "dtype_policy was mixed_float16"):
        assert name in caplog.text
    caplog.clear()
    import_keras()
    assert not caplog.text


@pytest.mark.usefixtures("_keras_as_before")
def test_every_thread_gets_the_settings() -> None:
    """Keras keeps the dtype policy for each thread."""
    found = []

    def build() -> None:
        keras.config.set_dtype_policy("float16")
        found.extend(layer.dtype_policy.name for layer in compile_head(2048, 4, TrainingSettings()).layers)

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    assert set(found) == {"float32"}


def test_a_network_may_ask_for_another_policy_and_leaves_none_behind() -> None:
    network = build_backbone("ResNet50", 32, "mixed_bfloat16")
    assert {layer.dtype_policy.name for layer in network.layers[2:]} >= {"mixed_bfloat16"}
    assert keras.config.dtype_policy().name == "float32"


# The choice of a backend


@pytest.mark.parametrize("value", [None, "", "tensorflow"])
def test_tensorflow_is_the_default(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    if value is not None:
        monkeypatch.setenv(BACKEND_VARIABLE, value)
    assert choose_backend() == describe_keras()["backend"] == "tensorflow"


@pytest.mark.parametrize("value", ["theano", "numpy", "openvino", "TensorFlow", "x" * 5000])
def test_an_unknown_backend_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BACKEND_VARIABLE, value)
    with pytest.raises(SettingsError, match=rf"^{BACKEND_VARIABLE}: .*tensorflow, jax, torch") as error:
        import_keras()
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_backend_that_is_not_installed_is_refused_at_the_start_of_a_flow(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BACKEND_VARIABLE, backend)
    monkeypatch.setattr(keras_settings, "_is_installed", lambda module: False)
    with pytest.raises(SettingsError, match=rf"^{BACKEND_VARIABLE}: {backend} .*pip install {backend}`"):
        resolve_weights("random", "ResNet50", fall_back_to_random=True)


def test_a_folder_is_no_installed_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hip_mri_no_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not keras_settings._is_installed("hip_mri_no_package")
    assert not keras_settings._is_installed("hip_mri_no_module")
    assert keras_settings._is_installed("numpy")


def test_keras_with_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras was imported before."""
    monkeypatch.setenv(BACKEND_VARIABLE, "jax")
    monkeypatch.setattr(keras_settings, "_is_installed", lambda module: True)
    with pytest.raises(SettingsError, match=rf"backend tensorflow .* jax is needed.*{BACKEND_VARIABLE}=tensorflow"):
        import_keras()


def test_a_backend_that_cannot_be_loaded_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: no such file\\nand more')")
    code = "from hip_mri.models.keras_settings import import_keras; import_keras()"
    paths = os.pathsep.join([str(tmp_path), str(PROJECT)])
    environment = os.environ | {BACKEND_VARIABLE: "torch", "PYTHONPATH": paths}
    done = run_python("-c", code, environment=environment)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"hip_mri.errors.SettingsError: {BACKEND_VARIABLE}: ")
    assert "torch (libtorch.so: no such file)" in last


# Names of what was computed


@pytest.fixture
def features(trained_workspace: tuple[Workspace, FeatureSet]) -> FeatureSet:
    return trained_workspace[1]


@pytest.fixture
def names(prepared: Workspace, features: FeatureSet) -> Callable[[], dict[str, object]]:
    """Names of everything that Keras computes, under the current settings."""

    def name_all() -> dict[str, object]:
        keras_choice = replace(features, choice=replace(features.choice, engine="keras"))
        openvino_choice = replace(features, choice=replace(features.choice, engine="openvino"))
        plan = plan_folds(prepared, features, HeadDesign("dense", 16), TrainingSettings(), EvaluationSettings())
        assert plan is not None
        return {"keras": keras_choice.digest, "openvino": openvino_choice.digest, "folds": plan.file.name}

    return name_all


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TF_ENABLE_ONEDNN_OPTS", "0"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2"),
        ("NVIDIA_TF32_OVERRIDE", "0"),
        ("XLA_FLAGS", "--xla_dump_to=/home/mueller/x"),
    ],
)
def test_variables_that_change_numbers_are_recorded_and_change_every_name(
    names, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names()
    assert describe_keras()["variables"] == {}
    monkeypatch.setenv(name, value)
    recorded = describe_keras()["variables"]
    assert recorded.keys() == {name}
    assert "mueller" not in recorded[name]
    assert all(before[what] != now for what, now in names().items())


def test_versions_of_keras_and_its_backend_change_every_name(names, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names()
    for package in ("keras", "tensorflow"):
        monkeypatch.setattr(keras_settings, "version", lambda name, changed=package: "9" if name == changed else "1")
        now = names()
        assert all(before[what] != now[what] for what in before)
        before = now


def test_features_of_earlier_versions_are_not_used(features: FeatureSet) -> None:
    choice = features.choice
    of_features = [features.backbone.digest, name_set(features.preprocessing), choice.engine, choice.precision]
    assert features.digest != digest([*of_features, choice.version])[:16]


def test_exports_of_earlier_versions_are_repeated(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    from hip_mri.models.backbones import export

    export.export_openvino(backbone)
    assert has_export(backbone)
    monkeypatch.setattr(export, "EXPORT_RECIPE", 1)
    assert not has_export(backbone)


def test_threads_change_the_names_of_what_is_trained(names, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names()
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "16")
    now = names()
    assert now["folds"] != before["folds"]
    assert (now["keras"], now["openvino"]) == (before["keras"], before["openvino"])


@pytest.mark.parametrize(("value", "expected"), [("3", 3), ("0", None), ("", None), ("many", None), (None, None)])
def test_threads_are_counted_as_tensorflow_counts_them(value, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", value)
    assert count_network_threads() == (expected or len(os.sched_getaffinity(0)))


def test_a_description_loads_nothing() -> None:
    code = (
        "import sys; from hip_mri.models.keras_settings import *; describe_keras();"
        "print(sorted({'keras', 'tensorflow', 'numpy'} & set(sys.modules)))"
    )
    assert run_python("-c", code).stdout.strip() == "[]"


def test_downloads_are_searched_in_the_folders_of_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    for home in ("", os.devnull):  # the second while a parent process loads Keras
        monkeypatch.setenv("KERAS_HOME", home)
        assert list_keras_folders() == [Path("/home/x/.keras"), Path("/tmp/.keras")]
    monkeypatch.setenv("KERAS_HOME", "~/models")
    assert list_keras_folders()[:2] == [Path("/home/x/models"), Path("/home/x/.keras")]


def test_random_backbones_are_named_by_their_settings(prepared: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their statistics are computed by Keras."""
    from tests.small_models import SMALL

    random = resolve_weights("random", "ResNet50", fall_back_to_random=False)
    first = prepare_backbone(random, prepared, SMALL, seed=5)
    assert np.isfinite(backbones.load_backbone(first).get_layer("standardize").moving_variance).all()
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert prepare_backbone(random, prepared, SMALL, seed=5).folder != first.folder
