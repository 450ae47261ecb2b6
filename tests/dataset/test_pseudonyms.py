"""Names of files and patients are keyed hashes; one private file maps them back."""

import stat

import pandas as pd
import pytest

from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.manifest import read_manifest, write_manifest
from hip_mri.dataset.pseudonyms import (
    hash_identities,
    look_up_names,
    make_pseudonyms,
    read_named_manifest,
    resolve_pseudonyms,
    store_names,
)
from hip_mri.errors import SourceError, WorkspaceError
from hip_mri.workspace import Workspace

NAMES = ["Müller, Anna/1.png", "金絲雀/2.png", "Müller, Anna/1.png", ""]


def test_a_pseudonym_lasts_in_its_workspace_and_means_nothing_elsewhere(workspace, tmp_path):
    pseudonyms = make_pseudonyms(NAMES, workspace)
    assert pseudonyms == make_pseudonyms(NAMES, workspace)
    assert pseudonyms[0] == pseudonyms[2] != pseudonyms[1]
    assert [len(pseudonym) for pseudonym in pseudonyms] == [32, 32, 32, 0]
    assert not set(pseudonyms[:2]) & set(make_pseudonyms(NAMES, Workspace(tmp_path / "other")))


def test_a_file_and_a_patient_of_one_name_have_different_pseudonyms(workspace):
    assert not make_pseudonyms(["Smith"], workspace)[0].startswith(hash_identities(pd.Series(["Smith"]), workspace)[0])


def test_names_that_differ_only_in_escapes_have_different_pseudonyms(workspace):
    assert len(set(make_pseudonyms(["a\x1b.png", "a\\x1b.png", "a\udcff.png"], workspace))) == 3


def test_what_is_remembered_can_be_revealed_by_the_owner_alone(workspace):
    pseudonyms = make_pseudonyms(NAMES, workspace)
    store_names(dict(zip(pseudonyms[:1], NAMES[:1], strict=True)), workspace)
    store_names(dict(zip(pseudonyms, NAMES, strict=True)), workspace)
    assert list(resolve_pseudonyms(pd.Series(pseudonyms), workspace)) == NAMES
    assert stat.S_IMODE(workspace.names_file.stat().st_mode) == 0o600


def test_known_names_are_not_written_again(workspace):
    names = dict(zip(make_pseudonyms(NAMES, workspace), NAMES, strict=True))
    store_names(names, workspace)
    before = workspace.names_file.stat()
    store_names(names, workspace)
    assert workspace.names_file.stat().st_ino == before.st_ino


def test_names_that_were_lost_are_reported_with_a_way_out(workspace):
    with pytest.raises(WorkspaceError, match=r"names\.parquet .* 1 of 2 names"):
        resolve_pseudonyms(pd.Series(["0" * 32, ""]), workspace)
    workspace.prepare()
    workspace.names_file.write_bytes(b"PAR1 no more")
    with pytest.raises(WorkspaceError, match=r"names\.parquet cannot be read"):
        resolve_pseudonyms(pd.Series(["0" * 32]), workspace)


def test_a_damaged_key_is_not_replaced(workspace):
    workspace.prepare()
    workspace.pseudonym_key_file.write_bytes(b"short")
    with pytest.raises(WorkspaceError, match=r"pseudonyms\.key is damaged"):
        make_pseudonyms(["x"], workspace)


@pytest.mark.parametrize("made", ["names.parquet", "entries/x.parquet", "identities/x.parquet", "splits.parquet"])
def test_a_missing_key_is_not_replaced_where_anything_was_made_with_it(workspace, made):
    make_pseudonyms(["x"], workspace)
    file = workspace.root / made
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert make_pseudonyms(["x"], workspace)
    workspace.pseudonym_key_file.unlink()
    with pytest.raises(WorkspaceError, match=r"key is missing.*parquet"):
        make_pseudonyms(["x"], workspace)
    assert not workspace.pseudonym_key_file.exists()


def test_a_manifest_of_deliveries_needs_its_key_and_one_of_a_batch_needs_none(workspace, write_rows):
    rows = write_rows(workspace, 3, 3)
    with pytest.raises(WorkspaceError, match=r"key is missing.*manifest\.parquet"):
        make_pseudonyms(["x"], workspace)
    write_manifest(workspace.manifest_file, rows.assign(delivery=""))
    assert make_pseudonyms(["x"], workspace)


def test_a_delivery_is_refused_where_the_key_is_gone(source_file, workspace, snapshot):
    """Its patients would hash differently, and their new images could come into another split than the old ones."""
    ingest_images([Delivery("source", source_file)], workspace, num_threads=1)
    workspace.pseudonym_key_file.unlink()
    before = snapshot(workspace.root)
    with pytest.raises(WorkspaceError, match=r"pseudonyms\.key is missing"):
        ingest_images([Delivery("source", source_file)], workspace, num_threads=1, keep_earlier=True)
    assert snapshot(workspace.root) == before


def test_the_manifest_holds_no_name_and_its_owner_finds_them(source_file, workspace, entries):
    ingest_images([Delivery("source", source_file)], workspace, num_threads=1)
    assert "source_name" not in read_manifest(workspace.manifest_file)
    named = read_named_manifest(workspace)
    assert set(named["source_name"]) == set(entries)
    found = look_up_names(workspace, [named["image_id"][0], "0" * 16])
    assert found.values.tolist() == [[named["image_id"][0], named["source_name"][0], "ready", ""]]
    assert list(found.columns) == ["image_id", "source_name", "state", "reason"]
    assert len(look_up_names(workspace)) == len(entries)


def test_a_refused_source_leaves_no_name_behind(pack, entries, workspace):
    with pytest.raises(SourceError):
        ingest_images([Delivery("source", pack(dict.fromkeys(entries, b"x")))], workspace, num_threads=1)
    assert not workspace.names_file.exists()
