// The page of rmt serve. Text from the server is set as text only, never as HTML.
import { decodeRuns, drawBoxes, drawHeat, drawPoint, overlay } from "./draw.js";
import { picturePage, save } from "./download.js";
import { ask, askAbout, useToken } from "./server.js";

const $ = (id) => document.getElementById(id);
const images = []; // {file, bitmap, answer, error, busy, point, waiting, explanation, refusal, opacity, threshold, head}
let model = null, current = null, modelIsKnown;
const known = new Promise((resolve) => { modelIsKnown = resolve; });
const OPACITY = 58, MAX_SIDE = 1600, WAIT = "Computing what the heads attend to…";

const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const percent = (share) => (share > 0 && share < 0.0005 ? "<0.1 %" : `${(100 * share).toFixed(1)} %`);
const say = (text) => { $("status").textContent = text; };
const busy = (seconds) => say(`The server is busy. Trying again in ${seconds} s…`);
const complain = (text) => { $("error").textContent = text; $("error").hidden = !text; };

// ---- images and their answers

async function start() {
  try {
    model = await ask("model");
  } catch (error) {
    $("about").textContent = "";
    $("token-form").hidden = error.status !== 401;
    if (error.status === 401) $("token").focus();
    complain(error.message);
    return;
  }
  complain("");
  $("token-form").hidden = true;
  $("title").textContent = `RMT demo: ${model.model}`;
  document.title = `RMT demo: ${model.model}`;
  const what = { classify: "says which class an image shows", detect: "finds objects", segment: "gives every pixel a class" };
  const shown = model.classes.slice(0, 12).join(", ") + (model.classes.length > 12 ? ", …" : "");
  $("about").textContent = `A network that ${what[model.task]}. It knows ${model.classes.length} ${model.classes.length === 1 ? "class" : "classes"}: ${shown}.`;
  $("view-help").textContent = model.explains
    ? "Click a point, or move it with the arrow keys (Shift: larger steps), to see what each head attends to from there. Escape removes it."
    : "";
  modelIsKnown();
}

function add(files) {
  complain("");
  const found = [...files].filter((file) => file.size || file.type);
  if (!found.length) return complain("That is not an image file.");
  for (const file of found) {
    if (model && file.size > model.limits.max_body) {
      const most = Math.floor(model.limits.max_body / 2 ** 20);
      complain(`${file.name || "The image"} is larger than the ${most} MB that this server takes. Please choose a smaller one.`);
      continue;
    }
    const entry = { file, busy: true, opacity: OPACITY, head: null };
    images.push(entry);
    show(entry);
    compute(entry);
  }
}

async function compute(entry) {
  const name = entry.file.name || "the image";
  const shown = createImageBitmap(entry.file).then((bitmap) => {
    entry.bitmap = bitmap;
    if (entry === current) show(entry);
    listImages();
  }, () => {});
  await known; // with a token, once it is given
  say(`Computing ${name}…`);
  entry.threshold = Math.round(100 * (model.threshold ?? 0.5));
  try {
    const query = model.task === "detect" ? "?threshold=0" : model.task === "classify" ? "?top_k=10" : "";
    const answer = await askAbout(`predict${query}`, entry.file, busy);
    if (answer.classes_png) entry.map = await overlay(answer.classes_png, model);
    if (answer.objects) for (const object of answer.objects) object.pixels = object.mask && decodeRuns(object.mask);
    entry.answer = answer;
  } catch (error) {
    entry.error = `${name} cannot be used: ${error.message}. Please try another image.`;
  }
  await shown;
  entry.busy = false;
  if (entry === current) show(entry);
  else say(entry.error ?? `${name} is done.`);
  listImages();
}

function show(entry) {
  current = entry;
  complain(entry.error ?? "");
  $("work").hidden = !entry.answer && !entry.bitmap;
  $("answer").hidden = !entry.answer;
  $("opacity-row").hidden = !entry.map;
  $("threshold-row").hidden = !entry.answer?.objects;
  $("opacity").value = entry.opacity;
  $("threshold").value = entry.threshold;
  draw();
  list();
  showExplanation();
  if (entry.answer) say(summary(entry));
  else if (entry.error) say("");
  listImages();
}

function listImages() {
  $("images").hidden = images.length < 2;
  $("images").replaceChildren(...images.map((entry) => {
    const thumbnail = element("canvas", { width: 64, height: 64 });
    if (entry.bitmap) {
      const { width, height } = entry.bitmap, side = Math.min(width, height);
      thumbnail.getContext("2d").drawImage(entry.bitmap, (width - side) / 2, (height - side) / 2, side, side, 0, 0, 64, 64);
    }
    const button = element("button", { type: "button", onclick: () => show(entry) }, thumbnail);
    const state = entry.busy ? "computing" : entry.error ? "cannot be used" : summary(entry);
    button.setAttribute("aria-label", `${entry.file.name || "image"}: ${state}`);
    button.setAttribute("aria-current", String(entry === current));
    button.setAttribute("aria-busy", String(entry.busy));
    return element("li", {}, button);
  }));
}

const objectsShown = (entry) => entry.answer.objects.filter((object) => 100 * object.score >= entry.threshold);

function summary(entry) {
  const { predictions, objects, shares } = entry.answer;
  if (predictions) return `${predictions[0].label}, ${percent(predictions[0].probability)}`;
  if (shares) return shares.slice(0, 3).map((one) => `${one.label} ${percent(one.share)}`).join(", ");
  const counts = new Map();
  for (const { label } of objectsShown(entry)) counts.set(label, (counts.get(label) ?? 0) + 1);
  const found = [...counts].sort((one, other) => other[1] - one[1]).slice(0, 5).map(([label, count]) => `${count} × ${label}`);
  return found.join(", ") || "No object with this score or more";
}

function list() {
  const answer = current.answer;
  if (!answer) return $("results").replaceChildren();
  const row = (label, value, share, colour) => {
    const parts = [];
    if (share !== null) {
      const bar = element("span", { className: "bar" });
      bar.style.width = `${100 * share}%`;
      parts.push(bar);
    }
    if (colour) {
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = `rgb(${colour})`;
      parts.push(swatch);
    }
    for (const part of parts) part.setAttribute("aria-hidden", "true");
    return element("li", {}, ...parts, element("span", { className: "name", textContent: label }), element("span", { className: "value", textContent: value }));
  };
  let rows;
  if (answer.predictions) rows = answer.predictions.map((one) => row(one.label, percent(one.probability), one.probability));
  else if (answer.shares) {
    rows = answer.shares.map((one) => row(one.label, percent(one.share), null, model.transparent.includes(one.index) ? [255, 255, 255] : model.colours[one.index]));
  } else rows = objectsShown(current).map((one) => row(one.label, one.score.toFixed(2), null, model.colours[one.index]));
  $("threshold-value").textContent = (current.threshold / 100).toFixed(2);
  $("results").replaceChildren(...(rows.length ? rows : [element("li", { textContent: summary(current) })]));
}

// ---- the picture

function draw() {
  if (!current.bitmap) {
    $("picture").hidden = true; // a format that the server reads and the browser does not
    return;
  }
  $("picture").hidden = false;
  const scale = Math.min(1, MAX_SIDE / Math.max(current.bitmap.width, current.bitmap.height));
  paint($("view"), current, scale);
  $("view").setAttribute("aria-label", `The image${current.answer ? `: ${summary(current)}` : ""}`);
}

function paint(canvas, entry, scale) {
  const small = Math.max(1, 320 / Math.max(entry.bitmap.width, entry.bitmap.height)); // lines need some pixels
  const factor = scale * small;
  canvas.width = Math.round(entry.bitmap.width * factor);
  canvas.height = Math.round(entry.bitmap.height * factor);
  const context = canvas.getContext("2d");
  context.drawImage(entry.bitmap, 0, 0, canvas.width, canvas.height);
  if (entry.map) {
    context.globalAlpha = entry.opacity / 100;
    context.imageSmoothingEnabled = false;
    context.drawImage(entry.map, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
    context.imageSmoothingEnabled = true;
  }
  if (entry.answer?.objects) drawBoxes(context, objectsShown(entry), factor, model.colours);
  const head = entry.head !== null && entry.explanation?.stages[entry.stage];
  if (head) drawHeat(context, entry.explanation, head, entry.head, $("decay").checked, factor);
  if (entry.point) drawPoint(context, entry.point.x * canvas.width, entry.point.y * canvas.height);
}

// ---- the point, and what the heads attend to from there

function setPoint(point) {
  if (!model?.explains || !current?.answer) return;
  current.point = point && { x: Math.min(Math.max(point.x, 0), 1), y: Math.min(Math.max(point.y, 0), 1) };
  if (!point) current.explanation = current.head = null;
  draw();
  showExplanation();
  clearTimeout(current.waiting);
  if (point) current.waiting = setTimeout(explain, 250, current);
}

async function explain(entry) {
  const point = entry.point;
  entry.refusal = null;
  if (entry === current) $("explain-text").textContent = WAIT;
  try {
    const found = await askAbout(`explain?x=${point.x.toFixed(4)}&y=${point.y.toFixed(4)}`, entry.file, busy);
    if (entry.point !== point) return; // it has moved on
    entry.explanation = found;
    entry.stage = Math.min(entry.stage ?? 0, found.stages.length - 1);
  } catch (error) {
    if (entry.point !== point) return;
    entry.explanation = null;
    entry.refusal = `${error.message}.`;
  }
  if (entry === current) {
    draw();
    showExplanation();
  }
}

function showExplanation() {
  const found = current?.explanation;
  $("explain").hidden = !current?.point;
  if (!found) {
    $("explain-text").textContent = current?.refusal ?? WAIT;
    return $("heads").replaceChildren();
  }
  const stages = found.stages.map((one, number) => element("option", { value: number, textContent: `${one.stage}: ${one.grid[1]}×${one.grid[0]} tokens, ${one.form}` }));
  $("stage").replaceChildren(...stages);
  $("stage").value = current.stage;
  const stage = found.stages[current.stage];
  const at = `From the point ${Math.round(found.at[0])}, ${Math.round(found.at[1])}`;
  const decay = stage.heads.some((head) => head.half_distance !== null)
    ? " The dashed diamond is the distance at which the decay built into the head halves a weight." : "";
  $("explain-text").textContent = `${at}, stage ${stage.stage}: the brighter, the more attended to.${decay} Choose a head to see it on the image.`;
  $("heads").replaceChildren(...stage.heads.map((head, number) => {
    const [left, top, right, bottom] = found.view, scale = Math.min(1, 200 / Math.max(right - left, bottom - top));
    const canvas = element("canvas", { width: Math.max(1, (right - left) * Math.max(scale, 120 / (right - left))), height: Math.max(1, (bottom - top) * Math.max(scale, 120 / (right - left))) });
    const factor = canvas.width / (right - left), context = canvas.getContext("2d");
    context.translate(-left * factor, -top * factor);
    if (current.bitmap) context.drawImage(current.bitmap, 0, 0, current.bitmap.width * factor, current.bitmap.height * factor);
    drawHeat(context, found, stage, number, $("decay").checked, factor);
    drawPoint(context, found.at[0] * factor, found.at[1] * factor, 4);
    const half = head.half_distance === null ? "" : `; decay halves at ${head.half_distance.toFixed(0)} px`;
    const text = `Head ${number + 1}: looks ${head.mean_distance.toFixed(0)} px far${half}`;
    const button = element("button", { type: "button", onclick: () => choose(number) }, canvas, element("span", { textContent: text }));
    canvas.setAttribute("aria-hidden", "true");
    button.setAttribute("aria-pressed", String(current.head === number));
    return element("li", {}, button);
  }));
}

function choose(number) {
  current.head = current.head === number ? null : number;
  for (const [place, button] of [...$("heads").querySelectorAll("button")].entries()) {
    button.setAttribute("aria-pressed", String(current.head === place));
  }
  draw();
}

// ---- downloads

function saveJSON() {
  const plain = (key, value) => (key === "pixels" || key === "canvas" ? undefined : value); // not the server's
  const content = { image: current.file.name, model: model.model, task: model.task, ...current.answer };
  if (current.answer.objects) content.objects = objectsShown(current);
  save(new Blob([JSON.stringify(content, plain, 1)], { type: "application/json" }), current.file.name, ".json");
}

function savePNG() {
  if (!current.bitmap) return complain("This browser cannot show the image, so there is no picture to download.");
  const { file } = current, picture = element("canvas");
  paint(picture, current, 1);
  const texts = (row) => [...row.querySelectorAll(".name, .value")].map((part) => part.textContent);
  const rows = [...$("results").children].slice(0, 12).map(texts);
  picturePage(picture, rows).toBlob((blob) => save(blob, file.name, ".png"), "image/png");
}

// ---- what the user does

for (const id of ["file", "camera"]) {
  $(id).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = "";
  });
}
document.addEventListener("paste", (event) => {
  const files = event.clipboardData?.files;
  if (files?.length) add(files);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  add(event.dataTransfer.files);
});
$("view").addEventListener("click", (event) => {
  const box = $("view").getBoundingClientRect();
  setPoint({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
});
$("view").addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 0.1 : 0.025;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (event.key === "Escape") return setPoint(null);
  if (!moves[event.key]) return;
  event.preventDefault();
  const point = current?.point ?? { x: 0.5, y: 0.5 }, [x, y] = current?.point ? moves[event.key] : [0, 0];
  setPoint({ x: point.x + x, y: point.y + y });
});
$("opacity").addEventListener("input", (event) => {
  current.opacity = Number(event.target.value);
  draw();
});
$("threshold").addEventListener("input", (event) => {
  current.threshold = Number(event.target.value);
  draw();
  list();
});
$("stage").addEventListener("change", (event) => {
  current.stage = Number(event.target.value);
  current.head = null;
  draw();
  showExplanation();
});
$("decay").addEventListener("change", () => {
  draw();
  showExplanation();
});
$("save-json").addEventListener("click", saveJSON);
$("save-png").addEventListener("click", savePNG);
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken($("token").value);
  start();
});
start();
