import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hip_mri.errors import EvaluationError, WorkspaceError
from hip_mri.evaluation.charts.captions import SYNTHETIC_NOTICE, collect_notices, find_caption, summarize_notices
from hip_mri.evaluation.report.html_report import MOST_MARKDOWN_BYTES, compose_markdown, write_report
from hip_mri.evaluation.report.summary import (
    WITHHELD,
    ReportSummary,
    compose_answer,
    disclose,
    list_limits,
    name_weights,
    tabulate_evidence,
)

HOSTILE = "<script>alert('x')</script>|*_`[a](http://evil.example)"
VOID_TAGS = {"meta", "br", "img", "rect"}


class Page(HTMLParser):
    """Reads a page, sees that its tags close in order, and gathers what a test asks about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if "style" not in self.open:
            self.text += data


def render(summary, folder: Path) -> tuple[str, Page]:
    write_report(folder / "report.html", summary)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def rendered(summary, tmp_path_factory) -> tuple[str, Page]:
    return render(summary, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def markdown(summary) -> str:
    return compose_markdown(summary)


def change(summary: ReportSummary, **metrics) -> ReportSummary:
    return replace(summary, metrics={**summary.metrics, **metrics})


def test_report_has_its_chapters_in_order(rendered):
    _, page = rendered
    assert page.headings == [
        "Osseous lesions on hip MRI",
        "Result on the test images",
        "What not to conclude",
        "The numbers",
        "Does anything leak?",
        "The pictures, and how to read them",
        "Data accounting",
        "How it was run",
    ]


def test_report_gives_the_numbers(summary, rendered):
    _, page = rendered
    text = " ".join(page.text.split())
    for split in ("test", "val", "train"):
        measured = summary.metrics[split] | summary.metrics[split]["at_threshold"]
        for name in ("auc", "sensitivity", "specificity", "accuracy", "average_precision", "brier", "mcc"):
            assert f"{measured[name]:.3f}" in text
    assert compose_answer(summary) in text
    for words in (
        "210 images: 140 training, 30 validation, 40 test.",
        "All entries230",
        "not an image: 3",
        "6 min 53 s",
    ):
        assert words in text
    (tn, fp), (fn, tp) = summary.metrics["test"]["at_threshold"]["confusion_matrix"]
    assert f"{tp} of {tp + fn} lesions found" in text
    assert f"{tn} of {tn + fp} normal images recognised" in text


def test_report_needs_nothing_from_outside(summary, tmp_path):
    text, page = render(summary, tmp_path)
    assert not re.search(r"https?://|url\(|@import", text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    values = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    beside = {"metrics.json", "predictions.csv", "manifest.csv", "neighbours.csv", "folds.csv"}
    assert {value for value in values if not value.startswith("data:")} == {*beside, "model_card.md", "checklist.md"}
    links = [value for value in values if value.startswith("data:")]
    assert len(links) == len(summary.figures) == 7
    assert all(link and link.startswith("data:image/png;base64,") for link in links)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_report_can_be_read_aloud(rendered):
    _, page = rendered
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table")
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert ("html", {"lang": "en"}) in page.tags


def test_notices_come_first_and_only_when_there_are_any(summary, rendered, tmp_path):
    text, page = rendered
    for notice in summary.metrics["notices"]:
        assert notice in " ".join(page.text.split())
    assert text.index('class="alert"') < text.index("<h1>")
    clean, _ = render(change(summary, notices=[], weights="imagenet"), tmp_path)
    assert 'class="alert"' not in clean
    assert "SYNTHETIC" not in clean.upper().split("</STYLE>")[1]
    assert "⚠" not in compose_markdown(replace(change(summary, notices=[]), figures=()))


def test_values_are_escaped(summary, tmp_path):
    data = summary.metrics["data"] | {"quarantined": {HOSTILE: 1}}
    features = {"engine": HOSTILE, "precision": HOSTILE, "reason": HOSTILE}
    subgroup = {"column": HOSTILE, "value": HOSTILE, "num_images": 3, "num_lesions": 1, "num_groups": 2}
    undefined = {"auc": None, "sensitivity": None, "specificity": None}
    hostile = replace(
        change(
            summary,
            notices=[HOSTILE],
            created=HOSTILE,
            data=data,
            features=features,
            versions={HOSTILE: HOSTILE},
            seconds={HOSTILE: 1.0},
            subgroups=[{**subgroup, **undefined, "intervals": undefined}],
        ),
        title=HOSTILE,
        run_name=HOSTILE,
        settings={HOSTILE: "x", "model.weights": "<b>"},
        figures=(),
    )
    text, page = render(hostile, tmp_path)
    assert "<script" not in text
    assert "<b>" not in text
    assert not [tag for tag, _ in page.tags if tag in ("script", "b")]
    markdown = compose_markdown(hostile)
    assert "<script" not in markdown
    assert not re.search(r"(?<!\\)\]\(http", markdown)
    assert r"\|\*\_\`\[a\]" in markdown


def test_names_and_places_are_withheld(summary, rendered, markdown):
    text, _ = rendered
    for secret in ("Smith", "/srv", "/home", str(summary.figures[0].parent)):
        assert secret not in text
        assert secret not in markdown
    assert text.count(WITHHELD) == 3


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("training.epochs", 30, "30"),
        ("source", None, "none"),
        ("source", "smith.zip", WITHHELD),
        ("model.weights", "imagenet", "imagenet"),
        ("model.weights", Path("/home/x/w.h5"), WITHHELD),
        ("model.weights", "~/w.h5", WITHHELD),
        ("model.weights", r"C:\Users\x\w.h5", WITHHELD),
        ("other", "s3://bucket/smith.zip", WITHHELD),
    ],
)
def test_settings_are_disclosed_with_care(name, value, shown):
    assert disclose(name, value) == shown


def test_markdown_is_short_and_leads_with_the_notices(summary, markdown):
    assert len(markdown.encode()) <= MOST_MARKDOWN_BYTES
    assert all(len(uri) <= 80_000 + 30 for uri in re.findall(r"\((data:[^)]*)\)", markdown))
    lines = [line for line in re.sub(r"base64,[^)]*", "…", markdown).splitlines() if line]
    assert lines[0] == "# Osseous lesions on hip MRI, run 0001"
    assert lines[1] == f"> **⚠ {SYNTHETIC_NOTICE}**"
    assert lines[3] == compose_answer(summary)
    assert lines[4] == "| Metric | Test | Validation | Training | 95% interval (test) |"
    auc = [f"{summary.metrics[split]['auc']:.3f}" for split in ("test", "val", "train")]
    assert lines[6].startswith(f"| AUC | {' | '.join(auc)} | ")
    assert sum(line.startswith("![") for line in lines) == 7
    assert "`runs/0001/report.html`" in lines[-1]


def test_tables_in_markdown_have_as_many_cells_in_every_row(markdown):
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert [len(block.splitlines()) for block in blocks] == [17, 4]
    for block in blocks:
        assert len({line.rstrip().count("|") for line in block.splitlines()}) == 1


def test_markdown_stays_short_with_many_pictures(summary):
    many = replace(summary, figures=summary.figures[:1] * 14)
    assert len(compose_markdown(many).encode()) <= MOST_MARKDOWN_BYTES


def test_figures_that_are_not_defined_are_no_obstacle(summary, tmp_path):
    test = summary.metrics["test"]
    empty = dict.fromkeys(test["intervals"]["at_threshold"]) | {
        "at_prevalences": [{"prevalence": 0.01, "ppv": None, "npv": None}]
    }
    intervals = dict.fromkeys(test["intervals"]) | {"at_threshold": empty, "at_half": empty}
    calls = test["at_threshold"] | {"ppv": None, "mcc": None}
    calls["at_prevalences"] = [{"prevalence": 0.01, "ppv": None, "npv": None}]
    poor = change(
        summary,
        test=test | {"intervals": intervals, "calibration_slope": None, "at_threshold": calls},
        patients=None,
        cross_validation=None,
    )
    text, _ = render(poor, tmp_path)
    assert "too few groups for an interval" in text
    assert "not available" in compose_markdown(replace(poor, figures=()))


def test_missing_parts_are_named(summary, tmp_path):
    with pytest.raises(EvaluationError, match="no metrics of the test images"):
        write_report(tmp_path / "report.html", replace(summary, metrics={}))
    with pytest.raises(WorkspaceError, match=r"gone\.png cannot be read"):
        write_report(tmp_path / "report.html", replace(summary, figures=(tmp_path / "gone.png",)))
    with pytest.raises(EvaluationError, match="500,000 are allowed"):
        compose_markdown(replace(change(summary, notices=["LONG: " + "x" * 300_000]), figures=()))
    assert not list(tmp_path.iterdir())


def test_limits_speak_of_the_split(summary):
    headings = [heading for heading, _ in list_limits(summary)]
    assert headings[:2] == ["Synthetic data", "Random weights"]
    assert "Groups inferred from image similarity, not patient-level" in headings
    known = summary.metrics["grouping"] | {"is_patient_level": True}
    headings = [heading for heading, _ in list_limits(change(summary, grouping=known))]
    assert "Patient-level split, as far as the given identities are right" in headings


def test_notices_are_collected_and_shortened():
    assert collect_notices(is_synthetic=False, weights_notice="") == ()
    notices = collect_notices(is_synthetic=True, weights_notice="RANDOM WEIGHTS: as asked.")
    assert summarize_notices(notices) == "SYNTHETIC DATA · RANDOM WEIGHTS"


def test_names_for_readers():
    assert name_weights("imagenet") == "pretrained on ImageNet"
    assert name_weights("ab" * 32) == "from a file with SHA-256 abababababab…"
    assert find_caption("attention_maps").title == "Attention maps"


def test_a_given_split_and_a_constant_patient_are_limits(summary):
    given = {"by": "folders", "num_held_out": {"train": 7}, "num_divided_groups": 5, "num_given_twice": 0}
    data = summary.metrics["data"] | {"num_prescribed": 210, "given_split": given}
    grouping = summary.metrics["grouping"] | {"has_constant_patient": True}
    limits = dict(list_limits(change(summary, data=data, grouping=grouping)))
    assert "training 7 (5 groups" in limits["Split given by the source"]
    assert "One patient ID in all files" in limits
    assert not {"Split given by the source", "One patient ID in all files"} & set(dict(list_limits(summary)))
    assert ("Images whose split the source gives", "210 (by folders); held out: training 7") in tabulate_evidence(
        change(summary, data=data).metrics
    )
