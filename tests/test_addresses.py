"""Addresses without their tokens, for file names and messages."""

import pytest

from hip_mri.addresses import find_scheme, show_place, strip_credentials, strip_credentials_in_text

PLACE = "https://example.org/data/hip.zip"


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=k%2Fs3&X-Amz-Expires=60&X-Amz-Signature=0f",
        "AWSAccessKeyId=k&Signature=0f&Expires=1",
        "X-Goog-Signature=0f&X-Goog-Date=20261123T100000Z",
        "Policy=p&Key-Pair-Id=k&Signature=0f",
        "sv=2024-11-04&st=1&se=2&sr=b&sp=r&spr=https&skoid=1&sktid=2&skt=3&ske=4&sks=b&skv=1&sig=0f",
        "token=1",
        "access_token=1&api_key=2",
    ],
)
def test_a_signature_is_no_part_of_what_an_address_means(query: str) -> None:
    assert strip_credentials(f"{PLACE}?{query}") == PLACE
    assert strip_credentials(f"{PLACE}?{query}&file=a.zip") == strip_credentials(f"{PLACE}?file=a.zip") != PLACE


@pytest.mark.parametrize("query", ["file=a.zip", "id=7", "key=hip/a.zip", "path=/a&version=2", "versionId=3", "a.zip"])
def test_what_can_say_which_file_is_meant_stays(query: str) -> None:
    assert strip_credentials(f"{PLACE}?{query}") == f"{PLACE}?{query}"


@pytest.mark.parametrize("address", [f"{PLACE}#part", "https://anna:word@example.org/data/hip.zip", f"{PLACE}?"])
def test_users_and_fragments_go(address: str) -> None:
    assert strip_credentials(address) == PLACE


@pytest.mark.parametrize("login", ["anna:word@", "anna:wo@rd@", "word@"])
def test_credentials_are_removed_from_addresses_in_a_text(login: str) -> None:
    text = "no answer from https://{}example.org/a{}, sqlite:///b.db; mail anna@example.org"
    assert strip_credentials_in_text(text.format(login, "?token=1")) == text.format("", "").replace("a,", "a")
    assert strip_credentials_in_text(text.format(login, "")) == text.format("", "")


def test_messages_tell_the_host_alone() -> None:
    assert show_place("https://anna:word@example.org/patient.zip?token=1") == "https://example.org/..."
    assert show_place("s3://bucket/a@b.zip") == "s3://bucket/..."


@pytest.mark.parametrize(
    ("source", "scheme"),
    [("s3://bucket", "s3"), (" https:/host", "https"), ("C:/data", None), ("C:\\data", None), ("data/a.zip", None)],
)
def test_an_address_begins_with_a_scheme(source: str, scheme: str | None) -> None:
    assert find_scheme(source) == scheme
