"""Exported graphs give the scores of Keras, and a check of an export finds what is wrong with it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hip_mri.config import HeadDesign, PreprocessingSettings
from hip_mri.errors import ExportError, WeightsError
from hip_mri.evaluation.conformal import DecisionRule, decide
from hip_mri.hashes import digest_file
from hip_mri.models.heads.head import build_network
from hip_mri.models.keras_settings import import_keras
from hip_mri.models.predict import predict
from hip_mri.serving.export import formats, writing
from hip_mri.serving.export.checking import check_against_model, check_export
from hip_mri.serving.export.formats import FORMATS
from hip_mri.serving.export.writing import export_model
from hip_mri.serving.served_model import ServedModel
from hip_mri.serving.served_network import SavedNetwork
from tests.conftest import RESNET50_WEIGHTS

NAMES = sorted(FORMATS)
SIZE = 40
IMAGES = np.random.default_rng(5).integers(0, 256, (5, SIZE, SIZE, 1)).astype(np.float32)


@pytest.fixture(params=NAMES)
def format_name(request) -> str:
    for module in (*FORMATS[request.param].writers, FORMATS[request.param].runtime):
        pytest.importorskip(module, reason="needs the extra `export`")
    return request.param


def build(backbone: str = "ResNet50", head: HeadDesign = HeadDesign("dense", 8)):
    """Build a network with random weights whose scores of noise differ."""
    network = build_network(backbone, SIZE, head, standardized=False)
    last, generator = network.layers[-1], np.random.default_rng(1)
    if head.kind == "knn":
        features = import_keras().Model(network.input, last.input).predict_on_batch(IMAGES)
        mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
        references = generator.normal(size=(head.num_references, len(mean)))
        references[:5] = (features - mean) / spread
        references /= np.linalg.norm(references, axis=1, keepdims=True)
        last.set_weights([mean, spread, references, np.arange(head.num_references) % 2])
        return network
    *others, kernel, bias = last.get_weights()
    scores = predict(network, IMAGES)
    logits = np.log(scores / (1 - scores))
    scale = 1 / max(float(logits.std()), 1e-4)
    last.set_weights([*others, kernel * scale, bias - scale * logits.mean()])
    return network


@pytest.fixture(scope="module")
def save(tmp_path_factory) -> Callable[..., ServedModel]:
    """Saves a network with random weights as a model of a run."""

    def save(network, backbone="ResNet50", **options) -> ServedModel:
        file = tmp_path_factory.mktemp("model") / "model.keras"
        network.save(file)
        preprocessing = PreprocessingSettings(image_size=network.input_shape[1], interpolation="area")
        saved = SavedNetwork(file, digest_file(file), backbone, preprocessing, "float32", **options)
        rule = DecisionRule(0.4)
        return ServedModel("run 0001", saved, 0.4, rule, None, ("LEAKAGE: groups share patients.",), None, None)

    return save


@pytest.fixture(scope="module")
def model(save) -> ServedModel:
    return save(build())


@pytest.fixture(scope="module")
def exported_once(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "export"
    export_model(model, "openvino", folder)
    return folder


@pytest.fixture
def exported(exported_once, tmp_path) -> Path:
    """A copy of an export to OpenVINO."""
    return Path(shutil.copytree(exported_once, tmp_path / "export"))


def score(folder: Path) -> np.ndarray:
    """Score as a consumer does that knows the folder alone."""
    metadata = json.loads((folder / "metadata.json").read_text())
    return FORMATS[metadata["format"]].load(folder / metadata["graph"]).score(IMAGES)


HEADS = {
    "dense": (HeadDesign("dense", 8), False),
    "logistic": (HeadDesign("logistic"), True),
    "knn": (HeadDesign("knn", num_references=30), True),
}
"""Each head, and whether scores are averaged over mirror images."""


@pytest.mark.parametrize("head", ["dense", "knn"])
def test_scores_agree_with_keras(save, format_name, head, tmp_path):
    check_scores(save, format_name, head, tmp_path)


def test_scores_of_a_logistic_head_agree(save, tmp_path):
    check_scores(save, "openvino", "logistic", tmp_path)


def check_scores(save, format_name, head, tmp_path):
    design, is_mirrored = HEADS[head]
    network = build(head=design)
    served = save(network, averages_mirrored=is_mirrored)
    expected = predict(network, IMAGES)
    if is_mirrored:
        expected = (expected + predict(network, IMAGES[:, :, ::-1])) / 2
    export_model(served, format_name, tmp_path / "export")
    np.testing.assert_allclose(score(tmp_path / "export"), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.01
    assert check_export(tmp_path / "export").problems == []


def test_an_export_belongs_to_its_model(exported, model):
    check = check_export(exported)
    assert (check.problems, check_against_model(check, model)) == ([], [])
    mirrored = replace(model, network=replace(model.network, averages_mirrored=True))
    problems = check_against_model(check, mirrored)
    assert any(problem.startswith("in_graph ") for problem in problems)


def test_other_layers_agree(save, tmp_path):
    """Convolutions in groups, exact GELU and layer normalization, of which ONNX has none under these names."""
    pytest.importorskip("tf2onnx", reason="needs the extra `export`")
    served = save(build("ConvNeXtTiny"), "ConvNeXtTiny")
    export_model(served, "onnx", tmp_path / "export")  # which compares the scores


@pytest.mark.system
@pytest.mark.parametrize("backbone", ["EfficientNetV2B0", "DenseNet121", "ConvNeXtTiny"])
def test_whole_architectures_agree(save, format_name, backbone, tmp_path):
    served = save(build(backbone), backbone)
    export_model(served, format_name, tmp_path / "export")
    assert check_export(tmp_path / "export").difference <= 1e-4


@pytest.mark.system
def test_the_pretrained_resnet50_agrees(save, tmp_path):
    if not RESNET50_WEIGHTS.is_file():
        pytest.skip("needs pretrained weights")
    pytest.importorskip("tf2onnx", reason="needs the extra `export`")
    network = build()
    backbone = import_keras().Model(network.input, network.get_layer("avg_pool").output)
    backbone.load_weights(RESNET50_WEIGHTS)
    export_model(save(network), "onnx", tmp_path / "export")
    assert check_export(tmp_path / "export").difference <= 1e-4


def test_the_metadata_suffices_to_prepare_an_image(exported, model):
    """CLAHE first, at the original size, then resizing, as the calls in the file say."""
    metadata = json.loads((exported / "metadata.json").read_text())
    calls = [step["call"] for step in metadata["before_graph"][1:]]
    reference = np.load(exported / "reference.npz", allow_pickle=False)
    for number, level in enumerate(reference["inputs"]):
        image = reference[f"image_{number}"]
        for call in calls:
            image = eval(call, {"cv2": cv2, "numpy": np, "image": image})
        np.testing.assert_array_equal(image, level[None, ..., None].astype(np.float32))
    assert len({reference[f"image_{n}"].shape for n in range(len(reference["scores"]))}) > 3
    assert metadata["output"]["threshold"] == model.threshold
    assert metadata["research_only"] is True
    assert any("NOT FOR CLINICAL USE" in notice for notice in metadata["notices"])
    assert any("LEAKAGE" in notice for notice in metadata["notices"])
    assert metadata["files"].keys() == {"model.xml", "model.bin", "reference.npz"}


def test_nothing_private_and_no_path_is_in_the_metadata(exported, model):
    text = (exported / "metadata.json").read_text()
    assert str(model.network.file.parent) not in text
    assert str(exported.parent) not in text


def test_an_existing_folder_is_not_overwritten(exported, model, snapshot):
    before = snapshot(exported)
    with pytest.raises(ExportError, match="exists"):
        export_model(model, "openvino", exported)
    assert snapshot(exported) == before


def test_a_wrong_graph_is_not_published(model, tmp_path, monkeypatch):
    """Such as that of a converter with an error."""
    monkeypatch.setattr(writing, "predict", lambda network, inputs: predict(network, inputs) + np.float32(0.01))
    with pytest.raises(ExportError, match=r"differ by 0\.01.*0\.0001"):
        export_model(model, "openvino", tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_model_is_not_exported(model, tmp_path):
    changed = replace(model, network=replace(model.network, sha256="0" * 64))
    with pytest.raises(WeightsError, match="SHA-256"):
        export_model(changed, "openvino", tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_missing_extra_is_named(model, exported, tmp_path, monkeypatch):
    find = formats.importlib.util.find_spec
    hidden = {"tf2onnx", "onnxruntime", "openvino"}
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name in hidden else find(name))
    with pytest.raises(ExportError, match=r"onnx.* tf2onnx and onnxruntime.*\[export\]"):
        export_model(model, "onnx", tmp_path / "onnx")
    with pytest.raises(ExportError, match=r"openvino.*not installed"):
        check_export(exported)


def test_another_backend_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "choose_backend", lambda: "torch")
    with pytest.raises(ExportError, match=r"HIP_MRI_KERAS_BACKEND.*torch"):
        export_model(model, "openvino", tmp_path / "export")


def change_metadata(folder: Path, change: Callable[[dict], object]) -> None:
    file = folder / "metadata.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "reference.npz"])
def test_a_changed_or_missing_file_is_found_before_it_is_loaded(exported, name):
    (exported / name).write_bytes((exported / name).read_bytes() + b"x")
    with pytest.raises(ExportError, match=f"{name} missing or changed"):
        check_export(exported)
    (exported / name).unlink()
    with pytest.raises(ExportError, match=f"{name} missing or changed"):
        check_export(exported)


def test_a_file_that_is_not_recorded_is_found(exported):
    (exported / "names.csv").write_text("x")
    with pytest.raises(ExportError, match=r"names\.csv not recorded"):
        check_export(exported)


def test_incomplete_metadata_names_all_that_is_missing(exported):
    change_metadata(exported, lambda it: (it.pop("notices"), it["output"].pop("threshold"), it["input"].update(x=1)))
    with pytest.raises(ExportError, match=r"notices.*input\.x.*output\.threshold|notices.*output\.threshold.*input\.x"):
        check_export(exported)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{"])
def test_missing_or_damaged_metadata_are_named(exported, content):
    (exported / "metadata.json").unlink()
    if content is not None:
        (exported / "metadata.json").write_bytes(content)
    with pytest.raises(ExportError, match=r"metadata\.json"):
        check_export(exported)


def test_other_preprocessing_than_the_reference_is_found(exported):
    change_metadata(exported, lambda it: it["before_graph"][1]["parameters"].update(clip_limit=4.0))
    (problem,) = check_export(exported).problems
    assert "OpenCV" in problem


def test_wrong_shapes_of_the_graph_are_found(exported):
    change_metadata(exported, lambda it: it["input"].update(shape=["batch", 30, 30, 1]))
    assert any("inputs and outputs" in problem for problem in check_export(exported).problems)


def test_an_export_of_another_model_is_found(exported, model, save):
    check = check_export(exported)
    assert [it.partition(" ")[0] for it in check_against_model(check, replace(model, threshold=0.7))] == ["output"]
    assert [it.partition(" ")[0] for it in check_against_model(check, save(build()))] == ["model"]
    forged = check._replace(scores=check.scores + 0.01)
    assert any("scores differ" in problem for problem in check_against_model(forged, model))


def test_a_graph_outside_of_the_folder_is_not_loaded(exported):
    change_metadata(exported, lambda it: it.update(graph="../model.onnx"))
    with pytest.raises(ExportError, match=r"'\.\./model\.onnx'"):
        check_export(exported)


def test_metadata_state_when_a_label_is_uncertain(save, tmp_path):
    rule = DecisionRule(0.5, error_rate=0.1, min_lesion=0.3, max_normal=0.7, reason="")
    model = replace(save(build()), threshold=0.5, conformal=rule)
    found = export_model(model, "openvino", tmp_path / "export").output.uncertain
    assert found is not None
    scores = np.array([0.1, 0.3, 0.4, 0.5, 0.7, 0.8])
    is_uncertain = (scores >= found.min_lesion) & (scores < 0.5) | (scores >= 0.5) & (scores <= found.max_normal)
    assert ((decide(scores, rule) == "uncertain") == is_uncertain).all()
    assert found.error_rate == 0.1
