"""The cache that looks at the files."""

from types import SimpleNamespace

from prefect.filesystems import LocalFileSystem

from tasks.shards import cache_while_complete


def make_context(folder, name="preprocess_images"):
    storage = LocalFileSystem(basepath=str(folder))
    return SimpleNamespace(task=SimpleNamespace(name=name), result_store=SimpleNamespace(result_storage=storage))


def find_key(folder, *, complete=True, digest="a", name="preprocess_images", **parameters):
    policy = cache_while_complete(lambda _: complete)
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
    record.write_text("{}")
    find_key(tmp_path, complete=True)
    assert record.exists()
    assert find_key(tmp_path, complete=False) == record.name
    assert not record.exists()
