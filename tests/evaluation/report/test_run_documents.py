"""Model card and checklists: golden texts, and that nothing in them is invented."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hip_mri.evaluation.report.checklist import (
    GUIDELINES,
    compose_checklist,
    fill_guideline,
    read_guideline,
    write_checklist,
)
from hip_mri.evaluation.report.model_card import compose_model_card, tabulate_measures, write_model_card
from hip_mri.evaluation.report.record import RunRecord, list_files
from hip_mri.evaluation.report.statements import make_statements
from hip_mri.evaluation.report.templates import format_measure, format_percent, format_seconds
from tests.evaluation.report.records import METRICS, RECORD, SETTINGS

GOLDEN = Path(__file__).parent / "golden"
EMPTY = RunRecord({}, {})
COMPOSE = {"model_card.md": compose_model_card, "checklist.md": compose_checklist}

TRIPOD_LETTERS = {"3": "abc", "5": "ab", "6": "abc", "8": "abc", "9": "abc", "12": "abcdefg", "18": "abcdef"} | {
    "20": "abc",
    "23": "ab",
    "27": "abc",
}


@pytest.mark.parametrize("name", COMPOSE)
def test_document_is_the_golden_one(name):
    assert COMPOSE[name](RECORD) == (GOLDEN / name).read_text(encoding="utf-8")


def test_checklists_have_every_item_once_and_in_order():
    claim, tripod = (read_guideline(name) for name in GUIDELINES)
    assert [item.number for item in claim.items] == [str(number) for number in range(1, 45)]
    assert [item.number for item in tripod.items] == [
        f"{number}{letter}" for number in range(1, 28) for letter in TRIPOD_LETTERS.get(str(number), [""])
    ]


def test_every_answer_is_a_statement_and_every_statement_is_used():
    named = {item.answer for name in GUIDELINES for item in read_guideline(name).items if item.answer}
    statements = make_statements(RECORD)
    assert named == set(statements)
    assert all(item.answer for name in GUIDELINES for item in read_guideline(name).items if item.left)


def test_states_follow_from_what_is_known():
    rows = {row.item.number: row for row in fill_guideline(read_guideline("claim_2024"), RECORD)}
    assert (rows["20"].state, rows["20"].link) == ("filled", "metrics.json")
    assert (rows["35"].state, rows["35"].link) == ("partly filled", "")  # the run has no flow diagram
    assert (rows["13"].state, rows["13"].statement) == ("to be written by the authors", None)


def test_without_records_nothing_is_claimed():
    card = compose_model_card(EMPTY)
    results = card[card.index("## Results") : card.index("## Limits")]
    cells = [
        cell.strip() for row in re.findall(r"^\|(.*)\|$", results, re.MULTILINE)[2:] for cell in row.split("|")[1:]
    ]
    assert set(cells) == {"not available"}
    assert "It is not known that no patient has images in both" in card
    states = [row.state for row in fill_guideline(read_guideline("claim_2024"), EMPTY) if row.item.answer == "ranking"]
    assert states == ["to be written by the authors"]
    assert not re.search(r"\d\.\d\d", card)


def test_grouping_that_is_not_by_patient_is_not_called_so():
    grouping = METRICS["grouping"] | {"is_patient_level": False}
    record = replace(RECORD, metrics=METRICS | {"grouping": grouping})
    assert "that a group is a patient is not known" in make_statements(record)["disjointness"].text
    assert "not known that no patient has images in both" in compose_model_card(record)
    assert "disjointness" not in make_statements(replace(record, metrics={}))


@pytest.mark.parametrize("compose", COMPOSE.values())
def test_names_and_places_are_withheld_and_markup_is_escaped(compose):
    hostile = "<script>|[a](http://evil.example)"
    record = RunRecord(
        METRICS | {"versions": {hostile: hostile}, "notices": [hostile]}, SETTINGS | {hostile: hostile}, RECORD.files
    )
    text = compose(record)
    for secret in ("Smith", "/srv", "/home"):
        assert secret not in text
    assert "<script" not in text
    assert not re.search(r"(?<!\\)\]\(http", text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize("compose", COMPOSE.values())
def test_links_lead_to_files_of_the_run(compose):
    assert set(re.findall(r"(?<!\\)\]\(([^)]*)\)", compose(RECORD))) <= RECORD.files
    assert "](" not in compose(replace(RECORD, files=frozenset()))


def test_fine_tuning_and_early_stopping_are_told():
    tuned = SETTINGS | {
        "training.early_stopping_patience": 5,
        "training.fine_tune.epochs": 10,
        "training.fine_tune.from_block": "conv5",
        "training.fine_tune.learning_rate": 1e-5,
        "training.class_weight": "balanced",
    }
    statements = make_statements(replace(RECORD, settings=tuned))
    assert "Then fine-tuning from conv5 on: learning rate 1e-05, at most 10 epochs." in statements["training"].text
    assert statements["selection"].text == (
        "Head: weights of the epoch with the lowest validation loss. "
        "Fine-tuning: weights of the epoch with the lowest validation loss."
    )
    assert statements["imbalance"].text == "The loss of each class was weighted by its rarity."


def test_measures_are_given_with_intervals_where_there_are_any():
    rows = dict(tabulate_measures(RECORD))
    assert rows["AUC"] == ["0.873 (0.812 to 0.921)", "0.860"]
    assert rows["Sensitivity at the threshold"] == ["0.900 (0.831 to 0.943)", "not available"]
    assert rows["Calibration intercept"] == ["not available", "not available"]


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (0.5, None, "0.500"),
        (0.5, [0.4, 0.6], "0.500 (0.400 to 0.600)"),
        (0.5, [None, 0.6], "0.500"),
        (None, [0.4, 0.6], "not available"),
        (float("nan"), None, "not available"),
        (True, None, "not available"),
    ],
)
def test_measures_are_written_in_one_way(value, interval, text):
    assert format_measure(value, interval) == text


def test_shares_and_durations_are_written_in_one_way():
    assert format_percent(0.8644) == "86.4%"
    assert [format_seconds(seconds) for seconds in (0.44, 12, 185, 7620)] == [
        "0.4 s",
        "12 s",
        "3 min 05 s",
        "2 h 07 min",
    ]


def test_documents_are_written_beside_the_files_that_they_link_to(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "explanations.png").write_bytes(b"")
    record = replace(RECORD, files=list_files(tmp_path))
    write_model_card(tmp_path / "model_card.md", record)
    write_checklist(tmp_path / "checklist.md", record)
    assert "- [figures/explanations.png](figures/explanations.png)" in (tmp_path / "model_card.md").read_text("utf-8")
    assert "([figures/explanations.png](figures/explanations.png))" in (tmp_path / "checklist.md").read_text("utf-8")


GIVEN = {
    "by": "folders",
    "num_given_twice": 4,
    "num_images": {"train": 1_700, "val": 395, "test": 400},
    "num_held_out": {"train": 100, "val": 5},
    "num_divided_groups": 61,
    "num_drawn": {},
}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (GIVEN, ("the folders of the source", "training 1,700", "training 100, validation 5", "61 groups", "4 images")),
        (GIVEN | {"by": "folders and table"}, ("the folders of the source and the table of patients give",)),
        (GIVEN | {"by": "table", "num_drawn": {"val": 12}}, ("the table of patients prescribes", "validation 12")),
        (GIVEN | {"num_held_out": {}, "num_divided_groups": 0}, ("No group of related images stood in more than one",)),
        ({}, ("the table of patients prescribes",)),
    ],
)
def test_the_card_says_that_the_split_was_given_and_what_was_held_out(given, told):
    data = METRICS["data"] | {"num_prescribed": 2_495, "num_kept": 0, "given_split": given}
    card = compose_model_card(replace(RECORD, metrics=METRICS | {"data": data}))
    partitions = card.partition("## Split and grouping")[2].partition("## Training")[0]
    assert all(words in partitions for words in told), partitions
    assert "The split was given: 2,495 images" in partitions
    drawn_at_random = "divided at random" in partitions
    assert drawn_at_random == bool(given.get("num_drawn"))


def test_the_card_says_that_a_given_split_was_ignored():
    card = compose_model_card(replace(RECORD, settings=SETTINGS | {"data.given_split": "ignore"}))
    assert "A split that the source may give was ignored, as asked." in card
