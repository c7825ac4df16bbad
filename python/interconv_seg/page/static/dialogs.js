// @ts-check
/** The screens for opening, exporting and shortcuts. */

import { changed, state } from "./state.js";

/** @param {string} id @returns {any} */
const get = (id) => document.getElementById(id);
const CONTENTS = { masks: "Masks", overlays: "Overlays (PNG)", probabilities: "Probabilities", prompts: "Prompts", table: "Table (CSV)", session: "Session" };
const KEYS = [
  ["drag", "scribble; right button or Alt: the other sign"], ["F · B · X", "inside, outside, swap"], ["C · E", "click, erase a stroke"],
  ["[ ] or Ctrl+wheel", "brush"], ["wheel · + − · 0", "zoom, whole image"], ["Space+drag", "pan"], ["W+drag · Shift+W", "window and level, reset"],
  ["← → · PgUp PgDn · N", "image, by 10, least sure"], ["1–9 · Shift+N", "structure, new structure"], ["A", "accept the image, or change it again"],
  ["U · O · M · T", "uncertainty, outline alone, hide the mask, truth"], ["K, arrows, Enter", "draw with the keyboard"],
  ["Ctrl+Z · Ctrl+Y", "undo, redo"], ["Ctrl+S · Shift+O · ? · Esc", "export, open, this list, drop the stroke"],
];

/** @param {any} parent @param {string} tag @param {string} text @returns {any} */
function add(parent, tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

/** @param {string} url @param {RequestInit} options */
async function ask(url, options = {}) {
  const answer = await fetch(url, options);
  const content = await answer.json().catch(() => ({ error: `${answer.status}` }));
  if (!answer.ok) throw new Error(content.error ?? `${answer.status}`);
  return content;
}

/** @param {any} opening */
export function showOpening(opening) {
  get("opening").textContent = opening ? `Opening ${opening.title} … ${opening.total ? `${opening.done} of ${opening.total}` : ""}` : "";
  if (opening) get("status").textContent = get("opening").textContent;
}

/** @param {string} url @param {RequestInit} [options] */
async function open(url, options) {
  try {
    await ask(url, { method: "POST", ...options });
    get("start").close();
  } catch (error) {
    get("opening").textContent = /** @type {Error} */ (error).message;
  }
}

/** @param {Iterable<File>} files */
function upload(files) {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  if ([...form.keys()].length) open("/api/images", { body: form });
}

export async function openStart() {
  if (!get("start").open) get("start").showModal();
  const found = await ask("/api/start");
  for (const [id, cards] of /** @type {[string, [string, string, string][]][]} */ ([
    ["examples", found.examples.map((/** @type {any} */ e) => [e.title, e.about, `/api/example/${e.name}`])],
    ["recent", found.recent.map((/** @type {any} */ r, /** @type {number} */ i) => [r.title, new Date(1000 * r.opened).toLocaleString(), `/api/recent/${i}`])],
  ])) {
    get(id).replaceChildren();
    for (const [title, about, url] of cards) {
      const card = add(get(id), "button", title);
      card.type = "button";
      add(card, "small", about);
      card.addEventListener("click", () => open(url));
    }
  }
  get("recent-title").hidden = !found.recent.length;
}

export function openExport() {
  if (!state.images.length || get("exporting").open) return;
  get("export-structures").querySelectorAll("label").forEach((/** @type {Element} */ old) => old.remove());
  state.structures.forEach((name, i) => check(get("export-structures"), name, String(i + 1)));
  get("export-result").textContent = "";
  get("export-files").replaceChildren();
  get("exporting").showModal();
}

/** @param {any} parent @param {string} text @param {string} value */
function check(parent, text, value) {
  const label = add(parent, "label", "");
  label.className = "check";
  const box = add(label, "input", "");
  Object.assign(box, { type: "checkbox", checked: true, value });
  label.append(text);
}

export function openShortcuts() {
  if (!get("shortcuts").open) get("shortcuts").showModal();
}

async function runExport() {
  /** @param {string} id */
  const checked = (id) => [...get(id).querySelectorAll("input:checked")].map((/** @type {any} */ box) => box.value);
  const choice = {
    contents: checked("contents"), structures: checked("export-structures").map(Number), one_file: get("one-file").value,
    threshold: Number(get("threshold").value), accepted_only: get("accepted-only").checked,
  };
  get("export-result").textContent = "Writing …";
  try {
    const found = await ask("/api/export", { method: "POST", body: JSON.stringify(choice), headers: { "content-type": "application/json" } });
    get("export-result").textContent = found.folder ? `${found.files.length} files in ${found.folder}` : `${found.files.length} files:`;
    get("export-files").replaceChildren();
    for (const file of found.files) add(get("export-files"), "li", file);
    if (found.number !== null) {
      const link = document.createElement("a");
      link.href = `/api/export/${found.number}`;
      link.download = "";
      link.click();
    }
  } catch (error) {
    get("export-result").textContent = /** @type {Error} */ (error).message;
  }
}

export function makeDialogs() {
  for (const [value, text] of Object.entries(CONTENTS)) check(get("contents"), text, value);
  for (const [key, text] of KEYS) {
    add(get("keys"), "dt", "").append(Object.assign(document.createElement("kbd"), { textContent: key }));
    add(get("keys"), "dd", text);
  }
  get("export-go").addEventListener("click", runExport);
  for (const id of ["files", "folder"]) get(id).addEventListener("change", () => upload(get(id).files));
  get("letters").addEventListener("change", () => { state.letterKeys = get("letters").checked; changed("view"); });
  addEventListener("dragover", (event) => { event.preventDefault(); get("drop").classList.add("over"); });
  addEventListener("dragleave", () => get("drop").classList.remove("over"));
  addEventListener("drop", (event) => { event.preventDefault(); get("drop").classList.remove("over"); upload(event.dataTransfer?.files ?? []); });
}
