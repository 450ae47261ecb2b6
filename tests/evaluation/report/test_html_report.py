import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hip_mri.errors import EvaluationError, WorkspaceError
from hip_mri.evaluation.charts.captions import SYNTHETIC_NOTICE, collect_notices, explain_pretraining, summarize_notices
from hip_mri.evaluation.report.documents import MAX_MARKDOWN_BYTES, render_markdown, render_report
from hip_mri.evaluation.report.run_report import RunReport
from hip_mri.evaluation.report.settings import WITHHELD

HOSTILE = "<script>alert('x')</script>|*_`[a](http://evil.example)"
VOID_TAGS = {"meta", "br", "img", "rect"}


class Page(HTMLParser):
    """Parses a page, checks that its tags are closed in order, and collects tags, headings and text."""

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


def render(run: RunReport) -> tuple[str, Page]:
    text = render_report(run)
    return text, Page(text)


@pytest.fixture(scope="module")
def rendered(run) -> tuple[str, Page]:
    return render(run)


@pytest.fixture(scope="module")
def markdown(run) -> str:
    return render_markdown(run)


def change(run: RunReport, **metrics) -> RunReport:
    return replace(run, metrics={**run.metrics, **metrics})


def test_report_has_its_sections_in_order(rendered):
    _, page = rendered
    assert page.headings == [
        "Hip MRI: normal or osseous lesion",
        "Result on the test images",
        "Limits",
        "Metrics",
        "Normal, lesion or uncertain",
        "Largest errors",
        "Leakage",
        "Shortcut test",
        "Suspected labels",
        "AUC by number of training groups",
        "Figures",
        "Data",
        "Settings and software",
    ]


def test_small_subgroups_are_named_as_left_out(run):
    measured = {"column": "scanner", "value": "A", "num_images": 30, "num_lesions": 12, "num_groups": 25}
    values = {"auc": 0.912, "sensitivity": 0.8, "specificity": 0.7}
    small = measured | {"value": "B", "num_groups": 7} | dict.fromkeys(values)
    none = {"intervals": dict.fromkeys(values)}
    subgroups = [measured | values | none, small | none]
    config = run.config | {"evaluation": run.config["evaluation"] | {"min_subgroup_size": 10}}
    metrics = run.metrics | {"subgroups": subgroups, "uniform_attributes": ["sex"]}
    page = render_report(replace(run, metrics=metrics, config=config, figures=()))
    assert "scanner: A</th>" in page
    assert "scanner: B</th>" not in page
    assert "fewer than 10 groups with a lesion or without: scanner B (7 groups)." in page
    assert "fewer than two values have at least 10 groups: sex." in page


def test_the_errors_are_listed_beside_their_neighbors(run, rendered):
    _, page = rendered
    errors = run.metrics["worst_errors"]
    assert errors
    for error in errors:
        assert error["image_id"] in page.text
        assert error["neighbour_id"] in page.text
    without = render_report(replace(run, metrics=run.metrics | {"worst_errors": []}, figures=()))
    assert "No test image was called wrongly." in without


def test_report_has_the_values(run, rendered):
    _, page = rendered
    text = " ".join(page.text.split())
    for split in ("test", "val", "train"):
        measured = run.metrics[split] | run.metrics[split]["at_threshold"]
        for name in ("auc", "sensitivity", "specificity", "accuracy", "average_precision", "brier", "mcc"):
            assert f"{measured[name]:.3f}" in text
    assert run.say("result") in text
    for expected in (
        "210 images: training 140, validation 30, test 40.",
        "All entries230",
        "not an image: 3",
        "6 min 53 s",
    ):
        assert expected in text
    (tn, fp), (fn, tp) = run.metrics["test"]["at_threshold"]["confusion_matrix"]
    assert f"{tp} of {tp + fn} lesions found" in text
    assert f"{tn} of {tn + fp} normal images called normal" in text


def test_report_needs_no_other_file_and_no_network(run, rendered):
    text, page = rendered
    assert not re.search(r"https?://|url\(|@import", text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    values = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    beside = {"metrics.json", "predictions.csv", "manifest.csv", "leakage.csv", "folds.csv", "shortcuts.csv"}
    beside |= {"neighbours.csv"}
    beside |= {"training_sizes.csv", "label_review.csv"}
    assert {value for value in values if not value.startswith("data:")} == {
        *beside,
        "model_card.md",
        "checklist.md",
        "review.html",
    }
    links = [value for value in values if value.startswith("data:")]
    assert len(links) == len(run.figures) == 11
    assert all(link and link.startswith("data:image/png;base64,") for link in links)


def test_corrections_are_counted_by_split(run):
    corrections = {"sha256": "ab" * 32, "num_rows": 5, "num_images": 5, "num_unsure": 1, "num_unchanged": 0}
    changes = {"train": {"osseous_lesion": 2}, "test": {"exclude": 1, "normal": 1}}
    metrics = run.metrics | {"corrections": corrections | {"changes": changes}}
    text = " ".join(re.sub(r"<[^>]*>", " ", render_report(replace(run, metrics=metrics, figures=()))).split())
    assert "Training: 2 to osseous lesion. Test: 1 excluded, 1 to normal. Images that are marked as unsure" in text
    assert "whose labels were not changed: 1." in text
    assert "2 of the 40 images of the locked test set" in text


def test_labels_of_training_images_without_cross_validation_are_not_judged(run):
    metrics = run.metrics | {"cross_validation": None}
    assert "no cross-validation" in replace(run, metrics=metrics).say("label_review")
    assert "no cross-validation" not in run.say("label_review")


def test_report_is_accessible(rendered):
    _, page = rendered
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table")
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert ("html", {"lang": "en"}) in page.tags


def test_notices_come_first_and_only_when_there_are_any(run, rendered):
    text, page = rendered
    for notice in run.metrics["notices"]:
        assert notice in " ".join(page.text.split())
    assert text.index('class="alert"') < text.index("<h1>")
    clean, _ = render(change(run, notices=[], weights="imagenet"))
    assert 'class="alert"' not in clean
    assert "SYNTHETIC" not in clean.upper().split("</STYLE>")[1]
    assert "⚠" not in render_markdown(replace(change(run, notices=[]), figures=()))


def test_values_are_escaped(run):
    data = run.metrics["data"] | {"quarantined": {HOSTILE: 1}}
    features = {"engine": HOSTILE, "precision": HOSTILE, "reason": HOSTILE}
    subgroup = {"column": HOSTILE, "value": HOSTILE, "num_images": 3, "num_lesions": 1, "num_groups": 2}
    undefined = {"auc": None, "sensitivity": None, "specificity": None}
    hostile = replace(
        change(
            run,
            notices=[HOSTILE],
            created=HOSTILE,
            data=data,
            features=features,
            versions={"hip-mri": HOSTILE, HOSTILE: HOSTILE},
            seconds={HOSTILE: 1.0},
            subgroups=[{**subgroup, **undefined, "intervals": undefined}],
        ),
        folder=Path(HOSTILE.replace("/", "")),
        config=run.config | {HOSTILE: "x", "model": {"backbone": "<b>", "weights": "<b>"}},
        figures=(),
    )
    text, page = render(hostile)
    assert "<script" not in text
    assert "<b>" not in text
    assert not [tag for tag, _ in page.tags if tag in ("script", "b")]
    markdown = render_markdown(hostile)
    assert "<script" not in markdown
    assert not re.search(r"(?<!\\)\]\(http", markdown)
    assert r"\|\*\_\`\[a\]" in markdown


def test_private_values_are_withheld(run, rendered, markdown):
    text, _ = rendered
    for secret in ("Smith", "/srv", "/home", str(run.figures[0].parent)):
        assert secret not in text
        assert secret not in markdown
    assert text.count(WITHHELD) == 3


def test_markdown_is_short_and_begins_with_the_notices(run, markdown):
    assert len(markdown.encode()) <= MAX_MARKDOWN_BYTES
    assert all(len(uri) <= 80_000 + 30 for uri in re.findall(r"\((data:[^)]*)\)", markdown))
    lines = [line for line in re.sub(r"base64,[^)]*", "…", markdown).splitlines() if line]
    assert lines[0] == "# Hip MRI: normal or osseous lesion, run 0001"
    assert lines[1] == f"> **⚠ {SYNTHETIC_NOTICE}**"
    assert lines[3] == run.say("result")
    assert lines[4] == run.say("leakage")
    assert lines[5] == run.say("shortcuts")
    assert lines[6] == run.say("label_review")
    assert lines[7] == f"{run.say('training_sizes')} {run.say('halved_interval')}"
    assert "| Metric | Test | Validation | Training | 95% interval (test) |" in lines
    auc = [f"{run.metrics[split]['auc']:.3f}" for split in ("test", "val", "train")]
    assert any(line.startswith(f"| AUC | {' | '.join(auc)} | ") for line in lines)
    assert sum(line.startswith("![") for line in lines) == 11
    assert "runs/0001/report.html" in lines[-1]


def test_tables_in_markdown_have_as_many_cells_in_every_row(markdown):
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert [len(block.splitlines()) for block in blocks] == [7, 17, 4]
    for block in blocks:
        assert len({line.rstrip().count("|") for line in block.splitlines()}) == 1


def test_markdown_stays_short_with_many_pictures(run):
    many = replace(run, figures=run.figures[:1] * 14)
    assert len(render_markdown(many).encode()) <= MAX_MARKDOWN_BYTES


def test_undefined_metrics_are_reported_as_such(run):
    test = run.metrics["test"]
    empty = dict.fromkeys(test["intervals"]["at_threshold"]) | {
        "at_prevalences": [{"prevalence": 0.01, "ppv": None, "npv": None}]
    }
    intervals = dict.fromkeys(test["intervals"]) | {"at_threshold": empty, "at_half": empty}
    calls = test["at_threshold"] | {"ppv": None, "mcc": None}
    calls["at_prevalences"] = [{"prevalence": 0.01, "ppv": None, "npv": None}]
    poor = change(
        run,
        test=test | {"intervals": intervals, "calibration_slope": None, "at_threshold": calls},
        patients=None,
        cross_validation=None,
    )
    text, _ = render(poor)
    assert "too few groups for an interval" in text
    assert "not available" in render_markdown(replace(poor, figures=()))


def test_missing_parts_are_rejected(run, tmp_path):
    with pytest.raises(EvaluationError, match="metrics of the test"):
        render_report(replace(run, metrics={}))
    with pytest.raises(WorkspaceError, match=r"gone\.png cannot be read"):
        render_report(replace(run, figures=(tmp_path / "gone.png",)))
    with pytest.raises(EvaluationError, match="500,000"):
        render_markdown(replace(change(run, notices=["LONG: " + "x" * 300_000]), figures=()))


def test_limits_depend_on_the_kind_of_groups(run):
    headings = [heading for heading, _ in run.limits]
    assert headings[:2] == ["Synthetic data", "Random weights"]
    assert "Groups inferred, not patient level" in headings
    known = run.metrics["grouping"] | {"is_patient_level": True}
    headings = [heading for heading, _ in change(run, grouping=known).limits]
    assert "Patient-level split, if the given identities are correct" in headings


def test_notices_are_collected_and_shortened():
    assert collect_notices(is_synthetic=False, weights_notice="") == ()
    notices = collect_notices(is_synthetic=True, weights_notice="RANDOM WEIGHTS: as asked.")
    assert summarize_notices(notices) == "SYNTHETIC DATA · RANDOM WEIGHTS"


@pytest.mark.parametrize(
    ("pretrained_on", "collection", "heading"),
    [
        (None, None, ""),
        ("ImageNet-21k", None, ""),
        ("RadImageNet", "Hips of our clinic", ""),
        ("RadImageNet", None, "IMAGES POSSIBLY SEEN"),
        ("RadImageNet", "radimagenet", "IMAGES SEEN BY THE BACKBONE"),
    ],
)
def test_notice_tells_whether_the_backbone_may_have_seen_the_images(pretrained_on, collection, heading):
    assert explain_pretraining(pretrained_on, collection).partition(":")[0] == heading


def test_weights_are_named_or_identified_by_their_hash(run):
    assert run.say("weights") == "random, not pretrained"
    assert change(run, weights="ab" * 32).say("weights") == "from a file with SHA-256 abababababab…"


def test_a_given_split_and_a_constant_patient_are_limits(run):
    given = run.metrics["data"]["given_split"] | {
        "by": "folders",
        "num_held_out": {"train": 7},
        "num_divided_groups": 5,
    }
    data = run.metrics["data"] | {"num_prescribed": 210, "given_split": given}
    grouping = run.metrics["grouping"] | {"has_constant_patient": True}
    limits = dict(change(run, data=data, grouping=grouping).limits)
    assert "training 7 (5 groups" in limits["Split given by the source"]
    assert "One patient ID in all files" in limits
    assert not {"Split given by the source", "One patient ID in all files"} & set(dict(run.limits))
    _, page = render(replace(change(run, data=data), figures=()))
    assert "Images whose split the source gives210 (by folders); held out: training 7" in page.text


def test_report_names_code_model_and_flow_run(run, rendered, markdown):
    _, page = rendered
    for text in ("1.2.0", "cd" * 20, "ef" * 32):
        assert text in page.text
        assert text in markdown
    assert "Prefect flow runnone" in page.text
    environment = run.metrics["environment"] | {"flow_run_id": "0d5c7c3e", "commit": None}
    _, page = render(replace(change(run, environment=environment), figures=()))
    assert "Prefect flow run0d5c7c3e" in page.text
    assert "Git commitnot known" in page.text


def test_groups_are_called_patients_where_each_is_one(run):
    grouping = run.metrics["grouping"] | {"is_patient_level": True, "num_patients": 105}
    known = change(run, grouping=grouping)
    _, page = render(known)
    text = page.text + render_markdown(known)
    assert not re.search(r"\bgroups?\b", text)
    assert "105 patients" in known.say("disjointness")
    merged = change(run, grouping=grouping | {"num_patients": 106})
    assert "105 groups" in merged.say("disjointness")


def test_metrics_by_patient_need_as_many_patients_as_their_interval(run):
    patients = run.metrics["patients"]
    assert f"{patients['auc']:.3f}" in patient_table(run)
    few = {
        **patients,
        "num_images": 3,
        "num_lesions": 1,
        "auc": 1.0,
        "intervals": {**patients["intervals"], "auc": None},
    }
    table = patient_table(change(run, patients=few))
    assert "1.000" not in table
    assert "3, 1 with a lesion" in table
    assert (
        change(run, patients=few)
        .say("patients")
        .endswith("At least 2 with and 2 without a lesion are needed for metrics by patient.")
    )


def patient_table(run: RunReport) -> str:
    text, _ = render(replace(run, figures=()))
    return text[text.index("Patients, by the mean score") :].partition("</table>")[0]
