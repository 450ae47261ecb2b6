"""Model card and checklists: golden documents, and sentences that follow from settings and records."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_mri.config import PipelineConfig, RetrainConfig
from hip_mri.evaluation.report.documents import (
    CHECKLISTS,
    fill_checklist,
    render_checklists,
    render_model_card,
    write_documents,
)
from hip_mri.evaluation.report.run_report import RunReport, read_yaml
from hip_mri.evaluation.report.settings import WITHHELD, disclose
from hip_mri.evaluation.report.templates import format_measure, format_percent, format_seconds
from tests.evaluation.report.records import CONFIG, METRICS, RUN

GOLDEN = Path(__file__).parent / "golden"
EMPTY = RunReport({}, {})
RENDER = {"model_card.md": render_model_card, "checklist.md": render_checklists}
MISSING = "Not available."

TRIPOD_LETTERS = {"3": "abc", "5": "ab", "6": "abc", "8": "abc", "9": "abc", "12": "abcdefg", "18": "abcdef"} | {
    "20": "abc",
    "23": "ab",
    "27": "abc",
}


def change_data(**data: Any) -> RunReport:
    return replace(RUN, metrics=METRICS | {"data": METRICS["data"] | data})


@pytest.mark.parametrize("name", RENDER)
def test_document_is_the_golden_one(name):
    assert RENDER[name](RUN) == (GOLDEN / name).read_text(encoding="utf-8")


def test_checklists_have_every_item_once_and_in_order():
    claim, tripod = ([row.number for row in fill_checklist(name, RUN)] for name in CHECKLISTS)
    assert claim == [str(number) for number in range(1, 45)]
    assert tripod == [
        f"{number}{letter}" for number in range(1, 28) for letter in TRIPOD_LETTERS.get(str(number), [""])
    ]


def test_every_item_with_an_answer_is_answered_by_a_complete_run():
    for name in CHECKLISTS:
        items = {number: item for section in read_yaml(name)["sections"].values() for number, item in section.items()}
        rows = {row.number: row for row in fill_checklist(name, RUN)}
        assert all((rows[number].answer != "") == isinstance(item, Mapping) for number, item in items.items())


def test_every_statement_finds_its_values(metrics):
    run = RunReport(metrics, CONFIG)
    assert [name for name in read_yaml("statements.yaml") if run.say(name) == MISSING] == []


def test_a_leak_is_named_wherever_it_matters():
    leakage = METRICS["leakage"] | {"leaks": True}
    leaking = replace(RUN, metrics=METRICS | {"leakage": leakage})
    for name in ("result", "leakage", "folds"):
        assert "data leak" in leaking.say(name)
        assert "data leak" not in RUN.say(name)
    unknown = replace(RUN, metrics=METRICS | {"leakage": leakage | {"leaks": None, "strongest": None}})
    assert "not possible" in unknown.say("leakage")


def test_states_follow_from_the_records():
    rows = {row.number: row for row in fill_checklist("claim_2024.yaml", RUN)}
    assert (rows["20"].state, rows["20"].link) == ("filled", "metrics.json")
    assert (rows["35"].state, rows["35"].link) == ("partly filled", "")  # the run has no flow diagram
    assert (rows["13"].state, rows["13"].answer) == ("to be written by the authors", "")


def test_without_records_nothing_is_claimed():
    card = render_model_card(EMPTY)
    results = card[card.index("## Results") : card.index("## Limits")]
    rows = re.findall(r"^\|(.*)\|$", results, re.MULTILINE)[2:]
    assert {cell.strip() for row in rows for cell in row.split("|")[1:]} == {"not available"}
    assert len(rows) == 17
    assert not re.search(r"\d\.\d\d", card)
    states = {row.number: row.state for row in fill_checklist("claim_2024.yaml", EMPTY)}
    assert states["37"] == "to be written by the authors"


def test_grouping_that_is_not_by_patient_is_not_called_so():
    run = replace(RUN, metrics=METRICS | {"grouping": METRICS["grouping"] | {"is_patient_level": False}})
    assert "whether a group is a patient is not known" in run.say("disjointness")
    assert "Whether a patient has images in both training and test is not known." in render_model_card(run)
    assert replace(RUN, metrics={}).say("disjointness") == MISSING


@pytest.mark.parametrize("render", RENDER.values())
def test_private_values_are_withheld_and_markup_is_escaped(render):
    hostile = "<script>|[a](http://evil.example)"
    metrics = METRICS | {"versions": {hostile: hostile}, "notices": [hostile]}
    text = render(RunReport(metrics, CONFIG | {hostile: hostile}, files=RUN.files))
    for secret in ("Smith", "/srv", "/home"):
        assert secret not in text
    assert "<script" not in text
    assert not re.search(r"(?<!\\)\]\(http", text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize("render", RENDER.values())
def test_links_lead_to_files_of_the_run(render):
    assert set(re.findall(r"(?<!\\)\]\(([^)]*)\)", render(RUN))) <= RUN.files
    assert "](" not in render(replace(RUN, files=frozenset()))


BOTH = st.sampled_from([0, 5])


@settings(max_examples=40, deadline=None, database=None)
@given(
    st.fixed_dictionaries(
        {
            "preprocessing": st.fixed_dictionaries({"clahe_clip_limit": st.sampled_from([0.0, 3.5])}),
            "training": st.fixed_dictionaries(
                {
                    "early_stopping_patience": BOTH,
                    "horizontal_flip": st.booleans(),
                    "class_weight": st.sampled_from(["none", "balanced"]),
                    "fine_tune": st.fixed_dictionaries({"epochs": BOTH, "early_stopping_patience": BOTH}),
                }
            ),
            "evaluation": st.fixed_dictionaries({"threshold_rule": st.sampled_from(["youden", "sensitivity"])}),
        }
    ),
    st.sampled_from([PipelineConfig, RetrainConfig]),
)
def test_sentences_follow_from_the_settings(changed, kind):
    config = kind.model_validate(changed)
    run = replace(RUN, config=config.model_dump(mode="json"))
    training, fine_tune = config.training, config.training.fine_tune
    assert ("CLAHE" in run.say("preprocessing")) == (config.preprocessing.clahe_clip_limit > 0)
    head, _, tuning = run.say("selection").partition("Fine-tuning:")
    assert ("lowest validation loss" in head, "last epoch" in head) == (
        training.early_stopping_patience > 0,
        training.early_stopping_patience == 0,
    )
    assert (tuning != "", "fine-tuning" in run.say("training")) == (fine_tune.epochs > 0, fine_tune.epochs > 0)
    assert ("lowest validation loss" in tuning) == (fine_tune.epochs > 0 and fine_tune.early_stopping_patience > 0)
    assert ("last epoch" in tuning) == (fine_tune.epochs > 0 and fine_tune.early_stopping_patience == 0)
    assert f"flips: {'yes' if training.horizontal_flip else 'no'}" in run.say("training")
    assert ("not weighted" in run.say("imbalance")) == (training.class_weight == "none")
    assert ("sensitivity of at least 0.9" in run.say("output")) == (config.evaluation.threshold_rule == "sensitivity")
    assert ("one source" in render_model_card(run)) == (kind is PipelineConfig)


def test_recalibration_follows_from_the_records():
    fitted = {"slope": 0.8, "intercept": 0.1, "test": {"brier": 0.1}, "reason": None}
    texts = [
        replace(RUN, metrics=METRICS | {"recalibration": recalibration}).say("recalibration")
        for recalibration in (None, fitted | {"test": None}, fitted)
    ]
    assert ["not recalibrated" in texts[0], "could not" in texts[1], "Platt scaling" in texts[2]] == [True] * 3


GIVEN = {
    "by": "folders",
    "num_given_twice": 4,
    "num_images": {"train": 1_700, "val": 395, "test": 400},
    "num_held_out": {"train": 100, "val": 5},
    "num_divided_groups": 61,
    "num_drawn": {},
}


@pytest.mark.parametrize(
    ("given_split", "texts"),
    [
        (GIVEN, ("the folders of the source", "training 1,700", "training 100, validation 5", "61 groups", "4 images")),
        (GIVEN | {"by": "folders and table"}, ("the folders of the source and the table of patients",)),
        (GIVEN | {"by": "table", "num_drawn": {"val": 12}}, ("by the table of patients", "validation 12")),
        (GIVEN | {"num_held_out": {}, "num_divided_groups": 0}, ("No group of related images was in more than one",)),
    ],
)
def test_a_given_split_and_what_was_held_out_are_reported(given_split, texts):
    run = change_data(num_prescribed=2_495, num_assigned=0, given_split=given_split)
    sentence = run.say("split")
    assert sentence.startswith("2,495 images have a split given by")
    assert all(text in sentence for text in texts), sentence
    assert "at random" not in sentence
    assert sentence in render_model_card(run)


@pytest.mark.parametrize(("num_kept", "num_assigned"), [(0, 2390), (2000, 390), (2390, 0)])
def test_random_assignment_is_reported_if_there_was_any(num_kept, num_assigned):
    """Images can both have an earlier split and a given one; both counts can exceed the number of images."""
    given_split = GIVEN | {"num_held_out": {}}
    for num_prescribed in (0, num_kept):
        run = change_data(
            num_kept=num_kept, num_prescribed=num_prescribed, num_assigned=num_assigned, given_split=given_split
        )
        assert (f"{num_assigned:,} images were assigned by patient" in run.say("split")) == (num_assigned > 0)
        assert (f"{num_kept:,} images kept" in run.say("split")) == (num_kept > 0)


def test_an_ignored_split_is_reported():
    config = CONFIG | {"data": CONFIG["data"] | {"given_split": "ignore"}}
    assert "ignore a split given by the source" in render_model_card(replace(RUN, config=config))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("training.epochs", 30, "30"),
        ("source", None, "none"),
        ("source", "smith.zip", WITHHELD),
        ("sources", ["smith.zip"], WITHHELD),
        ("data.patient_pattern", "(smith)", WITHHELD),
        ("model.weights", "imagenet", "imagenet"),
        ("model.weights", "/home/smith/w.h5", WITHHELD),
        ("model.weights", "C:\\smith\\w.h5", WITHHELD),
        ("model.weights", "~/w.h5", WITHHELD),
        ("anything", "https://host/x", WITHHELD),
    ],
)
def test_values_that_can_identify_a_person_are_withheld(name, value, text):
    assert disclose(name, value) == text


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
def test_measures_have_one_format(value, interval, text):
    assert format_measure(value, interval) == text


def test_fractions_and_durations_have_one_format():
    assert format_percent(0.8644) == "86.4%"
    assert [format_seconds(seconds) for seconds in (0.44, 12, 185, 7620)] == [
        "0.4 s",
        "12 s",
        "3 min 05 s",
        "2 h 07 min",
    ]


def test_documents_link_to_the_files_beside_them(run, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "explanations.png").write_bytes(b"")
    write_documents(tmp_path, replace(run, figures=()))
    assert {file.name for file in tmp_path.iterdir()} == {"figures", "report.html", "model_card.md", "checklist.md"}
    assert "- [figures/explanations.png](figures/explanations.png)" in (tmp_path / "model_card.md").read_text("utf-8")
    assert "([figures/explanations.png](figures/explanations.png))" in (tmp_path / "checklist.md").read_text("utf-8")
