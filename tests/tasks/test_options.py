"""The cache policy that checks the files, and what is retried."""

import errno
import json
from types import SimpleNamespace

import pytest
from prefect.filesystems import LocalFileSystem
from prefect.serializers import JSONSerializer

from hip_mri.errors import DiskError, WorkspaceError
from tasks.options import cache_shards

RECORD = json.dumps({"metadata": {"serializer": JSONSerializer().model_dump(mode="json")}, "result": "1"})
"""A record as Prefect keeps it."""


def make_context(folder, name="preprocess_images"):
    storage = LocalFileSystem(basepath=str(folder))
    return SimpleNamespace(task=SimpleNamespace(name=name), result_store=SimpleNamespace(result_storage=storage))


def find_key(folder, *, complete=True, digest="a", name="preprocess_images", **parameters):
    policy = cache_shards(lambda _: complete)["cache_policy"]
    inputs = {"shard": SimpleNamespace(digest=digest)} | parameters
    return policy.compute_key(make_context(folder, name), inputs, {})


def test_key_follows_content_settings_and_task(tmp_path) -> None:
    keys = [
        find_key(tmp_path, settings=1),
        find_key(tmp_path, settings=2),
        find_key(tmp_path, settings=1, digest="b"),
        find_key(tmp_path, settings=1, name="extract_features"),
    ]
    assert len(set(keys)) == 4
    assert find_key(tmp_path, settings=1) == keys[0]


def test_record_is_forgotten_when_outputs_have_gone(tmp_path) -> None:
    record = tmp_path / find_key(tmp_path)
    record.write_text(RECORD)
    find_key(tmp_path, complete=True)
    assert record.exists()
    assert find_key(tmp_path, complete=False) == record.name
    assert not record.exists()


FOREIGN = {
    "empty": "",
    "torn": RECORD[:20],
    "no record": "{}",
    "no object": "[]",
    "pickle": RECORD.replace('"json"', '"pickle"'),
    "decoder": RECORD.replace("prefect.serializers.prefect_json_object_decoder", "os.system"),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_fault_54_and_65_a_record_that_is_torn_or_pickled_is_never_loaded(tmp_path, content) -> None:
    record = tmp_path / find_key(tmp_path)
    record.write_text(content)
    assert find_key(tmp_path, complete=True) == record.name
    assert not record.exists()


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [
        (WorkspaceError("a network disk that went away"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (DiskError("full"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.EROFS, "Read-only file system"), False),
        (ValueError("a mistake in the code"), False),
    ],
)
def test_fault_56_a_full_disk_is_not_tried_again(error, is_tried_again) -> None:
    state = SimpleNamespace(result=lambda raise_on_failure: error)
    assert cache_shards(bool)["retry_condition_fn"](None, None, state) is is_tried_again
