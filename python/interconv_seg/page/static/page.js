// @ts-check
/** Wires the screens together. */

import { forgetImages, fetchPlane } from "./canvas.js";
import { makeDialogs, openExport, openShortcuts, openStart, showOpening } from "./dialogs.js";
import { crosshairKey, drop, editor, hold, leaveImage, onScreen, repaint, setRadius, showAll, toggleCrosshair, zoom } from "./editor.js";
import { connect, handlers, perform, timing } from "./live.js";
import { makeTiles, repaintTiles, show, sortTiles, step } from "./overview.js";
import { changed, labelOfStructure, leastSure, state, strokesOf, subscribe } from "./state.js";

/** @param {string} id @returns {any} */
const get = (id) => document.getElementById(id);
let shown = 0;
let firstStatus = true;

editor.say = handlers.problem = (text) => {
  get("status").textContent = text;
};

handlers.link = (link) => {
  const lost = link === "lost" ? "Connection lost. Drawing goes on; strokes are kept and sent when it is back." : "";
  banner(link === "replaced" ? "The page was opened in another window. Reload to use this one." : lost);
};

/** @param {string} text */
function banner(text) {
  const refused = state.refused.length ? `${state.refused.length} files were refused: ${state.refused[0].why}` : "";
  const painting = state.images.length && !state.model
    ? "No network is loaded: masks are what you paint, and other images do not follow. Start with --run RUN to load one."
    : "";
  const found = text || state.notice || refused || painting;
  get("banner").textContent = found;
  get("banner").hidden = !found;
}

handlers.status = (message) => {
  showOpening(message.opening);
  if (firstStatus && !message.opening && !message.opened) openStart();
  firstStatus = false;
};

subscribe((what) => {
  if (what === "session") {
    if (shown !== state.opened) {
      forgetImages();
      leaveImage();
      makeTiles();
      shown = state.opened;
      get("start").close();
    }
    get("model").textContent = state.model ?? "annotator without a network";
    get("radius").max = state.model ? 8 : 32;
    makeStructures();
    banner("");
  }
  if (what === "current") {
    leaveImage();
    loadTruth();
  }
  if (what === "timing") {
    const ms = (/** @type {number} */ value) => Math.round(value);
    get("status").textContent = `revision ${timing.revision} · stroke to set ${ms(timing.total)} ms (network ${ms(timing.network)})`;
    return;
  }
  if (what === "masks" && state.sort !== "order") sortTiles();
  repaint();
  repaintTiles();
  describe();
});

function describe() {
  if (!state.images.length) return;
  const mine = state.images.map((_, i) => strokesOf(i).filter((s) => s.structure === state.structure).length);
  const count = mine.reduce((a, b) => a + b, 0);
  get("counts").textContent = `${count} strokes on ${mine.filter(Boolean).length} of ${mine.length} images`;
  get("undo").disabled = !state.undo;
  get("redo").disabled = !state.redo;
  const accepted = state.accepted.has(state.current);
  get("accept").setAttribute("aria-pressed", String(accepted));
  get("next").disabled = leastSure() === null;
  get("caption").textContent = `${state.images[state.current].name} (${state.current + 1} of ${state.images.length})${accepted ? " · accepted" : ""} · ← → to change · wheel zooms, Space drags, W sets the window`;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(/** @type {HTMLElement} */ (button).dataset.tool === state.tool));
  }
  for (const name of ["radius", "overlay", "window", "level"]) get(name).value = /** @type {any} */ (state)[name];
  for (const name of ["uncertainty", "outline", "truth"]) get(name).checked = /** @type {any} */ (state)[name];
  get("truth").disabled = labelOfStructure() === undefined;
  get("radius-value").textContent = `${state.radius} px`;
  document.body.classList.toggle("stale", state.stale);
  const scores = state.scores.get(state.structure);
  get("scores").replaceChildren();
  if (!scores || scores.following === null) return;
  add(get("scores"), "span", "Dice of images without prompts").className = "title";
  for (const [name, value] of /** @type {[string, number | null][]} */ ([["following", scores.following], ["copy", scores.copy], ["no prompt", scores.no_prompt]])) {
    if (value === null) continue;
    add(get("scores"), "span", name);
    const meter = add(get("scores"), "meter", "");
    meter.value = value;
    meter.setAttribute("aria-label", name);
    add(get("scores"), "span", value.toFixed(2));
  }
}

/** @param {HTMLElement} parent @param {string} tag @param {string} text @returns {any} */
function add(parent, tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

function makeStructures() {
  get("structures").replaceChildren();
  state.structures.forEach((name, i) => {
    const button = add(get("structures"), "button", "");
    button.type = "button";
    button.className = "structure";
    button.setAttribute("aria-pressed", String(i + 1 === state.structure));
    add(button, "span", "").className = `swatch c${i % 7}`;
    add(button, "span", name);
    if (i < 9) add(button, "kbd", String(i + 1));
    button.addEventListener("click", () => choose(i + 1));
  });
}

/** @param {number} structure */
function choose(structure) {
  if (structure > state.structures.length) return;
  drop();
  state.structure = structure;
  makeStructures();
  changed("view");
}

function addStructure() {
  const free = Object.values(state.labels).find((name) => !state.structures.includes(name));
  const name = window.prompt("Name of the new structure", free ?? `structure ${state.structures.length + 1}`);
  if (name?.trim()) perform({ op: "structure", name: name.trim() });
}

async function loadTruth() {
  const image = state.current;
  if (!state.truth || !state.images[image]?.truth || state.truths.has(image)) return;
  const plane = await fetchPlane(`/api/images/${image}/truth?${state.images[image].digest}`);
  state.truths.set(image, /** @type {Uint8Array} */ (plane.values));
  repaint();
}

/** @param {string} tool */
function setTool(tool) {
  state.tool = /** @type {any} */ (tool);
  changed("view");
}

/** @param {"uncertainty" | "outline" | "truth"} name */
function toggle(name) {
  state[name] = !state[name];
  if (name === "truth") loadTruth();
  changed("view");
}

const accept = () => perform({ op: "accept", image: state.current, accepted: !state.accepted.has(state.current) });
const next = () => show(leastSure() ?? state.current);
const undo = () => state.undo && perform({ op: "undo" });
const redo = () => state.redo && perform({ op: "redo" });

/** @type {Record<string, () => void>} */
const KEYS = {
  f: () => setTool("inside"), b: () => setTool("outside"), c: () => setTool("click"), e: () => setTool("erase"),
  x: () => setTool(state.tool === "inside" ? "outside" : "inside"), k: toggleCrosshair, n: next, N: addStructure, a: accept,
  u: () => toggle("uncertainty"), o: () => toggle("outline"), O: openStart, t: () => toggle("truth"),
  "[": () => setRadius(state.radius / 1.25), "]": () => setRadius(state.radius * 1.25), 0: showAll,
  "+": () => zoom(1.25), "-": () => zoom(0.8), "?": openShortcuts,
  W: () => { state.window = 1; state.level = 0.5; changed("view"); },
};

addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (document.querySelector("dialog[open]") || target.matches("input[type=text], input[type=number], select")) return;
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  let handled = true;
  if (control && key === "z") event.shiftKey ? redo() : undo();
  else if (control && key === "y") redo();
  else if (control && key === "s") openExport();
  else if (control) handled = false;
  else if (!(target.matches("button") && event.key === "Enter") && crosshairKey(event)) handled = true;
  else if (event.key === "Escape") drop();
  else if (target.matches("input[type=range]") && event.key.startsWith("Arrow")) handled = false;
  else if (event.key === "ArrowLeft" || event.key === "ArrowUp") step(-1);
  else if (event.key === "ArrowRight" || event.key === "ArrowDown") step(1);
  else if (event.key === "PageUp") step(-10);
  else if (event.key === "PageDown") step(10);
  else if (!state.letterKeys) handled = false;
  else if (/^[1-9]$/.test(event.key)) choose(Number(event.key));
  else if (event.key === " " && !target.matches("button, input")) hold("space", true);
  else if (event.key === "w") hold("w", true);
  else if (event.key === "m") { state.hidden = true; changed("view"); }
  else if (KEYS[event.key]) KEYS[event.key]();
  else handled = false;
  if (handled) event.preventDefault();
});
addEventListener("keyup", (event) => {
  if (event.key === " ") hold("space", false);
  if (event.key === "w") hold("w", false);
  if (event.key === "m" && state.hidden) { state.hidden = false; changed("view"); }
});

for (const name of ["radius", "overlay", "window", "level"]) {
  get(name).addEventListener("input", () => {
    /** @type {any} */ (state)[name] = Number(get(name).value);
    changed("view");
  });
}
for (const name of /** @type {const} */ (["uncertainty", "outline", "truth"])) get(name).addEventListener("change", () => toggle(name));
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => setTool(/** @type {any} */ (button).dataset.tool));
for (const [id, action] of /** @type {[string, () => void][]} */ ([["open", openStart], ["export", openExport], ["help", openShortcuts], ["add", addStructure], ["undo", undo], ["redo", redo], ["next", next], ["accept", accept]])) {
  get(id).addEventListener("click", action);
}
get("sort").addEventListener("change", () => { state.sort = get("sort").value; sortTiles(); });

makeDialogs();
connect();
/** @type {any} */ (window).page = { state, timing, onScreen }; // for the browser tests
