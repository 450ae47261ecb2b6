"use strict";

const NUM_PARALLEL = 2; // requests at the same time, one file each
const MAX_TRIES = 30; // of a request while the service is busy
const SPLITS = { train: "trained the model", val: "validated the model", test: "tested the model", not_recorded: "not recorded" };
const COLUMNS = ["file_name", "slice", "image_id", "sha256", "state", "reason", "score", "label", "decision", "threshold", "distance",
  "is_outside", "known_split", "model", "model_sha256"];

const byId = (id) => document.getElementById(id);
const results = [];
const waiting = [];
let numRunning = 0;
let numSent = 0;
let numDone = 0;
let token = "";

function add(parent, tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  parent.append(element);
  return element;
}

function show(message, failed) {
  byId("state").textContent = message;
  byId("state").classList.toggle("failed", Boolean(failed));
}

async function request(path, options) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers, credentials: "omit" });
  const content = await response.json();
  return { response, content };
}

function showNotices(notices) {
  const place = byId("notices");
  const shown = document.querySelector(".alert").textContent;
  place.replaceChildren();
  for (const notice of notices.filter((it) => !shown.includes(it))) {
    const [heading, ...text] = notice.split(":");
    const line = add(place, "p");
    add(line, "strong", heading);
    line.append(text.length ? `:${text.join(":")}` : "");
  }
  place.hidden = place.childElementCount === 0;
}

async function describeModel() {
  const place = byId("model");
  try {
    const { response, content } = await request("/model");
    if (!response.ok) throw new Error(content.error.message);
    place.replaceChildren(`${content.name} · ${content.backbone} · threshold ${content.threshold.toFixed(4)} · SHA-256 of the model `);
    add(place, "span", `${content.sha256.slice(0, 12)}…`, "id").title = content.sha256;
    place.append(` · loaded ${content.loaded_at.replace("T", " ").replace("+00:00", " UTC")}`);
    byId("heat-maps").disabled = !content.has_heat_maps;
    byId("heat-maps").checked &&= content.has_heat_maps;
    showNotices(content.notices);
    if (content.error_rate !== null) {
      byId("uncertain").textContent = "Uncertain: the label is not certain enough for an error rate of "
        + `${Number((100 * content.error_rate).toFixed(2))} % of each class, as calibrated on validation images.`;
    }
    return true;
  } catch (error) {
    place.textContent = `The model cannot be shown: ${error.message}`;
    return false;
  }
}

function enqueue(files) {
  if (document.body.dataset.needsToken === "true" && !token) {
    show("Give the token of this service first.", true);
    return;
  }
  numSent += files.length;
  waiting.push(...files);
  while (numRunning < NUM_PARALLEL && waiting.length) work();
}

async function work() {
  numRunning += 1;
  while (waiting.length) {
    show(`Scoring ${numDone + 1} of ${numSent} …`);
    await score(waiting.shift());
    numDone += 1;
  }
  numRunning -= 1;
  if (numRunning === 0) show(`${numDone} of ${numSent} files are done.`);
}

async function score(file) {
  const query = new URLSearchParams({ pictures: "true", heat_maps: String(byId("heat-maps").checked) });
  try {
    const { response, content } = await sendUntilAccepted(`/predict?${query}`, file);
    if (content.images?.length) {
      for (const image of content.images) addResult({ ...image, file_name: file.name, ...nameModel(content.model) });
    } else if (!response.ok) {
      addResult({ file_name: file.name, state: "refused", ...content.error });
    }
  } catch (error) {
    addResult({ file_name: file.name, state: "refused", reason: "no_answer", message: `The service does not answer (${error.message}).` });
  }
}

async function sendUntilAccepted(address, file) {
  for (let tries = 1; ; tries += 1) {
    const form = new FormData();
    form.append("images", file, "image"); // the name stays here
    const answer = await request(address, { method: "POST", body: form });
    if (answer.response.status !== 503 || tries === MAX_TRIES) return answer;
    const seconds = Number(answer.response.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

function nameModel(model) {
  return model ? { model: model.name, model_sha256: model.sha256 } : {};
}

function addResult(result) {
  results.push(result);
  const row = add(byId("table").tBodies[0], "tr");
  drawPictures(add(row, "td"), result);
  const name = add(row, "td", undefined, "name");
  add(name, "div", result.file_name);
  if (result.num_slices > 1) add(name, "div", `slice ${result.slice + 1} of ${result.num_slices}`, "muted");
  if (result.image_id) add(name, "div", result.image_id, "id");
  if (result.state === "scored") drawScore(row, result);
  else drawReason(row, result);
  byId("session").hidden = false;
  const numScored = results.filter((it) => it.state === "scored").length;
  const numLesion = results.filter((it) => it.label === "osseous_lesion").length;
  byId("counts").textContent = `${numScored} images scored, ${numLesion} called osseous lesion, ${results.length - numScored} not scored`;
}

function drawPictures(cell, result) {
  const place = add(cell, "div", undefined, "pictures");
  for (const [address, title] of [[result.picture, "Preprocessed image"], [result.heat_map, "Heat map of"]]) {
    if (!address) continue;
    const picture = add(place, "img");
    picture.src = address;
    picture.alt = `${title} ${result.image_id}`;
  }
}

function drawScore(row, result) {
  const cell = add(row, "td");
  add(cell, "div", result.score.toFixed(3), "score");
  const meter = add(cell, "meter");
  meter.value = result.score;
  meter.setAttribute("aria-label", "Score from 0 to 1");
  const isLesion = result.label === "osseous_lesion";
  const label = add(row, "td");
  add(label, "span", result.label.replace("_", " "), isLesion ? "call lesion" : "call");
  add(label, "div", `${isLesion ? "at or above" : "below"} ${result.threshold.toFixed(4)}`, "muted");
  if (result.decision === "uncertain") add(label, "span", "uncertain", "badge uncertain");
  const distribution = add(row, "td");
  distribution.dataset.label = "Training distribution"; // narrow pages have no heads of columns
  if (result.is_outside) add(distribution, "span", "outside", "badge outside");
  else distribution.append(result.is_outside === false ? "within" : "not measured");
  if (result.distance !== null) add(distribution, "div", `distance ${result.distance.toFixed(4)}`, "muted");
  row.classList.toggle("marked", Boolean(result.is_outside));
  const known = add(row, "td");
  known.dataset.label = "Known image";
  if (result.known_split === "not_recorded" || !result.known_split) known.textContent = SPLITS[result.known_split] ?? "no";
  else add(known, "span", SPLITS[result.known_split], "badge known");
}

function drawReason(row, result) {
  const cell = add(row, "td");
  cell.colSpan = 4;
  add(cell, "span", result.state === "unreadable" ? "unreadable" : "not scored", "badge failed");
  cell.append(` ${result.message || result.reason.replaceAll("_", " ")} `);
  add(cell, "span", result.reason, "id");
}

function quote(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text))) text = `'${text}`; // else a spreadsheet runs it as a formula
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function download() {
  const lines = [COLUMNS, ...results.map((result) => COLUMNS.map((column) => result[column]))];
  const content = lines.map((line) => line.map(quote).join(",")).join("\r\n") + "\r\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
  link.download = "scores.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function clear() {
  results.length = 0;
  byId("table").tBodies[0].replaceChildren();
  byId("session").hidden = true;
}

function connect() {
  const drop = byId("drop");
  const files = byId("files");
  files.addEventListener("change", () => {
    enqueue([...files.files]);
    files.value = "";
  });
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault(); // else the browser opens a file that misses the field
      drop.classList.toggle("over", name === "dragenter" || name === "dragover");
      if (name === "drop") enqueue([...event.dataTransfer.files]);
    });
  }
  byId("download").addEventListener("click", download);
  byId("clear").addEventListener("click", clear);
  byId("token-form")?.addEventListener("submit", async (event) => {
    event.preventDefault();
    token = byId("token").value.trim();
    byId("token-state").textContent = (await describeModel()) ? "The token is accepted." : "The token is not accepted.";
  });
  if (document.body.dataset.needsToken === "true") byId("model").textContent = "Give the token to see the model.";
  else describeModel();
}

connect();
