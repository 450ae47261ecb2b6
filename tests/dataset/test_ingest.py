import hashlib
import random
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_mri.dataset import entries as entries_module
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import IngestReport, ingest_images
from hip_mri.dataset.manifest import ADDED_COLUMNS, read_manifest
from hip_mri.dataset.preprocessing import read_stored_image
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.dataset.table_files import write_table
from hip_mri.errors import SourceError, SplitError, WorkspaceError
from hip_mri.sources.zip_files.archive import Archive
from hip_mri.workspace import Workspace
from tests.images.dicom_files import write_dicom
from tests.images.image_files import decode_gray, encode_image, hash_picture


@pytest.fixture(autouse=True)
def _one_key(monkeypatch) -> None:
    """Pseudonyms of names follow from a random key; here from the same one in every workspace."""
    monkeypatch.setattr("hip_mri.dataset.pseudonyms.read_key", lambda workspace: bytes(32))


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Names of the zip entries that are read, as they are read."""
    names: list[str] = []
    read = Archive.read

    def count(archive, name):
        names.append(name)
        return read(archive, name)

    monkeypatch.setattr(Archive, "read", count)
    return names


@pytest.fixture
def mixed(entries, draw, encode) -> dict[str, bytes]:
    """Usable images and one of everything else."""
    good = entries["normal/n0.png"]
    return {
        **entries,
        "normal/copy.png": good,
        "normal/deeper/copy.png": good,
        "normal/both.png": encode(draw(50)),
        "osseous_lesion/both.png": encode(draw(50)),
        "normal/empty.png": b"",
        "normal/text.png": b"not a picture",
        "osseous_lesion/short.png": good[:-20],
        "osseous_lesion/black.png": encode(np.zeros((9, 9), np.uint8)),
        "osseous_lesion/more.png": encode(draw(51)) + b"and more",
        "normal/.DS_Store": b"litter",
        "readme.txt": b"above",
    }


def ingest(file: Path, workspace: Workspace, **options) -> IngestReport:
    return ingest_images([Delivery("source", file)], workspace, options.pop("num_threads", 1), **options)


def find(workspace: Workspace) -> pd.DataFrame:
    return read_named_manifest(workspace).set_index("source_name")


# What becomes of the entries


def test_every_entry_is_counted_once(mixed, pack, workspace):
    report = ingest(pack(mixed), workspace)
    assert report == IngestReport(num_images=12, num_duplicates=2, num_quarantined=6, num_ignored=2, num_taken_over=0)
    assert report.num_images + report.num_duplicates + report.num_quarantined + report.num_ignored == len(mixed)
    assert Counter(find(workspace)["state"]) == {"ready": 12, "duplicate": 2, "quarantined": 6}


def test_the_quarantine_has_reasons_and_no_names(mixed, pack, workspace):
    ingest(pack(mixed), workspace)
    quarantine = pd.read_csv(workspace.quarantine_file)
    assert list(quarantine.columns) == ["image_id", "reason", "sha256"]
    manifest = find(workspace)
    reasons = {name: reason for name, reason in manifest["reason"].items() if reason}
    assert reasons == {
        "normal/both.png": "contradictory_label",
        "osseous_lesion/both.png": "contradictory_label",
        "normal/empty.png": "empty_file",
        "normal/text.png": "not_an_image",
        "osseous_lesion/short.png": "undecodable",
        "osseous_lesion/black.png": "blank",
    }
    quarantined = manifest[manifest["state"] == "quarantined"].set_index("image_id")
    assert quarantine.set_index("image_id")["reason"].to_dict() == quarantined["reason"].to_dict()
    assert quarantine.set_index("image_id")["sha256"].to_dict() == quarantined["sha256"].to_dict()
    for name in mixed:
        assert Path(name).stem not in workspace.quarantine_file.read_text().replace("empty_file", "")


def test_without_trouble_the_quarantine_is_a_header(source_file, workspace):
    ingest(source_file, workspace)
    assert workspace.quarantine_file.read_text() == "image_id,reason,sha256\n"


def test_images_are_stored_pixel_for_pixel_and_names_never_become_paths(entries, pack, workspace):
    names = ["normal/Müller, Käthe 'x';--.png", "normal/a;b c.png", "osseous_lesion/" + "long" * 40 + ".png"]
    moved = dict(zip(names, entries.values(), strict=False)) | dict(entries)
    ingest(pack(moved), workspace)
    manifest = find(workspace)
    assert set(manifest.index) == set(moved)
    for name, row in manifest[manifest["state"] != "quarantined"].iterrows():
        assert row["sha256"] == hash_picture(moved[name])
        np.testing.assert_array_equal(read_stored_image(row["sha256"], workspace), decode_gray(moved[name]))
        assert row["num_bytes"] == len(moved[name])
    written = {path.name for path in workspace.root.rglob("*")}
    assert not written & {Path(name).name for name in names}


def test_fault_39_the_bytes_decide_and_not_the_ending(entries, draw, encode, pack, workspace):
    png, jpeg, dicom = encode(draw(70)), encode_image(draw(71), "JPEG"), write_dicom(draw(72))
    ingest(pack({**entries, "normal/a.jpg": png, "normal/b.png": jpeg, "osseous_lesion/c": dicom}), workspace)
    manifest = find(workspace)
    for name in ("normal/a.jpg", "normal/b.png", "osseous_lesion/c"):
        assert manifest.loc[name, "state"] == "ready"


def test_refused_files_are_not_stored(mixed, pack, workspace):
    ingest(pack(mixed), workspace)
    manifest = read_manifest(workspace.manifest_file)
    usable = manifest[manifest["reason"].isin(["", "contradictory_label"])]
    stored = {file.name for file in (workspace.root / "images").rglob("*") if file.is_file()}
    assert stored == set(usable["sha256"])


@settings(max_examples=10, deadline=None, database=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=12))
def test_copies_and_contradictions_are_found_by_content(tmp_path_factory, entries, picks):
    """Content 0 is no picture; the others are pictures, which two entries may share."""
    folder = tmp_path_factory.mktemp("copies")
    contents = [b"text", *list(entries.values())[:10]]
    labels = [("osseous_lesion" if is_lesion else "normal", number) for is_lesion, number in picks]
    labels += [("normal", 5), ("normal", 6), ("normal", 7)]  # enough of both classes, whatever is picked
    labels += [("osseous_lesion", 8), ("osseous_lesion", 9), ("osseous_lesion", 10)]
    with zipfile.ZipFile(folder / "source.zip", "w") as archive:
        for place, (label, number) in enumerate(labels):
            archive.writestr(f"{label}/{place:02}.png", contents[number])
    places: dict[int, set[str]] = {}
    for label, number in labels:
        places.setdefault(number, set()).add(label)
    usable = [number for number, found in places.items() if number and len(found) == 1]
    workspace = Workspace(folder / "workspace")
    report = ingest(folder / "source.zip", workspace)
    assert report.num_images == len(usable)
    assert report.num_duplicates == sum(number in usable for _, number in labels) - len(usable)
    assert report.num_quarantined == sum(number not in usable for _, number in labels)
    manifest = read_manifest(workspace.manifest_file)
    assert manifest["image_id"].is_unique
    ready = manifest[manifest["state"] == "ready"]
    assert set(ready["sha256"]) == {hash_picture(contents[number]) for number in usable}
    assert all(ready["image_id"] == ready["sha256"].str[:16])


def test_of_copies_the_first_by_name_is_used_and_the_id_stays(entries, pack, workspace):
    ingest(pack(entries), workspace)
    before = find(workspace)
    ingest(pack({**entries, "normal/a-first.png": entries["normal/n3.png"]}), workspace)
    after = find(workspace)
    assert (after["state"]["normal/a-first.png"], after["state"]["normal/n3.png"]) == ("ready", "duplicate")
    assert after["image_id"]["normal/a-first.png"] == before["image_id"]["normal/n3.png"]
    assert after["image_id"]["normal/n3.png"] == before["image_id"]["normal/n3.png"] + "-2"


def test_a_contradiction_that_is_gone_is_forgotten(entries, pack, workspace):
    contradictory = {**entries, "osseous_lesion/x.png": entries["normal/n0.png"]}
    assert ingest(pack(contradictory), workspace).num_quarantined == 2
    assert ingest(pack(entries), workspace).num_quarantined == 0
    assert find(workspace)["state"]["normal/n0.png"] == "ready"


# What does not matter


def test_order_of_entries_and_number_of_threads_do_not_matter(mixed, pack, tmp_path):
    contents = []
    for seed, num_threads in ((0, 1), (1, 2), (2, 5)):
        names = list(mixed)
        random.Random(seed).shuffle(names)
        workspace = Workspace(tmp_path / str(seed))
        ingest(pack({name: mixed[name] for name in names}), workspace, num_threads=num_threads)
        contents.append((workspace.manifest_file.read_bytes(), workspace.quarantine_file.read_bytes()))
    assert contents[0] == contents[1] == contents[2]


def test_a_folder_gives_the_manifest_of_the_zip_of_it(mixed, pack, spread, tmp_path):
    manifests = []
    for name, file in {"zip": pack(mixed), "folder": spread(mixed)}.items():
        workspace = Workspace(tmp_path / f"workspace-{name}")
        ingest(file, workspace)
        manifests.append(read_manifest(workspace.manifest_file).drop(columns="version"))
    pd.testing.assert_frame_equal(*manifests)


def test_compression_does_not_matter(entries, pack, tmp_path):
    manifests = []
    for name, compression in {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}.items():
        workspace = Workspace(tmp_path / name)
        ingest(pack(entries, compression=compression), workspace)
        manifests.append(workspace.manifest_file.read_bytes())
    assert manifests[0] == manifests[1]


# The second time


def test_the_second_time_nothing_is_read(entries, pack, workspace, reads):
    doubled = {**entries, "normal/copy.png": entries["normal/n0.png"], "osseous_lesion/x.png": entries["normal/n1.png"]}
    first = ingest(pack(doubled), workspace)
    assert sorted(reads) == sorted(doubled)
    before = workspace.manifest_file.read_bytes()
    reads.clear()
    second = ingest(pack(doubled), workspace)
    assert reads == []
    assert second.num_taken_over == len(doubled)
    assert (second.num_images, second.num_duplicates, second.num_quarantined) == (
        first.num_images,
        first.num_duplicates,
        first.num_quarantined,
    )
    assert workspace.manifest_file.read_bytes() == before


def write_study(draw, number: int, time: str) -> bytes:
    tags = {"StudyInstanceUID": "1.2.34567", "AcquisitionDate": "20240229", "AcquisitionTime": time}
    return write_dicom(draw(700 + number), SeriesInstanceUID="1.2.34567.1", InstanceNumber=number, **tags)


def test_only_ranks_of_times_and_hashes_of_studies_are_stored(entries, draw, pack, workspace):
    times = ["101503", "101501", "101502", "101501"]
    files = {f"normal/{number}.dcm": write_study(draw, number, time) for number, time in enumerate(times)}
    ingest(pack(entries | files), workspace)
    found = find(workspace)
    assert list(found.loc[list(files), "acquired"]) == [3, 1, 2, 1]
    assert found.loc[list(entries), "acquired"].isna().all()
    (study,) = set(found.loc[list(files), "study"])
    assert len(study) == 16
    assert "34567" not in study
    later = {"normal/4.dcm": write_study(draw, 4, "090000")}
    ingest(pack(entries | files | later), workspace)
    assert list(find(workspace).loc[[*files, *later], "acquired"]) == [3, 1, 2, 1, 4]


def test_dicom_files_that_an_earlier_version_read_are_read_again_for_their_study(entries, draw, pack, workspace, reads):
    source = pack(entries | {"normal/0.dcm": write_study(draw, 0, "101500")})
    ingest(source, workspace)
    for file in [*workspace.entries_folder.iterdir(), workspace.manifest_file]:
        write_table(file, pd.read_parquet(file).drop(columns=list(ADDED_COLUMNS)))
    assert set(read_manifest(workspace.manifest_file)["study"]) == {""}
    reads.clear()
    ingest(source, workspace)
    assert reads == ["normal/0.dcm"]
    assert find(workspace).loc["normal/0.dcm", ["acquired", "instance_number"]].tolist() == [1, 0]
    ingest(source, workspace)
    assert reads == ["normal/0.dcm"]


def test_a_changed_entry_is_read_again(entries, draw, encode, pack, workspace, reads):
    ingest(pack(entries), workspace)
    reads.clear()
    changed = encode(draw(999))
    report = ingest(pack({**entries, "normal/n2.png": changed}), workspace)
    assert reads == ["normal/n2.png"]
    assert report.num_taken_over == len(entries) - 1
    assert find(workspace)["sha256"]["normal/n2.png"] == hash_picture(changed)


def test_a_new_entry_is_read_and_a_lost_one_forgotten(entries, draw, encode, pack, workspace, reads):
    ingest(pack(entries), workspace)
    reads.clear()
    changed = {name: content for name, content in entries.items() if name != "normal/n0.png"}
    ingest(pack({**changed, "normal/new.png": encode(draw(999))}), workspace)
    assert reads == ["normal/new.png"]
    assert set(find(workspace).index) == changed.keys() | {"normal/new.png"}


def test_a_moved_entry_gets_its_new_label(entries, pack, workspace):
    ingest(pack(entries), workspace)
    moved = {name.replace("normal/n0", "osseous_lesion/n0"): content for name, content in entries.items()}
    ingest(pack(moved), workspace)
    assert find(workspace)["label"]["osseous_lesion/n0.png"] == "osseous_lesion"


def test_a_lost_or_shortened_stored_image_is_restored(entries, source_file, workspace, reads):
    ingest(source_file, workspace)
    reads.clear()
    lost, short = (workspace.image_file(find(workspace)["sha256"][name]) for name in ("normal/n0.png", "normal/n1.png"))
    lost.unlink()
    short.write_bytes(short.read_bytes()[:-1])
    ingest(source_file, workspace)
    assert sorted(reads) == ["normal/n0.png", "normal/n1.png"]
    assert [hash_picture(file.read_bytes()) for file in (lost, short)] == [lost.name, short.name]


def test_a_stored_image_that_is_delivered_again_is_kept_and_a_damaged_one_replaced(entries, pack, workspace):
    """Written again, it would not be on the disk until the end, and no delivery may hold it then."""
    ingest(pack(entries, "first.zip"), workspace)
    sound, damaged = (
        workspace.image_file(find(workspace)["sha256"][name]) for name in entries if "n0" in name or "n1" in name
    )
    damaged.write_bytes(bytes(damaged.stat().st_size))
    before = sound.stat().st_ino, damaged.stat().st_ino
    ingest_images([Delivery("second", pack(entries, "second.zip"))], workspace, num_threads=2)
    assert sound.stat().st_ino == before[0]
    assert damaged.stat().st_ino != before[1]
    assert hash_picture(damaged.read_bytes()) == damaged.name


def test_rejected_files_are_read_again(entries, pack, workspace, reads):
    file = pack({**entries, "normal/text.png": b"text"})
    ingest(file, workspace)
    reads.clear()
    ingest(file, workspace)
    assert reads == ["normal/text.png"]


def test_in_a_folder_only_changed_files_are_read(entries, spread, draw, encode, workspace):
    folder = spread(entries)
    ingest(folder, workspace)
    spread({"normal/n0.png": encode(draw(999))})
    assert ingest(folder, workspace).num_taken_over == len(entries) - 1


def test_progress_grows_to_the_number_of_entries(source_file, entries, workspace):
    steps = []
    ingest(source_file, workspace, on_progress=lambda done, total: steps.append((done, total)))
    assert steps == sorted(steps)
    assert steps[-1] == (len(entries), len(entries))


def test_only_the_owner_may_read_the_names(source_file, workspace):
    ingest(source_file, workspace)
    assert workspace.manifest_file.stat().st_mode & 0o777 == 0o600


# When the source is refused


REFUSED = {
    "web page": "<html>Sign in</html>",
    "third class": {"normal/a.png": b"x", "osseous_lesion/a.png": b"x", "third/a.png": b"x"},
    "one class": {"normal/a.png": b"x"},
    "unsafe path": {"normal/a.png": b"x", "osseous_lesion/a.png": b"x", "../a.png": b"x"},
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("is_fresh", [True, False])
def test_a_refused_source_leaves_the_workspace_alone(kind, is_fresh, source_file, pack, workspace, snapshot):
    if not is_fresh:
        ingest(source_file, workspace)
    before = snapshot(workspace.root)
    content = REFUSED[kind]
    refused = pack(content if isinstance(content, dict) else {}, "refused.zip")
    if isinstance(content, str):
        refused.write_text(content)
    with pytest.raises(SourceError):
        ingest(refused, workspace)
    assert snapshot(workspace.root) == before


def test_a_source_without_a_usable_image_is_refused_with_the_reasons(pack, workspace):
    with pytest.raises(SourceError) as caught:
        ingest(pack({"normal/a.png": b"x", "normal/b.png": b"y", "osseous_lesion/a.png": b""}), workspace)
    message = str(caught.value)
    for part in ("none of the 3 labeled files", "2 not_an_image, 1 empty_file", str(workspace.quarantine_file)):
        assert part in message
    assert "NIfTI" in message, "what helps against the commonest reason"
    assert sorted(pd.read_csv(workspace.quarantine_file)["reason"]) == ["empty_file", "not_an_image", "not_an_image"]


def test_a_source_without_a_usable_image_changes_nothing_but_the_list_of_reasons(
    source_file, pack, workspace, snapshot
):
    ingest(source_file, workspace)
    before = snapshot(workspace.root)
    with pytest.raises(SourceError, match="1 not_an_image, 1 empty_file"):
        ingest(pack({"normal/a.png": b"x", "osseous_lesion/a.png": b""}, "refused.zip"), workspace)
    after = snapshot(workspace.root)
    assert before.pop("quarantine.csv") != after.pop("quarantine.csv")
    assert before == after


def test_too_few_images_of_a_class_are_reported_with_the_reasons(entries, pack, workspace):
    spoilt = {name: content if name.startswith("normal") else b"PK\3\4" for name, content in entries.items()}
    with pytest.raises(SplitError, match=r"osseous_lesion 0\..* 5 nested_archive"):
        ingest(pack(spoilt), workspace)
    assert list(pd.read_csv(workspace.quarantine_file)["reason"]) == ["nested_archive"] * 5


def test_a_source_of_contradictions_alone_leaves_stored_images_and_the_list_of_reasons(entries, pack, workspace):
    picture = entries["normal/n0.png"]
    with pytest.raises(SourceError, match="contradictory_label"):
        ingest(pack({"normal/a.png": picture, "osseous_lesion/a.png": picture}), workspace)
    stored = workspace.image_file(hash_picture(picture))
    files = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert sorted(files) == sorted([stored, workspace.quarantine_file])


def test_an_interrupted_ingest_keeps_the_old_manifest_and_can_continue(entries, pack, draw, encode, workspace):
    ingest(pack(entries), workspace)
    before = workspace.manifest_file.read_bytes()
    more = pack({**entries, "normal/new.png": encode(draw(999))}, "more.zip")

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(more, workspace, on_progress=stop)
    assert workspace.manifest_file.read_bytes() == before
    assert ingest(more, workspace).num_images == len(entries) + 1


# Names


def test_an_entry_that_cannot_be_read_is_quarantined(entries, spread, workspace, monkeypatch):
    folder = spread(entries)
    open_path = Path.open

    def refuse_one(path: Path, *arguments, **options):
        if path.name == "n0.png":
            raise PermissionError(13, "Permission denied")
        return open_path(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse_one)
    assert ingest(folder, workspace).num_quarantined == 1
    assert find(workspace)["reason"]["normal/n0.png"] == "unreadable_file"


def test_an_entry_that_is_too_large_is_not_read(entries, pack, workspace, reads, monkeypatch):
    monkeypatch.setattr(entries_module, "MAX_NUM_BYTES", max(map(len, entries.values())))
    report = ingest(pack({**entries, "normal/large.png": bytes(entries_module.MAX_NUM_BYTES + 1)}), workspace)
    assert (report.num_images, report.num_quarantined) == (len(entries), 1)
    assert sorted(reads) == sorted(entries)
    row = find(workspace).loc["normal/large.png"]
    assert (row["reason"], row["sha256"], row["num_bytes"]) == ("too_large", "", entries_module.MAX_NUM_BYTES + 1)


def test_unread_entries_have_ids_of_their_own_whatever_their_order(entries, pack, tmp_path, monkeypatch):
    monkeypatch.setattr(entries_module, "MAX_NUM_BYTES", max(map(len, entries.values())))
    names = ["normal/x.png", "normal/y.png", "osseous_lesion/x.png"]
    mixed = [*entries.items(), *((name, bytes(entries_module.MAX_NUM_BYTES + 1)) for name in names)]
    manifests = []
    for number, order in enumerate((mixed, mixed[::-1])):
        workspace = Workspace(tmp_path / str(number))
        assert ingest(pack(dict(order)), workspace).num_quarantined == len(names)
        manifests.append(find(workspace))
    pd.testing.assert_frame_equal(*manifests)
    assert manifests[0]["image_id"].is_unique
    assert set(manifests[0].loc[names, "reason"]) == {"too_large"}


def test_the_quarantine_holds_no_hash_of_a_name(entries, pack, workspace):
    file = pack(entries)
    content = bytearray(file.read_bytes())
    place = content.index(b"IDAT")
    content[place : place + 4] = b"XXXX"
    file.write_bytes(content)
    ingest(file, workspace)
    assert "damaged_entry" in workspace.quarantine_file.read_text()
    row = find(workspace).loc["normal/n0.png"]
    assert (row["sha256"], row["num_bytes"]) == ("", len(entries["normal/n0.png"]))
    for name in entries:
        assert not row["image_id"].startswith(hashlib.sha256(name.encode()).hexdigest()[:16])
        assert hashlib.sha256(name.encode()).hexdigest() not in workspace.quarantine_file.read_text()


def test_a_file_name_that_is_not_utf8_does_not_stop_the_ingest(entries, spread, workspace):
    folder = spread(entries)
    (folder / "normal" / b"M\xfcller.png".decode("utf-8", "surrogateescape")).write_bytes(entries["normal/n0.png"])
    report = ingest(folder, workspace)
    assert (report.num_images, report.num_duplicates) == (len(entries), 1)
    assert "normal/M\\udcfcller.png" in find(workspace).index
    assert ingest(folder, workspace).num_taken_over == len(entries) + 1


def test_too_few_images_leave_the_manifest_as_it_was(entries, pack, workspace):
    ingest(pack(entries), workspace)
    before = workspace.manifest_file.read_bytes()
    few = {name: entries[name] for name in ("normal/n0.png", "normal/n1.png", "osseous_lesion/o0.png")}
    with pytest.raises(SplitError, match=r"normal 2, osseous_lesion 1\. .*at least 3"):
        ingest(pack(few), workspace)
    assert workspace.manifest_file.read_bytes() == before


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"foreign"])
@pytest.mark.parametrize("keep_earlier", [False, True])
def test_fault_62_a_partial_or_foreign_manifest_is_refused_and_rebuilt(source_file, workspace, damage, keep_earlier):
    ingest(source_file, workspace)
    whole = workspace.manifest_file.read_bytes()
    workspace.manifest_file.write_bytes(damage(whole))
    with pytest.raises(WorkspaceError, match=r"manifest\.parquet"):
        read_manifest(workspace.manifest_file)
    ingest(source_file, workspace, keep_earlier=keep_earlier)
    assert workspace.manifest_file.read_bytes() == whole


@pytest.mark.parametrize("lose", [lambda file: file.unlink(), lambda file: file.write_bytes(b"PAR1")])
def test_fault_62_a_rebuilt_manifest_lists_the_deliveries_of_the_lost_one(entries, pack, workspace, source_file, lose):
    """Those that were ingested earlier and not removed since."""
    former = Delivery("former", pack(dict(list(entries.items())[1:]), "former.zip"))
    later = Delivery("later", pack(dict(list(entries.items())[::2]), "later.zip"))
    ingest_images([former], workspace, 2)
    ingest(source_file, workspace)
    for _ in range(2):
        ingest_images([later], workspace, 2, keep_earlier=True)
    whole = workspace.manifest_file.read_bytes()
    assert set(read_manifest(workspace.manifest_file)["delivery"]) == {"source", "later"}
    lose(workspace.manifest_file)
    ingest_images([later], workspace, 2, keep_earlier=True)
    assert workspace.manifest_file.read_bytes() == whole


def test_fault_38_an_image_that_no_delivery_holds_any_more_is_reported(entries, pack, workspace, source_file):
    """It cannot come back by itself, and must not vanish from the manifest in silence either."""
    ingest(source_file, workspace)
    later = Delivery("later", pack(dict(list(entries.items())[:2]), "later.zip"))
    ingest_images([later], workspace, 2, keep_earlier=True)
    whole = workspace.manifest_file.read_bytes()
    manifest = read_manifest(workspace.manifest_file)
    sha256 = manifest.loc[manifest["delivery"] == "source", "sha256"].iloc[-1]
    workspace.image_file(sha256).unlink()
    with pytest.raises(WorkspaceError, match=rf"1 images .*: {sha256[:16]}"):
        ingest_images([later], workspace, 2, keep_earlier=True)
    assert workspace.manifest_file.read_bytes() == whole
    ingest_images([Delivery("source", source_file), later], workspace, 2, keep_earlier=True)
    pd.testing.assert_frame_equal(read_manifest(workspace.manifest_file), manifest)
