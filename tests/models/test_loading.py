"""Checks of saved networks: rejected content, and that nothing from the file is executed."""

import io
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pandas as pd
import pytest

from hip_mri.config import HeadDesign
from hip_mri.errors import DiskError, TrainingError, WeightsError
from hip_mri.models.backbones.hdf5_checks import check_numbers_only
from hip_mri.models.backbones.weights import resolve_weights
from hip_mri.models.heads.head import build_head, build_network
from hip_mri.models.loading import list_foreign_settings, load_head, load_network
from hip_mri.models.predict import predict
from hip_mri.models.scoring import tabulate_scores
from tests.models.saved_files import change, change_description

LAMBDA = {
    "class_name": "Lambda", "module": "keras.layers", "registered_name": None,
    "config": {"name": "x", "function": "exec"},
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return build_network("ResNet50", 32, HeadDesign("dense", 4), standardized=True)


@pytest.fixture(scope="module")
def saved(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("saved") / "model.keras"
    network.save(file)
    return file


@pytest.fixture
def never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if Keras builds what a file describes."""

    def fail_to_build(*_: object, **__: object) -> None:
        pytest.fail("it was built")

    for name in ("load_model", "model_from_json", "clone_model"):
        monkeypatch.setattr(keras.models, name, fail_to_build)
    monkeypatch.setattr(keras.saving, "deserialize_keras_object", fail_to_build)


def test_a_saved_network_computes_the_same(network, saved, never_built):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)).astype(np.float32)
    np.testing.assert_array_equal(predict(load_network(saved), images), predict(network, images))


def test_a_saved_head_computes_the_same(tmp_path, never_built):
    head = build_head(2048, HeadDesign("dense", 4), seed=3)
    head.save(tmp_path / "head.keras")
    rows = np.random.default_rng(0).normal(size=(3, 2048)).astype(np.float32)
    np.testing.assert_array_equal(predict(load_head(tmp_path / "head.keras"), rows), predict(head, rows))


def test_fault_65_a_lambda_layer_is_rejected_before_anything_is_built(saved, tmp_path, never_built):
    file = change_description(saved, tmp_path / "model.keras", ("config", "layers", 5), LAMBDA)
    with pytest.raises(WeightsError, match=r"model\.keras .*Lambda"):
        load_network(file)


def test_fault_65_a_real_lambda_model_is_rejected(tmp_path, never_built):
    image = keras.Input((32, 32, 1))
    hidden = keras.layers.Dense(4)(keras.layers.Lambda(lambda x: x)(image))
    keras.Model(image, keras.layers.Dense(1)(hidden), name="hip_mri_resnet50").save(tmp_path / "model.keras")
    with pytest.raises(WeightsError, match=r"model\.keras .*Lambda"):
        load_network(tmp_path / "model.keras")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("class_name",), "Sequential"),
        (("module",), "os"),
        (("registered_name",), "custom>Network"),
        (("config", "layers", 7, "module"), "os.path"),
        (("config", "layers", 7, "registered_name"), "evil>Layer"),
        (("config", "layers", 0, "config", "batch_shape"), [None, "x", 1]),
        (("config", "layers", 0, "config", "batch_shape"), [None, 10**9, 1]),
        (("config", "layers", -2, "config", "units"), 10**9),
        (("config", "layers"), []),
        (("config",), "text"),
    ],
)  # fmt: skip
def test_fault_65_any_other_description_is_rejected(saved, tmp_path, never_built, place, value):
    file = change_description(saved, tmp_path / "model.keras", place, value)
    with pytest.raises(WeightsError, match=r"model\.keras"):
        load_network(file)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("config", "layers", 5, "config", "data_format"), "channels_first", "data_format channels_first"),
        (("config", "layers", -2, "config", "dtype", "config", "name"), "float16", "dtype float16"),
        (("config", "layers", 0, "config", "dtype"), "float64", "dtype float64"),
    ],
)
def test_a_network_that_was_built_with_other_settings_of_keras_is_rejected(
    saved, tmp_path, never_built, place, value, named
):
    file = change_description(saved, tmp_path / "model.keras", place, value)
    assert list_foreign_settings(saved) == []
    assert list_foreign_settings(file) == [named]
    with pytest.raises(WeightsError, match=rf"model\.keras .*{named}"):
        load_network(file)


def test_a_head_that_was_trained_in_float16_is_rejected(tmp_path):
    keras.config.set_dtype_policy("float16")
    try:
        rows = keras.Input((8,))
        keras.Model(rows, keras.layers.Dense(1)(keras.layers.Dense(4)(rows))).save(tmp_path / "head.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(WeightsError, match="dtype float16"):
        load_head(tmp_path / "head.keras")


def test_fault_65_further_members_are_rejected(saved, tmp_path, never_built):
    file = change(saved, tmp_path / "model.keras", assets__pkl=pickle.dumps(print))
    with pytest.raises(WeightsError, match=r"model\.keras .*assets\.pkl"):
        load_network(file)


@pytest.mark.parametrize("content", [b"", b"no network", pickle.dumps(print)], ids=["empty", "text", "pickle"])
def test_fault_65_what_is_no_network_is_rejected(tmp_path, never_built, content):
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.keras"):
        load_network(tmp_path / "model.keras")


def test_fault_65_an_h5_model_is_rejected(tmp_path, never_built):
    build_head(2048, HeadDesign("dense", 4), seed=0).save(tmp_path / "model.h5")
    with pytest.raises(WeightsError, match=r"model\.h5"):
        load_network(tmp_path / "model.h5")


def link_outside(content: h5py.File) -> None:
    content["layers/outside"] = h5py.ExternalLink("/etc/passwd", "/")


def link_inside(content: h5py.File) -> None:
    content["layers/soft"] = h5py.SoftLink("/layers")


def store_outside(content: h5py.File) -> None:
    content.create_dataset("layers/raw", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def store_virtually(content: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    content.create_virtual_dataset("layers/virtual", layout)


def store_objects(content: h5py.File) -> None:
    content.create_dataset("layers/text", data=[b"code"], dtype=h5py.special_dtype(vlen=bytes))


def link_back(content: h5py.File) -> None:
    content["layers/loop"] = content["/"]


def name_twice(content: h5py.File) -> None:
    content.create_dataset("layers/first", data=np.zeros(3))
    content["layers/second"] = content["layers/first"]


def nest_deeply(content: h5py.File) -> None:
    group = content["layers"]
    for _ in range(5000):
        group = group.create_group("x")


def store_nothing(content: h5py.File) -> None:
    content.create_dataset("layers/hollow", (10**12,), "u1")


FOREIGN = [
    *(link_outside, link_inside, store_outside, store_virtually, store_objects),
    *(link_back, name_twice, nest_deeply, store_nothing),
]


@pytest.mark.parametrize("damage", FOREIGN)
def test_fault_65_weights_that_point_elsewhere_are_rejected(tmp_path, damage):
    with h5py.File(tmp_path / "x.weights.h5", "w") as content:
        content["layers/dense/vars/0"] = np.zeros(3)
        damage(content)
    with h5py.File(tmp_path / "x.weights.h5", "r") as content, pytest.raises(WeightsError, match="/layers/"):
        check_numbers_only(content, tmp_path / "x.weights.h5")
    with pytest.raises(WeightsError, match=r"model\.weights: .*/layers/"):
        resolve_weights(str(tmp_path / "x.weights.h5"), "ResNet50", fall_back_to_random=False)


@pytest.mark.parametrize("damage", FOREIGN)
def test_fault_65_such_weights_inside_a_network_are_rejected(saved, tmp_path, never_built, damage):
    with zipfile.ZipFile(saved) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content, "r+") as weights:
        damage(weights)
    file = change(saved, tmp_path / "model.keras", model__weights__h5=content.getvalue())
    with pytest.raises(WeightsError, match=r"model\.keras .*/layers/"):
        load_network(file)


def test_fault_56_no_room_for_temporary_files_is_no_fault_of_the_model(saved, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskError, match=r"\d MB"):
        load_network(saved)


def test_fault_65_zeros_that_were_compressed_are_plain_numbers(tmp_path):
    with h5py.File(tmp_path / "x.weights.h5", "w") as content:
        content.create_dataset("layers/zeros", data=np.zeros(2**17), compression="gzip")
        content.create_dataset("layers/empty", data=np.zeros(0))
        check_numbers_only(content, tmp_path / "x.weights.h5")


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_fault_65_packed_members_that_are_damaged_are_rejected(tmp_path, never_built, member):
    build_head(2048, HeadDesign("dense", 4), seed=0).save(tmp_path / "undamaged.keras")
    file = change(tmp_path / "undamaged.keras", tmp_path / "model.keras", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(file) as packed:
        start = packed.getinfo(member).header_offset + 30 + len(member)
    content = bytearray(file.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.keras .*Error -3"):
        load_head(file)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fault_68_a_score_that_is_not_a_number_is_never_kept(bad):
    images = pd.DataFrame({"image_id": ["a", "b"], "split": "test", "label": "normal"})
    with pytest.raises(TrainingError, match="scores: 1 of 2"):
        tabulate_scores(images, np.array([0.5, bad], np.float32))
