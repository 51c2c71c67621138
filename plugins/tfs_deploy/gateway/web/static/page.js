"use strict";

// The page of the gateway: choose a model, send one item, show what comes back.

const $ = (id) => document.getElementById(id);
const MAX_BYTES = Number(document.body.dataset.maxBytes);
const SMALL = 64; // pixels; smaller pictures are shown enlarged, each pixel sharp
let models = [];
let picture = null;
let asking = false;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function headers(more = {}) {
  const key = $("key") ? $("key").value.trim() : "";
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

function showStatus(text, kind = "") {
  $("status").className = kind;
  $("status").textContent = text;
}

// --- models ---------------------------------------------------------------------------------------------------------

async function loadModels() {
  if ($("key") && !$("key").value.trim()) {
    showModels([], "Enter a key first");
    return;
  }
  try {
    const answer = await fetch("v1/models", { headers: headers() });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.detail);
    showModels(found.models, "");
  } catch (error) {
    showModels([], "No models");
    showStatus(`The list of models is not available: ${error.message}`, "problem");
  }
}

function showModels(found, placeholder) {
  models = found;
  const select = $("model");
  const before = select.value;
  select.replaceChildren(...models.map((model) => element("option", { value: model.name }, model.name)));
  if (placeholder) select.append(element("option", { value: "" }, placeholder));
  select.disabled = !models.length;
  if (models.some((model) => model.name === before)) select.value = before;
  modelChosen();
}

function chosen() {
  return models.find((model) => model.name === $("model").value);
}

function modelChosen() {
  const model = chosen();
  // What another model said is no answer of this one.
  $("result").hidden = true;
  showStatus("No request sent yet.");
  $("about").textContent = "";
  $("json-hint").textContent = "";
  if (!model) return;
  const version = model.version === null ? "does not answer at the moment" : `version ${model.version} is ${model.label || "the newest"}`;
  $("about").textContent = [model.description, version].filter(Boolean).join(" · ");
  const inputs = Object.entries(model.inputs).map(([name, spec]) => `${name}: ${spec}`);
  if (inputs.length) $("json-hint").textContent = `The model takes ${inputs.join("; ")}`;
  document.querySelector(`input[name=kind][value=${model.accepts}]`).checked = true;
  kindChosen();
}

function kind() {
  return document.querySelector("input[name=kind]:checked").value;
}

function kindChosen() {
  for (const name of ["image", "text", "json"]) $(`panel-${name}`).hidden = kind() !== name;
}

// --- the picture ----------------------------------------------------------------------------------------------------

function takePicture(file) {
  if (!file) return;
  if (file.size > MAX_BYTES) {
    showStatus(`This file has ${file.size} bytes; choose one of at most ${MAX_BYTES}.`, "problem");
    return;
  }
  picture = file;
  $("url").value = "";
  const preview = $("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = `Chosen: ${file.name || "a pasted picture"}`;
  preview.hidden = false;
  preview.onload = () => preview.classList.toggle("small-picture", preview.naturalWidth <= SMALL);
  preview.onerror = () => { preview.hidden = true; };
  $("result").hidden = true;
  showStatus(`${file.name || "A pasted picture"} is chosen.`);
}

function watchPicture() {
  const drop = $("drop");
  $("file").addEventListener("change", (event) => takePicture(event.target.files[0]));
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file && kind() === "image") takePicture(file);
  });
  // Everywhere on the page: a picture that is dropped beside the field must not replace the page.
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  drop.addEventListener("dragover", () => drop.classList.add("over"));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    takePicture(event.dataTransfer.files[0]);
  });
}

// --- the request ----------------------------------------------------------------------------------------------------

function json(body) {
  return { body: JSON.stringify(body), headers: headers({ "Content-Type": "application/json" }) };
}

function toSend() {
  if (kind() === "text") return json({ item: $("text").value });
  if (kind() === "image") {
    const url = $("url").value.trim();
    if (url) return json({ item: { url } });
    if (!picture) throw new Error("Choose a picture first.");
    const form = new FormData();
    form.append("item", picture, picture.name || "pasted");
    return { body: form, headers: headers() };
  }
  const text = $("json").value;
  let given;
  try {
    given = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
  const whole = given !== null && typeof given === "object" && ("item" in given || "items" in given);
  // As it was typed: JavaScript would round large whole numbers.
  const body = whole ? text : `{"item": ${text}}`;
  return { body, headers: headers({ "Content-Type": "application/json" }) };
}

async function ask(event) {
  event.preventDefault();
  if (asking) return;
  const model = chosen();
  let request;
  try {
    if (!model) throw new Error("Choose a model first.");
    request = toSend();
  } catch (error) {
    showProblem(error.message);
    return;
  }
  busy(true);
  const begun = performance.now();
  try {
    const answer = await fetch(`v1/models/${encodeURIComponent(model.name)}`, { method: "POST", ...request });
    const text = await answer.text();
    const seconds = performance.now() - begun;
    const found = JSON.parse(text);
    if (answer.ok) showAnswer(found, text, answer.headers, seconds);
    else showProblem(found.detail, found.request_id);
  } catch (error) {
    showProblem(`The gateway did not answer: ${error.message}`);
  } finally {
    busy(false);
  }
}

function busy(now) {
  asking = now;
  $("send").setAttribute("aria-disabled", String(now));
  $("answer").setAttribute("aria-busy", String(now));
  if (now) showStatus("Asking…");
}

// --- the answer -----------------------------------------------------------------------------------------------------

function showProblem(detail, request = "") {
  $("result").hidden = true;
  showStatus(detail, "problem");
  if (request) $("status").append(element("small", { class: "code" }, `Request ${request}`));
}

function showAnswer(found, text, answered, took) {
  const result = "result" in found ? found.result : found.results;
  showFacts(found, answered);
  $("shown").replaceChildren();
  if (isClassification(result)) showClasses(result);
  else if (isBoxes(result)) showBoxes(result);
  else showStatus(isPlain(result) ? String(result) : "Answered.", "best");
  showTimes(answered.get("Server-Timing") || "", took);
  $("raw").textContent = JSON.stringify(found, null, 1);
  // Where there is nothing else to see, it is the answer.
  $("json-answer").open = !(isPlain(result) || isClassification(result) || isBoxes(result));
  $("result").hidden = false;
}

function showFacts(found, answered) {
  const facts = [
    ["Model", found.model],
    ["Version", found.version],
    ...(found.label ? [["Label", found.label]] : []),
    ["Request", answered.get("X-Request-Id")],
  ];
  $("facts").replaceChildren(
    ...facts.map(([name, value]) =>
      element("div", { class: name.toLowerCase() }, element("dt", {}, name), element("dd", {}, String(value)))),
  );
}

function isPlain(result) {
  return result === null || typeof result !== "object";
}

function isClassification(result) {
  return result !== null && typeof result === "object" && Array.isArray(result.classes);
}

function isBoxes(result) {
  return result !== null && typeof result === "object" && Array.isArray(result.boxes);
}

function percent(score) {
  return `${(Number(score) * 100).toFixed(1)} %`;
}

function showClasses(result) {
  showStatus(result.label === null ? "No class is above the threshold." : String(result.label), "best");
  const probabilities = result.classes.every((one) => one.score >= 0 && one.score <= 1);
  const largest = Math.max(...result.classes.map((one) => Math.abs(one.score)), 1e-9);
  const rows = result.classes.map((one) => {
    const bar = element("span");
    bar.style.setProperty("--share", `${100 * Math.abs(one.score) / (probabilities ? 1 : largest)}%`);
    const score = probabilities ? percent(one.score) : String(one.score);
    return element(
      "li", {},
      element("span", {}, one.label), element("span", { class: "score" }, score),
      element("div", { class: "bar", "aria-hidden": "true" }, bar),
    );
  });
  $("shown").replaceChildren(element("ul", { class: "bars", "aria-label": "Scores" }, ...rows));
}

function showBoxes(result) {
  showStatus(result.boxes.length === 1 ? "1 box" : `${result.boxes.length} boxes`, "best");
  const shown = [];
  if (picture && result.width && !$("url").value) shown.push(drawn(result));
  const rows = result.boxes.map((box) => {
    const place = ["left", "top", "right", "bottom"].map((side) => Math.round(box[side])).join(", ");
    return element("li", {}, element("span", {}, `${box.label ? `${box.label} at ` : ""}${place}`),
      element("span", { class: "score" }, percent(box.score)));
  });
  shown.push(element("ul", { class: "bars", "aria-label": "Boxes: left, top, right, bottom" }, ...rows));
  $("shown").replaceChildren(...shown);
}

function drawn(result) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", `0 0 ${result.width} ${result.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const box of result.boxes) {
    const rect = document.createElementNS(space, "rect");
    const place = { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top };
    for (const [name, value] of Object.entries(place)) rect.setAttribute(name, value);
    svg.append(rect);
  }
  return element("figure", {}, element("img", { src: $("preview").src, alt: "The picture, with the boxes drawn" }), svg);
}

function showTimes(timing, took) {
  const stages = [...timing.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, stage, ms]) => [stage, Number(ms)]);
  const inside = stages.reduce((sum, [, ms]) => sum + ms, 0);
  const rows = [...stages, ["between here and the gateway", Math.max(0, took - inside)]].map(([stage, ms]) =>
    element("tr", {}, element("td", {}, stage), element("td", {}, ms.toFixed(1))));
  rows.push(element("tr", { class: "total" }, element("td", {}, "all of it"), element("td", {}, took.toFixed(1))));
  $("stages").replaceChildren(...rows);
}

// --- start ----------------------------------------------------------------------------------------------------------

$("ask").addEventListener("submit", ask);
$("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("model").addEventListener("change", modelChosen);
for (const radio of document.querySelectorAll("input[name=kind]")) radio.addEventListener("change", kindChosen);
if ($("key")) $("key").addEventListener("change", loadModels);
watchPicture();
kindChosen();
loadModels();
