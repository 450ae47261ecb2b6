"""Corrected labels of ingested images."""

from pathlib import Path

import pandas as pd
import pytest

from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import IngestReport, ingest_images
from hip_mri.dataset.manifest import read_manifest
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.errors import SettingsError
from hip_mri.evaluation.corrections import describe_corrections, summarize_corrections
from hip_mri.grouping.split import split_manifest


@pytest.fixture
def source(entries, draw, encode, pack) -> Path:
    both = encode(draw(50))
    further = {"normal/copy.png": entries["normal/n1.png"], "normal/both.png": both, "osseous_lesion/both.png": both}
    return pack({**entries, **further})


def ingest(source: Path, workspace, table: str | None = None, **options) -> tuple[IngestReport, pd.DataFrame]:
    file = workspace.root.parent / "marks of Anna.csv"
    file.write_text(table or "")
    delivered = [Delivery(source.stem, source)]
    report = ingest_images(delivered, workspace, 1, corrections_file=file if table else None, **options)
    return report, read_named_manifest(workspace).set_index("source_name")


def find_id(manifest: pd.DataFrame, name: str) -> str:
    return manifest.loc[name, "image_id"].partition("-")[0]


def test_corrections_change_labels_and_states_until_they_are_left_out(source, workspace) -> None:
    _, before = ingest(source, workspace)
    table = "image_id,name,label,who\n"
    table += f"{find_id(before, 'normal/n1.png')},,osseous_lesion,Dr Ada\n"
    table += "\n".join(
        [",osseous_lesion/o0.png,exclude,", ",n2.png,unsure,", f"{find_id(before, 'normal/both.png')},,normal,"]
    )

    report, manifest = ingest(source, workspace, table)

    assert (report.num_images, report.num_duplicates, report.num_quarantined) == (11, 2, 1)
    assert report.corrections is not None
    assert report.corrections.num_rows == 4
    assert set(manifest.loc[["normal/n1.png", "normal/copy.png"], "label"]) == {"osseous_lesion"}
    assert tuple(manifest.loc["osseous_lesion/o0.png", ["state", "reason"]]) == ("quarantined", "excluded")
    assert set(manifest.loc[["normal/both.png", "osseous_lesion/both.png"], "label"]) == {"normal"}
    unchanged = before.index.difference(
        ["normal/n1.png", "normal/copy.png", "osseous_lesion/o0.png", "normal/both.png", "osseous_lesion/both.png"]
    )
    pd.testing.assert_frame_equal(manifest.loc[unchanged], before.loc[unchanged])

    files = [workspace.manifest_file, workspace.corrections_file, workspace.quarantine_file]
    written = [file.read_bytes() for file in files]
    ingest(source, workspace, table)
    assert [file.read_bytes() for file in files] == written
    corrected = workspace.corrections_file.read_text()
    assert not [word for word in ("png", "Ada", "Anna") if word in corrected]

    again = workspace.corrections_file.read_text()  # what a run lists has the same effect
    ingest(source, workspace, again)
    assert workspace.manifest_file.read_bytes() == written[0]

    report, after = ingest(source, workspace)
    assert report.corrections is None
    pd.testing.assert_frame_equal(after, before)


def test_later_deliveries_keep_corrections_of_earlier_ones(source, workspace, entries, draw, encode, pack) -> None:
    table = "name,label\nnormal/n1.png,osseous_lesion\nlater/new.png,exclude\n"
    ingest(source, workspace, table.replace("later/new.png", "normal/n2.png"))
    later = pack({"normal/later/new.png": encode(draw(60)), "normal/later/n9.png": encode(draw(61))}, "later.zip")
    _, manifest = ingest(later, workspace, table, keep_earlier=True)
    assert manifest.loc["normal/n1.png", "label"] == "osseous_lesion"
    assert manifest.loc["normal/n2.png", "state"] == "ready"
    assert manifest.loc["normal/later/new.png", "reason"] == "excluded"


def test_a_table_of_another_data_set_leaves_the_manifest_as_it_was(source, workspace) -> None:
    ingest(source, workspace)
    written = workspace.manifest_file.read_bytes()
    with pytest.raises(SettingsError, match=r"id is not known \(line 2\)"):
        ingest(source, workspace, f"image_id,label\n{'0' * 16},normal\n")
    assert workspace.manifest_file.read_bytes() == written


def test_splits_stay_and_changes_are_counted_by_split(filled, source_file) -> None:
    before = read_manifest(filled.manifest_file)
    chosen = before.groupby("split")["image_id"].min()
    label = before.set_index("image_id")["label"]
    other = {"normal": "osseous_lesion", "osseous_lesion": "normal"}
    tested = before[(before["split"] == "test")]["image_id"].max()
    lines = [f"{chosen['train']},{other[label[chosen['train']]]}", f"{tested},exclude", f"{chosen['val']},unsure"]
    _, _ = ingest(source_file, filled, "image_id,label\n" + "\n".join(lines) + "\n")
    ready = read_manifest(filled.manifest_file).query("state == 'ready'")
    assert set(before["image_id"]) - set(ready["image_id"]) == {tested}

    summary = summarize_corrections(describe_corrections(filled))

    assert (summary["num_images"], summary["num_unsure"], summary["num_unchanged"]) == (3, 1, 0)
    assert summary["changes"] == {"train": {other[label[chosen["train"]]]: 1}, "test": {"exclude": 1}}
    ingest(source_file, filled)
    split_manifest(filled, val_fraction=0.2, test_fraction=0.2, seed=9)
    columns = ["image_id", "split", "group", "label"]
    pd.testing.assert_frame_equal(read_manifest(filled.manifest_file)[columns], before[columns])
