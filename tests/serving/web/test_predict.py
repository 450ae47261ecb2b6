"""The service scores as `hip-predict` does, and refuses what it cannot read without ending."""

import io
import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hip_mri.config import LABELS, ImageSettings
from hip_mri.dataset.shards import plan_shards
from hip_mri.errors import EvaluationError
from hip_mri.images.reading import read_pictures
from hip_mri.images.sandbox import Sandbox
from hip_mri.models.features import extract_features
from hip_mri.serving.loaded_model import LoadedModel
from hip_mri.serving.prediction_inputs import ingest_inputs
from hip_mri.serving.predictions import score_images
from hip_mri.serving.web.app import make_app
from hip_mri.serving.web.service import ScoringService, Wanted
from tests.cases.test_cases import CASES
from tests.images.test_image_faults import REFUSED
from tests.images.test_sandbox import COMMAND
from tests.serving.web.conftest import LIMITS

COLUMNS = ["sha256", "score", "label", "decision", "threshold", "distance", "is_outside", "known_split"]


def make_stack(draw, num_slices: int) -> bytes:
    stream, pages = io.BytesIO(), [Image.fromarray(draw(number, 40, 40)) for number in range(num_slices)]
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    return stream.getvalue()


@pytest.fixture(scope="module")
def files(stored, draw, encode) -> dict[str, bytes]:
    """Files of several formats, two of them known to the model."""
    return {
        "trained.png": stored[1][0],
        "tested.png": stored[1][-1],
        "new.jpg": encode(draw(7, 50, 40), "JPEG"),
        "stack.tif": make_stack(draw, 2),
        "image.dcm": (CASES / "dicom/control_plain_ok.dcm").read_bytes(),
    }


def test_results_are_those_of_a_batch(files, predict, scorer, spread, workspace):
    response = predict(*files.values())
    assert response.status_code == 200, response.text
    results = pd.DataFrame(response.json()["images"])
    assert list(results["file"]) == [0, 1, 2, 3, 3, 4]
    assert list(results["slice"]) == [0, 0, 0, 0, 1, 0]

    features, serving = scorer.network.features, workspace.serving
    ingest_inputs(spread(files), serving, features.preprocessing, num_threads=1)
    for shard in plan_shards(serving, shard_size=100):
        extract_features(shard, serving, features, num_threads=1)
    expected = score_images(serving, scorer).set_index("sha256")
    results = results.set_index("sha256")
    assert len(expected) == len(results) == 6
    pd.testing.assert_frame_equal(
        results[COLUMNS[1:]], expected.loc[results.index, COLUMNS[1:]], check_dtype=False, rtol=0, atol=1e-6
    )
    assert set(expected["known_split"]) >= {"train", "test", ""}


def test_scores_are_averaged_over_mirror_images_where_the_model_does_so(scorer, stored):
    averaging = replace(scorer.network.features, averages_mirrored=True)
    model = LoadedModel(replace(scorer, network=replace(scorer.network, features=averaging)))
    plain = LoadedModel(scorer)
    images = [plain.prepare(read_pictures(content)[0]) for content in stored[1]]
    flipped = [replace(image, levels=np.fliplr(image.levels)) for image in images]
    once, mirrored, averaged = (
        np.array([it["score"] for it in one.score(given, one.compute(given))])
        for one, given in ((plain, images), (plain, flipped), (model, images))
    )
    assert averaged == pytest.approx((once + mirrored) / 2, abs=1e-6)
    assert np.abs(once - mirrored).max() > 1e-4


def test_each_response_has_model_and_notices(predict, files, scorer):
    response = predict(files["new.jpg"]).json()
    assert response["model"] == {"name": "run 0417", "sha256": scorer.model.network.sha256, "threshold": 0.5}
    assert response["notices"][0].startswith("NOT FOR CLINICAL USE")
    assert response["notices"][1] == "SMALL, IN THE RUN THAT TRAINED THE MODEL: A notice."


def test_pictures_and_heat_maps_come_where_they_are_wanted(predict, files):
    (plain,) = predict(files["new.jpg"]).json()["images"]
    assert plain["picture"] is plain["heat_map"] is None
    (drawn,) = predict(files["new.jpg"], query="?pictures=true&heat_maps=true").json()["images"]
    assert drawn["picture"].startswith("data:image/jpeg;base64,/9j/")
    assert drawn["heat_map"].startswith("data:image/jpeg;base64,/9j/")
    assert drawn["heat_map"] != drawn["picture"]
    assert drawn["score"] == plain["score"]


HOSTILE = REFUSED | {
    "text-with-a-name": (b"Eva Schmidt, born 1960", "not_an_image"),
    "page": (b"<!doctype html><html></html>", "not_an_image"),
    "archive": ((CASES / "zips/control_plain_ok.zip").read_bytes(), "not_an_image"),
    "pointer": ((CASES / "images/git_lfs_pointer.png").read_bytes(), "git_lfs_pointer"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_the_next_image_is_scored(name, predict, files):
    content, reason = HOSTILE[name]
    response = predict(content)
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["message"]
    assert error["reason"] == response.json()["images"][0]["reason"] == reason
    assert "Schmidt" not in response.text
    assert predict(files["new.jpg"]).status_code == 200


def test_readable_files_of_a_request_are_scored(predict, files):
    response = predict(b"", files["new.jpg"], b"text")
    assert response.status_code == 200
    assert [(it["state"], it["reason"]) for it in response.json()["images"]] == [
        ("unreadable", "empty_file"),
        ("scored", ""),
        ("unreadable", "not_an_image"),
    ]


def test_names_and_content_stay_out_of_responses_logs_and_disk(predict, files, caplog, tmp_path, monkeypatch):
    import tempfile

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    large = files["new.jpg"] + bytes(2**20)  # of a size that FastAPI's own reader writes to the disk
    for content in (large, b"Schmidt"):
        assert "Schmidt" not in predict(content, query="?pictures=true").text
    assert "Schmidt" not in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def fragile(model):
    """A service whose decoders break on request, and wait for one second only."""
    service = ScoringService(model, ImageSettings(), LIMITS, num_cores=1)
    service._sandbox = Sandbox(timeout_seconds=1.0, command=COMMAND)
    with service:
        yield make_app(service, None, only_loopback=True)


@pytest.mark.parametrize(("content", "reason"), [(b"crash", "decoder_crashed"), (b"hang", "decoder_hung")])
def test_broken_decoders_are_replaced(content, reason, fragile, call, files):
    def send(content):
        return call(fragile, "POST", "/predict", files=[("images", ("x", content))], timeout=30)

    assert send(content).json()["error"]["reason"] == reason
    assert send(files["new.jpg"]).status_code == 200


def test_an_image_without_a_score_gets_no_label_and_costs_no_other_image(service, files, monkeypatch, call, app):
    score = service.model.score

    def fail(images, views):
        if any(image.sha256 in broken for image in images):
            raise EvaluationError("scores: 1 of 1 are not a number. Give another model.")
        return score(images, views)

    (result,) = call(app, "POST", "/predict", files=[("images", ("x", files["tested.png"]))]).json()["images"]
    broken = {result["sha256"]}
    monkeypatch.setattr(service.model, "score", fail)

    import asyncio

    async def send_both():
        contents = [[files["tested.png"]], [files["new.jpg"]]]
        return await asyncio.gather(*(service.score_files(it, Wanted()) for it in contents), return_exceptions=True)

    failed, (scored,) = asyncio.run(send_both())
    assert isinstance(failed, EvaluationError)
    assert scored["label"] in LABELS
    response = call(app, "POST", "/predict", files=[("images", ("x", files["tested.png"]))])
    assert (response.status_code, response.json()["error"]["reason"]) == (500, "no_score")
