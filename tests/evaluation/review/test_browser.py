"""The page in a browser: filter, slide, mark, download, reload, keyboard."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from hip_mri.config import LABELS
from hip_mri.evaluation.metrics.measures import measure_decisions
from hip_mri.evaluation.review.page import MAX_PAGE_BYTES, read_review_data
from hip_mri.evaluation.review.reviewed_images import compute_losses
from hip_mri.sources.tables.corrections import read_corrections
from tests.evaluation.review.conftest import EXPLAINED, HOSTILE


@pytest.fixture
def opened(open_page, review_file):
    """The page, which afterwards has made no request and no error."""
    opened = open_page(review_file)
    yield opened
    assert opened.errors == []
    assert opened.requests == [review_file.as_uri()]


@pytest.fixture(scope="module")
def images(review_file) -> pd.DataFrame:
    return pd.DataFrame(read_review_data(review_file)["images"])


def list_shown(page) -> list[str]:
    return page.locator("#grid .card").evaluate_all("cards => cards.map(card => card.dataset.id)")


def read_matrix(page) -> list[list[int]]:
    return [[int(page.inner_text(f"#{name}")) for name in row] for row in (("tn", "fp"), ("fn", "tp"))]


def slide(page, value: float) -> None:
    page.locator("[name=threshold]").evaluate(
        "(it, value) => { it.value = value; for (const kind of ['input', 'change'])"
        " it.dispatchEvent(new Event(kind, { bubbles: true })); }",
        value,
    )


def test_figures_follow_the_threshold(opened, images, metrics):
    page, expected = opened.page, metrics["test"]["at_threshold"]
    assert read_matrix(page) == expected["confusion_matrix"]
    for name in ("sensitivity", "specificity", "ppv"):
        assert page.inner_text(f"#{name}") == f"{expected[name]:.3f}"
    test = images[images["split"] == "test"]
    truth = (test["label"] == LABELS[1]).astype(int)
    for value in (0.0, 0.25, 0.5, 0.731, 1.0):
        slide(page, value)
        measured = measure_decisions(truth, test["score"].astype(float), value, [0.2])
        assert read_matrix(page) == measured["confusion_matrix"]
    slide(page, 0.4)
    page.fill("[name=prevalence]", "20")
    measured = measure_decisions(truth, test["score"].astype(float), 0.4, [0.2])
    for element, projected in (("#ppv-at-prevalence", "ppv"), ("#npv-at-prevalence", "npv")):
        assert page.inner_text(element) == f"{measured['at_prevalences'][0][projected]:.3f}"
    page.select_option("#threshold-form [name=split]", "val")
    page.click("#reset-threshold")
    assert read_matrix(page) == metrics["val"]["at_threshold"]["confusion_matrix"]


def test_filters_and_order(opened, images, metrics):
    page = opened.page
    assert list_shown(page) == list(images["image_id"])[:200]
    assert page.inner_text("#count") == "210 of 210 images"
    page.locator("#more").scroll_into_view_if_needed()
    page.locator("#grid .card").nth(209).wait_for()

    page.select_option("#filters [name=split]", "test")
    page.select_option("#filters [name=outcome]", "FN")
    page.select_option("[name=sort]", "score")
    is_missed = (images["label"] == LABELS[1]) & (images["score"] < metrics["threshold"])
    missed = images[is_missed & (images["split"] == "test")].sort_values("score", ascending=False)
    assert list_shown(page) == list(missed["image_id"])
    assert page.inner_text("#count") == f"{len(missed)} of 210 images"
    slide(page, 0.0)
    assert list_shown(page) == []
    page.click("#reset-threshold")

    for name, value, chosen in (
        ("suspected", "yes", images["is_suspected"]),
        ("outside", "yes", images["is_outside"]),
        ("label", "normal", images["label"] == "normal"),
        ("decision", "uncertain", images["decision"] == "uncertain"),
        ("attribute-0", HOSTILE, images["attribute: field"] == HOSTILE),
    ):
        page.click("#filters [type=reset]")
        page.get_by_text("210 of 210 images").wait_for()
        page.select_option(f"#filters [name={name}]", value)
        assert page.inner_text("#count") == f"{chosen.astype(bool).sum()} of 210 images"
    page.click("#filters [type=reset]")
    page.get_by_text("210 of 210 images").wait_for()
    for value, key in (
        ("low", images["score"]),
        ("margin", (images["score"] - metrics["threshold"]).abs()),
        ("loss", -compute_losses(images)),
    ):
        page.select_option("[name=sort]", value)
        assert list_shown(page) == list(images.assign(key=key).sort_values(["key", "rank"])["image_id"])[:200]
    page.fill("[name=search]", EXPLAINED)
    assert list_shown(page) == [EXPLAINED]


def test_marks_survive_a_reload_and_are_downloaded(opened, review_file, images, tmp_path):
    page, (first, second, third) = opened.page, images["image_id"][:3]
    page.locator("#grid .card").first.click()
    assert page.inner_text("#viewer-title") == f"Image {first}"
    page.keyboard.press("w")
    assert page.inner_text("#position") == "1 of 210, marked: label wrong"
    page.fill("#why", 'fracture, "old"')
    page.keyboard.press("Enter")
    page.click("#next")
    page.keyboard.press("e")
    page.keyboard.press("ArrowRight")
    page.click("[data-mark=unsure]")
    page.keyboard.press("Escape")
    assert page.inner_text("#mark-count") == "3 marked: label wrong 1, exclude 1, unsure 1"
    page.fill("[name=who]", "A. Reader")
    page.locator("[name=who]").blur()

    page.reload()
    opened.requests.pop()
    assert page.inner_text("#mark-count") == "3 marked: label wrong 1, exclude 1, unsure 1"
    assert page.locator("#grid .card .mark:visible").all_inner_texts() == ["label wrong", "exclude", "unsure"]
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "corrections.csv"
    download.value.save_as(file := tmp_path / "corrections.csv")
    rows = {row["image_id"]: row for row in csv.DictReader(file.read_text().splitlines())}
    other = LABELS[1 - LABELS.index(images["label"][0])]
    assert {image_id: row["label"] for image_id, row in rows.items()} == {
        first: other,
        second: "exclude",
        third: "unsure",
    }
    assert list(rows[first]) == ["image_id", "label", "who", "when", "why"]
    assert rows[first]["why"] == 'fracture, "old"'
    assert {row["who"] for row in rows.values()} == {"A. Reader"}
    assert all(pd.Timestamp(row["when"]).tzinfo for row in rows.values())
    read = read_corrections(file).rows  # as the next run does
    assert dict(zip(read["image_id"], read["label"], strict=True)) == {
        image_id: row["label"] for image_id, row in rows.items()
    }

    page.select_option("[name=mark]", "exclude")
    assert list_shown(page) == [second]
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#clear-marks")
    assert page.inner_text("#mark-count") == "No image is marked."
    assert page.is_disabled("#download")


def test_large_pictures_and_neighbors(opened, images):
    page = opened.page
    page.fill("[name=search]", EXPLAINED)
    page.locator("#grid .card").click()
    assert page.locator("#pictures figcaption").all_inner_texts() == [
        "Input of the network (after CLAHE)",
        "Original",
        "Grad-CAM: where the score rises",
    ]
    page.locator("#pictures img").evaluate_all("all => Promise.all(all.map(it => it.decode()))")
    nearest = images.set_index("image_id")["neighbors"][EXPLAINED]
    page.click("#neighbors .card")
    assert page.inner_text("#viewer-title") == f"Image {nearest}"
    page.click("#previous")
    assert page.inner_text("#viewer-title") == f"Image {EXPLAINED}"


def test_keyboard_alone(opened):
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the images"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.dataset.id")
    number = list_shown(page).index(focused)
    assert number > 1
    page.keyboard.press("Enter")
    assert page.inner_text("#position") == f"{number + 1} of 210"
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#position") == f"{number} of 210"
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer")
    page.locator(f"#grid [data-id='{list_shown(page)[number - 1]}']:focus").wait_for()


@pytest.mark.parametrize("width", [390, 1280])
def test_page_is_accessible(open_page, review_file, width):
    opened = open_page(review_file, width)
    page = opened.page
    for is_open in (False, True):
        if is_open:
            page.locator("#grid .card").first.click()
        assert opened.list_unnamed_controls() == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator("main").count() == 1
    assert page.locator("[aria-live=polite]").count() == 3
    ids = page.locator("[id]").evaluate_all("all => all.map(it => it.id)")
    assert len(ids) == len(set(ids))
    assert opened.errors == []


def test_marks_work_where_the_browser_keeps_nothing(browser, review_file):
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('denied'); } })"
    )
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(review_file.as_uri())
    page.locator("#grid .card").first.click()
    page.keyboard.press("u")
    page.keyboard.press("Escape")
    assert page.inner_text("#mark-count").startswith("1 marked")
    assert "does not keep marks" in page.inner_text("#storage-note")
    assert errors == []
    context.close()


def test_page_is_smaller_than_its_limit(review_file: Path):
    assert review_file.stat().st_size < MAX_PAGE_BYTES
