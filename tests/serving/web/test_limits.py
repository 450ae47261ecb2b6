"""Requests that are too large, too slow, too many, or not forms are refused with a reason."""

import asyncio
from contextlib import ExitStack

import httpx
import pytest

from hip_mri.config import ServiceLimits
from tests.serving.web.test_predict import make_stack

FORM = {"Content-Type": "multipart/form-data; boundary=x"}
PART = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\ncontent\r\n'


def find_error(response: httpx.Response) -> tuple[int, str]:
    assert response.json()["error"]["message"]
    return response.status_code, response.json()["error"]["reason"]


def test_too_many_bytes_are_refused(predict):
    assert find_error(predict(bytes(2**21))) == (413, "too_large")


def test_too_many_files_are_refused(predict):
    assert find_error(predict(*[b"x"] * 7)) == (413, "too_many_files")


def test_too_many_slices_are_refused(predict, draw):
    assert find_error(predict(make_stack(draw, 7))) == (422, "too_many_slices")
    assert find_error(predict(make_stack(draw, 4), make_stack(draw, 3))) == (413, "too_many_images")


@pytest.mark.parametrize(
    ("headers", "content", "expected"),
    [
        ({}, b"", (415, "not_a_form")),
        ({"Content-Type": "image/png"}, b"x", (415, "not_a_form")),
        ({"Content-Type": "multipart/form-data"}, b"x", (415, "not_a_form")),
        ({"Content-Type": f"multipart/form-data; boundary={'x' * 300}"}, b"x", (400, "damaged_form")),
        (FORM, b"", (400, "damaged_form")),
        (FORM, b"no form", (400, "damaged_form")),
        (FORM, PART, (400, "damaged_form")),
        (FORM, PART + b"--x", (400, "damaged_form")),
        (FORM, b'--x\r\nContent-Disposition: form-data; name="images"\r\n\r\ntext\r\n--x--\r\n', (400, "no_file")),
        (FORM, PART + b"--x--\r\n", (422, "not_an_image")),
        (FORM, b"--x\r\n" + b"A: b\r\n" * 1000 + b"\r\n\r\n--x--\r\n", (400, "damaged_form")),
    ],
)
def test_damaged_forms_are_refused(call, app, headers, content, expected):
    assert find_error(call(app, "POST", "/predict", headers=headers, content=content)) == expected


def test_slow_uploads_are_refused(call, app, service, monkeypatch):
    monkeypatch.setattr(service, "limits", service.limits.model_copy(update={"upload_timeout_seconds": 0.2}))

    async def send_slowly():
        yield PART
        await asyncio.sleep(600)

    assert find_error(call(app, "POST", "/predict", headers=FORM, content=send_slowly())) == (408, "too_slow")


def test_a_full_service_says_when_to_come_back_and_recovers(service, predict, call, app, draw, encode):
    content = encode(draw(1, 40, 40))
    with ExitStack() as stack:
        for _ in range(service.limits.max_requests):
            stack.enter_context(service.admit())
        response = predict(content)
        assert find_error(response) == (503, "busy")
        assert int(response.headers["Retry-After"]) >= 1
        assert call(app, "GET", "/health").json() == {"status": "ok", "num_active": service.limits.max_requests}
    assert predict(content).status_code == 200
    assert service.num_active == 0


def test_refused_requests_free_their_place(service, predict):
    for _ in range(2 * service.limits.max_requests):
        predict(b"")
    assert service.num_active == 0


def test_requests_at_the_same_time_get_their_own_results(service, app, draw, encode):
    contents = [encode(draw(seed, 40, 40)) for seed in range(service.limits.max_requests)]

    async def send() -> list[dict]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            sent = [client.post("/predict", files=[("images", ("x", content))]) for content in contents * 1]
            together = [response.json()["images"][0] for response in await asyncio.gather(*sent)]
            alone = [
                (await client.post("/predict", files=[("images", ("x", it))])).json()["images"][0] for it in contents
            ]
        assert [it["sha256"] for it in together] == [it["sha256"] for it in alone]
        assert [it["score"] for it in together] == pytest.approx([it["score"] for it in alone], abs=1e-6)
        return together

    assert len({it["sha256"] for it in asyncio.run(send())}) == len(contents)


@pytest.mark.parametrize("path", ["/nothing", "/assets/../app.py", "/docs/oauth2-redirect", "/redoc"])
def test_unknown_paths_are_errors_in_json(call, app, path):
    assert find_error(call(app, "GET", path)) == (404, "not_available")


def test_a_parameter_with_an_unusable_value_is_named(predict):
    response = predict(b"x", query="?heat_maps=perhaps")
    assert find_error(response) == (422, "unusable_parameter")
    assert "heat_maps" in response.json()["error"]["message"]


def test_an_error_that_nobody_expected_is_answered_without_its_cause(service, predict, monkeypatch, draw, encode):
    monkeypatch.setattr(service.model, "score", lambda *_: 1 / 0)
    response = predict(encode(draw(1, 40, 40)))
    assert find_error(response) == (500, "failed")
    assert "division" not in response.text
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_limits_have_sound_defaults():
    limits = ServiceLimits()
    assert limits.max_request_bytes * limits.max_requests <= 2**30
