"""Deliveries in sequence: new files are read, and earlier images and identities are kept."""

import hashlib
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from hip_mri.config import DataSettings
from hip_mri.dataset.deliveries import Delivery, fetch_deliveries, fetch_delivery
from hip_mri.dataset.identities import check_patient_tables, identify_images
from hip_mri.dataset.ingest import IngestReport, ingest_images
from hip_mri.dataset.pseudonyms import read_named_manifest, resolve_pseudonyms
from hip_mri.dataset.split_registry import lift_quarantine, quarantine_images
from hip_mri.errors import ArchiveError, HipMriError, SourceError
from hip_mri.grouping.groups import group_images
from hip_mri.grouping.split import split_manifest
from hip_mri.sources import fetch
from hip_mri.sources.source import open_source
from hip_mri.workspace import Workspace


def add(workspace: Workspace, *paths, keep_earlier: bool = True) -> IngestReport:
    delivered = [Delivery(path.stem, path) for path in paths]
    return ingest_images(delivered, workspace, 1, keep_earlier=keep_earlier)


def find(workspace: Workspace) -> pd.DataFrame:
    return read_named_manifest(workspace).set_index("source_name")


# Where deliveries come from


def test_a_drop_folder_is_opened(entries, pack, spread, workspace, tmp_path):
    workspace.prepare()
    drop = spread({f"2026-02/{name}": content for name, content in entries.items()}, "drop")
    for name in ("2026-01.zip", "2026-03.zip.part", ".hidden.zip"):
        (drop / name).write_bytes(pack(entries).read_bytes())
    (drop / "empty").mkdir()
    (drop / "notes.txt").write_text("not a delivery")
    found = fetch_deliveries([str(drop)], workspace)
    assert [delivery.path.name for delivery in found] == ["2026-01.zip", "2026-02"]
    assert len({delivery.name for delivery in found}) == 2
    assert fetch_deliveries([str(drop)], workspace) == found


def test_class_folders_at_the_top_are_one_delivery(entries, spread, workspace):
    workspace.prepare()
    folder = spread({name: content for name, content in entries.items() if name.startswith("normal")})
    assert [delivery.path for delivery in fetch_deliveries([str(folder)], workspace)] == [folder]


def test_an_empty_drop_folder_delivers_nothing_and_a_missing_one_is_an_error(workspace, tmp_path):
    workspace.prepare()
    (tmp_path / "incoming" / "normal").mkdir(parents=True)
    assert fetch_deliveries([str(tmp_path / "incoming")], workspace) == ()
    with pytest.raises(SourceError, match="no such file"):
        fetch_deliveries([str(tmp_path / "gone")], workspace)


@pytest.fixture
def portal(source_file, monkeypatch):
    """Gives each address a file of its own, as a site does that sends no tag."""

    def fetch(address, sha256, folder, on_progress, limits):
        file = folder / f"{hashlib.sha256(address.encode()).hexdigest()}.zip"
        shutil.copy(source_file, file)
        return file

    monkeypatch.setattr("hip_mri.dataset.deliveries.fetch_source", fetch)
    return "https://portal.example.org/download"


def test_what_a_query_selects_is_a_delivery_of_its_own(portal, workspace):
    workspace.prepare()
    sources = [f"{portal}?file={month}.zip&token=1" for month in ("june", "july")]
    first = fetch_deliveries(sources, workspace)
    assert len(first) == 2
    again = fetch_deliveries([source.replace("token=1", "token=2") for source in sources], workspace)
    assert [delivery.name for delivery in again] == [delivery.name for delivery in first]


def test_two_tokens_for_one_address_are_refused(portal, workspace):
    workspace.prepare()
    with pytest.raises(SourceError, match=r"delivery 1 of 2 .*token"):
        fetch_deliveries([f"{portal}?token=1", f"{portal}?token=2"], workspace)


def test_what_is_no_delivery_is_counted_in_the_log(workspace, tmp_path, caplog):
    caplog.set_level("INFO", "hip_mri")
    workspace.prepare()
    (tmp_path / "incoming" / "empty").mkdir(parents=True)
    for name in ("june.tar.gz", "scan.png", "june.zip.bak", ".hidden", "july.zip.part"):
        (tmp_path / "incoming" / name).write_bytes(b"x")
    assert fetch_deliveries([str(tmp_path / "incoming")], workspace) == ()
    messages = [record.getMessage() for record in caplog.records if "drop folder" in record.getMessage()]
    assert messages == [
        "4 in a drop folder are neither zip files nor folders with images, and are ignored",
        "2 files or folders in a drop folder are hidden or unfinished and wait",
    ]


def test_one_source_twice_is_one_delivery(source_file, workspace):
    workspace.prepare()
    assert len(fetch_deliveries([str(source_file), str(source_file)], workspace)) == 1
    assert fetch_deliveries([str(source_file)], workspace)[0] == fetch_delivery(str(source_file), None, workspace)


def test_a_delivery_that_says_so_is_synthetic(entries, pack, spread, workspace):
    """However it came, and also when it is only remembered: every output must say it."""
    marked = entries | {"SYNTHETIC.txt": b"phantoms"}
    for path in (pack({f"hips/{name}": content for name, content in marked.items()}), spread(marked)):
        delivery = fetch_delivery(str(path), None, workspace)
        assert delivery.name.startswith("synthetic-")
        assert ingest_images([delivery], workspace, 1).is_synthetic
        assert ingest_images([], workspace, 1, keep_earlier=True).is_synthetic
    assert not add(workspace, pack(entries, "real.zip"), keep_earlier=False).is_synthetic


def test_a_mark_deeper_than_one_folder_says_nothing(entries, pack, spread, workspace):
    """There it may be one of many things in a folder of real images."""
    deep = entries | {"a/b/SYNTHETIC.txt": b"phantoms", "normal/old/SYNTHETIC.txt": b"phantoms"}
    for path in (pack(deep), spread(deep)):
        assert not fetch_delivery(str(path), None, workspace).name.startswith("synthetic-")


def damage(file: Path) -> None:
    """Flip a bit in each of the images in a zip file, as an upload may have: its directory stays sound."""
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            content[entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("is_fetched", [True, False])
def test_a_damaged_delivery_is_removed_if_it_can_be_fetched_again(source_file, workspace, is_fetched):
    damage(source_file)
    delivered = [Delivery("source", source_file, is_fetched=is_fetched)]
    with pytest.raises(ArchiveError, match="damaged") as caught:
        ingest_images(delivered, workspace, 1)
    assert source_file.exists() != is_fetched
    ending = " The fetched file is deleted. Start again to fetch it anew."
    assert str(caught.value).endswith(ending) == is_fetched


def test_a_fetched_delivery_with_other_folders_is_kept(entries, pack, workspace):
    file = pack({name.replace("normal", "sound"): content for name, content in entries.items()})
    with pytest.raises(SourceError, match="empty: normal"):
        ingest_images([Delivery("source", file, is_fetched=True)], workspace, 1)
    assert file.exists()


def test_fetched_files_are_distinguished_from_those_of_users(entries, pack, workspace, monkeypatch):
    workspace.prepare()
    local = fetch_delivery(str(pack(entries)), None, workspace)
    inside = workspace.sources_folder / "mine.zip"
    inside.write_bytes(pack(entries).read_bytes())
    assert not local.is_fetched
    assert not fetch_delivery(str(inside), None, workspace).is_fetched
    monkeypatch.setattr(fetch, "_fetch_from_web", lambda *arguments: pack(entries))
    fetched = [fetch_delivery(f"https://example.org/hip?id={number}", None, workspace) for number in (1, 2)]
    assert all(delivery.is_fetched for delivery in fetched)
    assert len({delivery.name for delivery in fetched}) == 2  # another id is another file
    signed = [fetch_delivery(f"https://example.org/hip?id=1&sig={number}", None, workspace) for number in (1, 2)]
    assert {delivery.name for delivery in signed} == {fetched[0].name}


def test_fault_53_a_refused_delivery_is_identified_by_its_number(entries, pack, workspace):
    sound = Delivery("sound", pack(entries, "a.zip"))
    bad = Delivery("bad", pack(entries | {"patients.csv": b"Smith"}, "Smith.zip"))
    broken = Delivery("broken", pack(entries | {"../Smith.png": b"x"}, "Anna Smith.zip"))
    second = "delivery 2 of 2"
    for act in (
        lambda: check_patient_tables([sound, bad], None),
        lambda: ingest_images([sound, broken], workspace, 1),
    ):
        with pytest.raises(HipMriError, match=second) as caught:
            act()
        assert "Smith" not in str(caught.value)
    with pytest.raises(SourceError, match=r"these entries\.$"):
        ingest_images([broken], workspace, 1)


# What stays


def test_a_later_delivery_adds_to_the_earlier_ones(entries, pack, draw, encode, workspace):
    add(workspace, pack(entries, "first.zip"), keep_earlier=False)
    later = {"normal/n0.png": encode(draw(50)), "normal/copy.png": entries["normal/n0.png"]}  # one class is enough
    report = add(workspace, pack(later, "second.zip"))
    assert report == IngestReport(num_images=12, num_duplicates=1, num_quarantined=0, num_ignored=0, num_taken_over=0)
    assert sorted(find(workspace)["delivery"].unique()) == ["first", "second"]


def test_without_keeping_the_manifest_is_what_is_delivered(entries, pack, workspace):
    add(workspace, pack(entries, "first.zip"), keep_earlier=False)
    add(workspace, pack(dict(list(entries.items())[3:]), "second.zip"), keep_earlier=False)
    assert set(find(workspace)["delivery"]) == {"second"}


def test_nothing_delivered_keeps_all(entries, pack, workspace):
    add(workspace, pack(entries, "first.zip"))
    before = find(workspace)
    assert add(workspace).num_images == len(entries)
    pd.testing.assert_frame_equal(find(workspace), before)


def test_what_leaves_a_folder_stays_and_what_is_corrected_changes(entries, spread, draw, encode, workspace):
    folder = spread(entries, "incoming")
    add(workspace, folder)
    (folder / "normal/n0.png").unlink()  # taken away: its image stays
    (folder / "normal/n1.png").write_bytes(encode(draw(60)))  # replaced: the new content counts
    (folder / "normal/n2.png").rename(folder / "osseous_lesion/n2.png")  # the label was wrong
    add(workspace, folder)
    manifest = find(workspace)
    assert (manifest["state"] == "ready").all()
    assert set(manifest.index) == {*entries, "osseous_lesion/n2.png"} - {"normal/n2.png"}
    assert len(manifest) == len(entries)
    assert manifest.loc["normal/n0.png", "label"] == "normal"


def test_an_unchanged_delivery_is_not_read_again(entries, pack, workspace):
    first, second = pack(entries, "first.zip"), pack(dict(list(entries.items())[:2]), "second.zip")
    add(workspace, first)
    assert add(workspace, first, second).num_taken_over == len(entries)
    assert add(workspace, first, second).num_taken_over == len(entries) + 2


# Identities of earlier deliveries


TABLE = "source_name,patient_id,scanner\nnormal/n0.png,Smith,A\nosseous_lesion/o0.png,Smith,B\n"


def group(workspace: Workspace, *paths):
    delivered = [Delivery(path.stem, path) for path in paths]
    identify_images(delivered, workspace, DataSettings(group_similar=False))
    return group_images(workspace, DataSettings(group_similar=False), num_threads=1)


def test_each_delivery_may_bring_a_table_and_it_is_remembered(entries, pack, draw, encode, workspace):
    first = pack(entries | {"patients.csv": TABLE.encode()}, "first.zip")
    add(workspace, first)
    before = group(workspace, first)
    later = {"normal/x.png": encode(draw(70)), "patients.csv": b"source_name,patient_id\nnormal/x.png,Smith\n"}
    second = pack(later, "second.zip")
    add(workspace, second)
    report = group(workspace, second)  # the first delivery is not there any more
    manifest = find(workspace)
    smith = ["normal/n0.png", "osseous_lesion/o0.png", "normal/x.png"]
    assert manifest.loc[smith, "group"].nunique() == 1
    assert manifest["group"].nunique() == len(manifest) - 2
    assert (before.num_patients, report.num_patients) == (1, 1)
    attributes = pd.read_parquet(workspace.attributes_folder / f"{report.attributes}.parquet")
    scanners = resolve_pseudonyms(attributes["attribute: scanner"], workspace)
    assert dict(scanners.value_counts())["A"] == 1
    for table in (*workspace.identities_folder.glob("*.parquet"), *workspace.attributes_folder.iterdir()):
        assert not {"Smith", "A", "B"} & set(pd.read_parquet(table).to_numpy().ravel())


# What is set aside


def test_what_is_set_aside_stays_out_until_it_is_admitted(entries, pack, draw, encode, workspace):
    first = pack(entries, "first.zip")
    add(workspace, first)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    before = find(workspace)["split"]
    second = pack({f"normal/x{seed}.png": encode(draw(seed)) for seed in (80, 81)}, "second.zip")
    add(workspace, second)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    new = find(workspace).loc[["normal/x80.png", "normal/x81.png"], "sha256"]
    quarantine_images(list(new), workspace)
    add(workspace, first, second)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    manifest = find(workspace)
    assert set(manifest.loc[manifest["state"] == "quarantined", "reason"]) == {"unlike_training"}
    assert set(manifest.index[manifest["state"] == "quarantined"]) == {"normal/x80.png", "normal/x81.png"}
    assert list(pd.read_csv(workspace.quarantine_file)["reason"]) == ["unlike_training"] * 2
    assert manifest["split"].drop(["normal/x80.png", "normal/x81.png"]).equals(before)
    assert lift_quarantine(workspace) == 2
    assert lift_quarantine(workspace) == 0
    add(workspace, first, second)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    assert (find(workspace)["state"] == "ready").all()
    assert find(workspace)["split"].isin(["train", "val", "test"]).all()


def test_fault_14_a_drop_folder_that_never_ends_is_refused_and_not_left_out(tmp_path, workspace):
    drop = tmp_path / "drop"
    deep = drop.joinpath("delivery", *(["d" * 20] * 60))
    deep.mkdir(parents=True)
    (deep / "x.png").write_bytes(b"x")
    (drop / "loop").symlink_to(drop)
    deliveries = fetch_deliveries([str(drop)], workspace)
    assert [delivery.path.name for delivery in deliveries] == ["delivery", "loop"]
    for delivery in deliveries:
        with pytest.raises(SourceError, match="more than 15"), open_source(delivery.path):
            pass
