"use strict";
// Shows the images of a run: filters, sorts and marks them, and computes the figures of a threshold.

const BATCH = 200; // cards that are added at once; more than fill a screen
const OUTCOMES = {
  TP: ["●", "lesion found"],
  TN: ["○", "normal, called normal"],
  FP: ["▲", "normal, called lesion"],
  FN: ["▼", "lesion missed"],
  "": ["–", "no score"],
};
const MARKS = { wrong: "label wrong", exclude: "exclude", unsure: "unsure" };

const find = (id) => document.getElementById(id);
const readJson = (id) => JSON.parse(find(id).textContent);
const data = readJson("data");
const pictures = readJson("encoded-pictures");
const [NORMAL, LESION] = data.labels;
const images = readImages();
const byId = new Map(images.map((image) => [image.image_id, image]));
const storageKey = `hip-mri review ${data.key}`;
const saved = loadMarks();

let threshold = data.threshold;
let shown = [];
let numCards = 0;
let position = -1;

// Data

function readImages() {
  const names = Object.keys(data.images);
  return data.images.image_id.map((_, row) => {
    const image = Object.fromEntries(names.map((name) => [name, data.images[name][row]]));
    image.loss = image.score === null ? -Infinity : -Math.log(image.label === LESION ? image.score : 1 - image.score);
    return image;
  });
}

function judge(image) {
  if (image.score === null) return "";
  const isCalled = image.score >= threshold;
  return image.label === LESION ? (isCalled ? "TP" : "FN") : isCalled ? "FP" : "TN";
}

const nameLabel = (label) => label.replaceAll("_", " ");
const nameOther = (image) => nameLabel(otherLabel(image));
const otherLabel = (image) => (image.label === LESION ? NORMAL : LESION);
const formatScore = (score) => (score === null ? "none" : score.toFixed(3));

// Figures of the threshold

function countCalls(split) {
  const counts = { TP: 0, TN: 0, FP: 0, FN: 0, "": 0 };
  for (const image of images) if (image.split === split) counts[judge(image)] += 1;
  const others = data.others && data.others[split];
  if (others) {
    const step = threshold === data.threshold ? data.num_steps + 1 : Math.round(threshold * data.num_steps);
    for (const [label, called, not] of [[LESION, "TP", "FN"], [NORMAL, "FP", "TN"]]) {
      counts[called] += others[label][step];
      counts[not] += others[label][0] - others[label][step]; // all scores are at least 0
    }
  }
  return counts;
}

function computeFigures(split, prevalence) {
  const counts = countCalls(split);
  const divide = (part, rest) => (part + rest > 0 ? part / (part + rest) : null);
  const sensitivity = divide(counts.TP, counts.FN);
  const specificity = divide(counts.TN, counts.FP);
  const isKnown = sensitivity !== null && specificity !== null;
  return {
    ...counts,
    sensitivity,
    specificity,
    ppv: divide(counts.TP, counts.FP),
    ppvAtPrevalence: isKnown ? divide(sensitivity * prevalence, (1 - specificity) * (1 - prevalence)) : null,
    npvAtPrevalence: isKnown ? divide(specificity * (1 - prevalence), (1 - sensitivity) * prevalence) : null,
  };
}

function showFigures() {
  const form = find("threshold-form");
  const percent = form.prevalence.valueAsNumber;
  const isValid = percent > 0 && percent < 100;
  const figures = computeFigures(form.split.value, isValid ? percent / 100 : NaN);
  const write = (id, value) => {
    find(id).textContent = value === null || Number.isNaN(value) ? "–" : value.toFixed(3);
  };
  for (const outcome of ["TP", "TN", "FP", "FN"]) find(outcome.toLowerCase()).textContent = figures[outcome].toLocaleString("en");
  write("sensitivity", figures.sensitivity);
  write("specificity", figures.specificity);
  write("ppv", figures.ppv);
  write("ppv-at-prevalence", figures.ppvAtPrevalence);
  write("npv-at-prevalence", figures.npvAtPrevalence);
  for (const part of document.getElementsByClassName("prevalence")) part.textContent = isValid ? `${percent} %` : "an invalid prevalence of";
  find("matrix-split").textContent = form.split.selectedOptions[0].textContent.toLowerCase();
  find("threshold-value").textContent = threshold.toFixed(3) + (threshold === data.threshold ? " (of the run)" : "");
}

function moveThreshold(value) {
  threshold = value;
  showFigures();
  for (const card of find("grid").getElementsByClassName("card")) showOutcome(card, byId.get(card.dataset.id));
}

// Filters and order

const isYes = (value, flag) => value === "" || (value === "yes") === flag;

function passes(image, wanted) {
  const kind = saved.marks[image.image_id]?.kind;
  return (
    (!wanted.split || image.split === wanted.split) &&
    (!wanted.label || image.label === wanted.label) &&
    (!wanted.outcome || judge(image) === wanted.outcome) &&
    isYes(wanted.suspected, image.is_suspected) &&
    (!wanted.outside || (image.is_outside !== null && isYes(wanted.outside, image.is_outside))) &&
    (!wanted.decision || image.decision === wanted.decision) &&
    (!wanted.mark || (wanted.mark === "marked" ? Boolean(kind) : wanted.mark === "none" ? !kind : kind === wanted.mark)) &&
    (!wanted.search || image.image_id.startsWith(wanted.search) || image.group.startsWith(wanted.search)) &&
    data.attributes.every((name, number) => {
      const value = wanted[`attribute-${number}`];
      return !value || image[name] === value;
    })
  );
}

const ORDERS = {
  rank: (image) => image.rank,
  loss: (image) => -image.loss,
  score: (image) => (image.score === null ? Infinity : -image.score),
  low: (image) => (image.score === null ? Infinity : image.score),
  margin: (image) => (image.score === null ? Infinity : Math.abs(image.score - threshold)),
};

function applyFilters() {
  const wanted = { outside: "", decision: "", ...Object.fromEntries(new FormData(find("filters"))) };
  wanted.search = wanted.search.trim().toLowerCase();
  const order = ORDERS[wanted.sort];
  shown = images.filter((image) => passes(image, wanted));
  shown.sort((one, other) => compare(order(one), order(other)) || compare(one.rank, other.rank));
  numCards = 0;
  find("grid").replaceChildren();
  addCards();
  const all = images.length.toLocaleString("en");
  find("count").textContent = `${shown.length.toLocaleString("en")} of ${all} images`;
}

const compare = (one, other) => (one < other ? -1 : one > other ? 1 : 0); // the difference of infinities is no number

// Cards

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const findPicture = (image) => pictures.large[image.image_id]?.input ?? pictures.small[image.image_id];
const makeAddress = (picture) => `data:image/jpeg;base64,${picture}`;

function makePicture(picture, alt) {
  return make("img", { src: makeAddress(picture), alt, width: 96, height: 96, loading: "lazy", decoding: "async" });
}

function makeCard(image, open) {
  const card = make("button", { type: "button", className: "card" });
  card.dataset.id = image.image_id;
  const flags = [image.is_suspected && "suspect label", image.is_outside && "outside", image.decision === "uncertain" && "uncertain"];
  card.append(
    makePicture(findPicture(image), `Image ${image.image_id}`),
    make("strong", { className: "outcome" }),
    make("span", { textContent: `Label ${nameLabel(image.label)}` }),
    ...flags.filter(Boolean).map((flag) => make("span", { className: "flag", textContent: `◆ ${flag}` })),
    make("span", { className: "mark", hidden: true }),
  );
  showOutcome(card, image);
  showMark(card, image);
  card.addEventListener("click", () => open(image));
  return make("li", {}, card);
}

function showOutcome(card, image) {
  const outcome = judge(image);
  const [symbol, text] = OUTCOMES[outcome];
  card.classList.toggle("is-wrong", outcome === "FP" || outcome === "FN");
  const hidden = make("span", { className: "hidden-text", textContent: `, ${text}` });
  card.querySelector(".outcome").replaceChildren(`${symbol} ${outcome} ${formatScore(image.score)}`, hidden);
}

function showMark(card, image) {
  const mark = saved.marks[image.image_id];
  const place = card.querySelector(".mark");
  place.hidden = !mark;
  place.textContent = mark ? MARKS[mark.kind] : "";
}

function addCards() {
  const open = (image) => showImage(shown.indexOf(image));
  const added = shown.slice(numCards, numCards + BATCH).map((image) => makeCard(image, open));
  find("grid").append(...added);
  numCards += added.length;
  find("more").hidden = numCards >= shown.length;
  return added[0];
}

function walkGrid(event) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -countColumns(), ArrowDown: countColumns() };
  const cards = [...find("grid").getElementsByClassName("card")];
  const next = cards[cards.indexOf(document.activeElement) + (steps[event.key] ?? NaN)];
  if (!next) return;
  event.preventDefault();
  next.focus();
}

function countColumns() {
  const rows = [...find("grid").children].map((item) => item.offsetTop);
  return rows.filter((top) => top === rows[0]).length;
}

// The large picture

function showImage(number) {
  if (number < 0 || number >= shown.length) return;
  position = number;
  showDetails(shown[number]);
  find("previous").disabled = number === 0;
  find("next").disabled = number === shown.length - 1;
  if (!find("viewer").open) find("viewer").showModal();
  if (document.activeElement === document.body || document.activeElement.disabled) find("viewer-title").focus();
}

function showPosition() {
  const kind = saved.marks[shown[position].image_id]?.kind;
  find("position").textContent = `${position + 1} of ${shown.length}${kind ? `, marked: ${MARKS[kind]}` : ""}`;
}

function showDetails(image) {
  const outcome = judge(image);
  find("viewer").dataset.id = image.image_id;
  find("viewer-title").textContent = `Image ${image.image_id}`;
  showPictures(image);
  const facts = {
    Label: nameLabel(image.label),
    Score: formatScore(image.score) + (image.split === "train" && image.score !== null ? " (out of fold)" : ""),
    Outcome: `${OUTCOMES[outcome].join(" ")} (threshold ${threshold.toFixed(3)})`,
    Split: data.splits[image.split],
    "Rank of the label": `${image.rank.toLocaleString("en")} of ${data.num_images.toLocaleString("en")}${image.is_suspected ? `, suspected: ${nameReasons(image)}` : ""}`,
    "Decision of the run": image.decision && nameLabel(image.decision),
    "Distance from the training images": image.distance !== null && `${image.distance.toFixed(3)}, ${image.is_outside ? "outside" : "inside"}`,
    Group: image.group,
    ...Object.fromEntries(data.attributes.map((name) => [name.replace("attribute: ", ""), image[name]])),
  };
  const rows = Object.entries(facts).filter(([, value]) => value);
  find("facts").replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
  showNeighbors(image);
  find("other-label").textContent = nameOther(image);
  showMarkButtons(image);
}

const nameReasons = (image) => image.reason.split("+").map((reason) => ({ score: "the score contradicts it", near_duplicate: "a near duplicate has the other label" })[reason] ?? reason).join(" and ");

function showPictures(image) {
  const large = pictures.large[image.image_id] ?? { small: pictures.small[image.image_id] };
  const titles = { input: data.input_title, original: "Original", heat: "Grad-CAM: where the score rises", small: `${data.input_title}, 96 pixels, enlarged` };
  const named = Object.entries(titles).filter(([kind]) => large[kind]);
  find("pictures").replaceChildren(
    ...named.map(([kind, title]) => make("figure", {}, make("img", { src: makeAddress(large[kind]), alt: `${title}, image ${image.image_id}` }), make("figcaption", { textContent: title }))),
  );
  const missing = [large.input && !large.original && "The original could not be read.", !large.heat && "The run computed no Grad-CAM map of this image."];
  find("pictures-note").textContent = missing.filter(Boolean).join(" ");
}

function showNeighbors(image) {
  const known = image.neighbors.split(" ").filter(Boolean);
  find("neighbors-block").hidden = known.length === 0;
  const cards = known.map((id) => byId.has(id) ? makeCard(byId.get(id), openNeighbor) : make("li", { textContent: `${id}, not on this page` }));
  find("neighbors").replaceChildren(...cards);
}

function openNeighbor(image) {
  if (!shown.includes(image)) shown.splice(position + 1, 0, image); // so that "Previous" leads back
  showImage(shown.indexOf(image));
  find("viewer").scrollTop = 0;
  find("viewer-title").focus();
}

function closeViewer() {
  applyMarksToCards();
  const image = shown[position];
  const card = image && find("grid").querySelector(`[data-id="${CSS.escape(image.image_id)}"]`);
  if (card) card.focus();
}

// Marks

function loadMarks() {
  try {
    const text = localStorage.getItem(storageKey);
    return { who: "", marks: {}, ...(text ? JSON.parse(text) : {}) };
  } catch {
    return { who: "", marks: {} };
  }
}

function saveMarks() {
  let note = "Marks are kept in this browser. Download them before you clear its data.";
  try {
    localStorage.setItem(storageKey, JSON.stringify(saved));
  } catch {
    note = "This browser does not keep marks of a page that is opened as a file. Download them before you close the page.";
  }
  find("storage-note").textContent = note;
  showMarkCount();
}

function showMarkCount() {
  const kinds = Object.values(saved.marks).map((mark) => mark.kind);
  const counts = Object.keys(MARKS).map((kind) => `${MARKS[kind]} ${kinds.filter((it) => it === kind).length}`);
  find("mark-count").textContent = kinds.length ? `${kinds.length} marked: ${counts.join(", ")}` : "No image is marked.";
  find("download").disabled = find("clear-marks").disabled = kinds.length === 0;
}

function setMark(kind) {
  const image = byId.get(find("viewer").dataset.id);
  const before = saved.marks[image.image_id];
  const why = find("why").value.trim();
  if (!kind) delete saved.marks[image.image_id];
  else if (before?.kind !== kind || before.why !== why) saved.marks[image.image_id] = { kind, why, when: new Date().toISOString() };
  saveMarks();
  showMarkButtons(image);
}

function showMarkButtons(image) {
  const mark = saved.marks[image.image_id];
  showPosition();
  for (const button of document.querySelectorAll("[data-mark]")) button.setAttribute("aria-pressed", String(button.dataset.mark === (mark?.kind ?? "")));
  find("why").value = mark?.why ?? "";
  find("why").disabled = !mark;
}

function applyMarksToCards() {
  for (const card of find("grid").getElementsByClassName("card")) showMark(card, byId.get(card.dataset.id));
}

function writeCorrections() {
  const quote = (value) => {
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value; // else a spreadsheet runs it as a formula
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const rows = Object.entries(saved.marks)
    .filter(([id]) => byId.has(id))
    .map(([id, mark]) => [id, mark.kind === "wrong" ? otherLabel(byId.get(id)) : mark.kind, saved.who, mark.when, mark.why]);
  rows.sort((one, other) => compare(one[0], other[0]));
  return [["image_id", "label", "who", "when", "why"], ...rows].map((row) => `${row.map(quote).join(",")}\n`).join("");
}

function downloadCorrections() {
  const address = URL.createObjectURL(new Blob([writeCorrections()], { type: "text/csv" }));
  const link = make("a", { href: address, download: "corrections.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000); // after the browser has read it
}

// Keys and events

function pressKey(event) {
  if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    ArrowLeft: () => showImage(position - 1),
    ArrowRight: () => showImage(position + 1),
    w: () => setMark("wrong"),
    e: () => setMark("exclude"),
    u: () => setMark("unsure"),
    n: () => setMark(""),
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function listen() {
  const form = find("threshold-form");
  form.threshold.addEventListener("input", () => moveThreshold(form.threshold.valueAsNumber));
  form.threshold.addEventListener("change", applyFilters);
  form.split.addEventListener("change", showFigures);
  form.prevalence.addEventListener("input", showFigures);
  find("reset-threshold").addEventListener("click", resetThreshold);
  find("filters").addEventListener("input", applyFilters);
  find("filters").addEventListener("reset", () => setTimeout(applyFilters)); // after the fields are cleared
  find("more").addEventListener("click", () => addCards()?.firstChild.focus());
  find("grid").addEventListener("keydown", walkGrid);
  find("previous").addEventListener("click", () => showImage(position - 1));
  find("next").addEventListener("click", () => showImage(position + 1));
  find("close").addEventListener("click", () => find("viewer").close());
  find("viewer").addEventListener("close", closeViewer);
  find("viewer").addEventListener("keydown", pressKey);
  for (const button of document.querySelectorAll("[data-mark]")) button.addEventListener("click", () => setMark(button.dataset.mark));
  find("why").addEventListener("change", () => setMark(saved.marks[find("viewer").dataset.id]?.kind ?? ""));
  find("marks-form").who.addEventListener("change", (event) => {
    saved.who = event.target.value.trim();
    saveMarks();
  });
  find("download").addEventListener("click", downloadCorrections);
  find("clear-marks").addEventListener("click", clearMarks);
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && addCards()).observe(find("more"));
}

function resetThreshold() {
  find("threshold-form").threshold.value = data.threshold;
  moveThreshold(data.threshold);
  applyFilters();
}

function clearMarks() {
  if (!confirm("Remove all marks of this run?")) return;
  saved.marks = {};
  saveMarks();
  applyFilters();
}

find("marks-form").who.value = saved.who;
listen();
saveMarks();
resetThreshold();
