import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hip_mri.dataset import manifest as manifest_module
from hip_mri.dataset.manifest import (
    ADDED_COLUMNS,
    MANIFEST_COLUMNS,
    digest_table,
    read_manifest,
    select_ready,
    write_manifest,
)
from hip_mri.errors import WorkspaceError
from hip_mri.hashes import digest

UNREADABLE = r"manifest\.parquet cannot be read"


def test_what_is_written_is_read_again_sorted_by_id(workspace, write_rows):
    manifest = write_rows(workspace, 5, 4)
    read = read_manifest(workspace.manifest_file)
    assert tuple(read.columns) == MANIFEST_COLUMNS
    pd.testing.assert_frame_equal(
        read, manifest.sort_values("image_id", ignore_index=True)[list(MANIFEST_COLUMNS)], check_dtype=False
    )


def test_only_the_owner_may_read_it(workspace, write_rows):
    for _ in range(2):
        manifest = write_rows(workspace, 3, 3)
        assert workspace.manifest_file.stat().st_mode & 0o777 == 0o600
    workspace.manifest_file.chmod(0o644)
    write_manifest(workspace.manifest_file, manifest)
    assert workspace.manifest_file.stat().st_mode & 0o777 == 0o600


def test_other_columns_do_not_get_in(workspace, write_rows):
    manifest = write_rows(workspace, 3, 3).assign(patient_name="Doe")
    write_manifest(workspace.manifest_file, manifest)
    assert "patient_name" not in read_manifest(workspace.manifest_file)


def test_ready_images_are_selected_and_sorted(workspace, write_rows):
    manifest = write_rows(workspace, 4, 4)
    manifest.loc[[1, 5], "state"] = ["quarantined", "duplicate"]
    ready = select_ready(manifest)
    assert len(ready) == 6
    assert set(ready["state"]) == {"ready"}
    assert ready["image_id"].is_monotonic_increasing
    assert list(ready.index) == list(range(6))


def test_every_early_end_is_found(workspace, write_rows):
    write_rows(workspace, 3, 3)
    content = workspace.manifest_file.read_bytes()
    for length in range(0, len(content), 61):
        workspace.manifest_file.write_bytes(content[:length])
        with pytest.raises(WorkspaceError, match=UNREADABLE):
            read_manifest(workspace.manifest_file)


def test_a_missing_manifest_is_named(workspace):
    with pytest.raises(WorkspaceError, match=UNREADABLE):
        read_manifest(workspace.manifest_file)


def test_the_table_of_another_program_is_refused(workspace):
    workspace.root.mkdir()
    pd.DataFrame({"image_id": ["a"], "label": ["normal"]}).to_parquet(workspace.manifest_file)
    with pytest.raises(WorkspaceError) as caught:
        read_manifest(workspace.manifest_file)
    missing = [column for column in MANIFEST_COLUMNS if column not in ("image_id", "label", *ADDED_COLUMNS)]
    assert f"{workspace.manifest_file} has no column {', '.join(missing)}." in str(caught.value)
    assert "empty workspace" in str(caught.value)


@pytest.mark.parametrize(
    "metadata",
    [b"{}", b"[]", b"x", b'{"index_columns": ["x"], "columns": []}', b'{"index_columns": [{}], "columns": [1]}'],
)
def test_damaged_metadata_are_found(workspace, metadata):
    workspace.root.mkdir()
    table = pa.table({"image_id": ["a"]}).replace_schema_metadata({b"pandas": metadata})
    pq.write_table(table, workspace.manifest_file)
    with pytest.raises(WorkspaceError, match=UNREADABLE):
        read_manifest(workspace.manifest_file)


@pytest.mark.parametrize("num_rows", [0, 1, 3, 4, 9])
def test_a_table_s_digest_is_that_of_its_lists_however_it_is_cut(num_rows, monkeypatch):
    monkeypatch.setattr(manifest_module, "ROWS_AT_ONCE", 4)
    names = [f'"ß{number},' for number in range(num_rows)]
    table = pd.DataFrame({"sha256": names, "mirrored": [True] * num_rows, "fold": range(num_rows)})
    assert digest_table(table) == digest(table.to_dict("list"))
