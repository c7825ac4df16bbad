// @ts-check
/** The small images of the set. Only those on the screen are loaded and painted. */

import { fetchPlane, paint } from "./canvas.js";
import { tellView } from "./live.js";
import { changed, diceOf, leastSure, maskOf, order, state, strokesOf } from "./state.js";

const list = /** @type {HTMLElement} */ (document.getElementById("overview"));
/** @type {Map<number, {button: HTMLButtonElement, canvas: HTMLCanvasElement, plane: import("./canvas.js").Plane | null}>} */
const tiles = new Map();
/** @type {Set<number>} */
const visible = new Set();
let scheduled = false;

const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const image = Number(/** @type {HTMLElement} */ (target).dataset.image);
      if (isIntersecting) visible.add(image);
      else {
        visible.delete(image);
        const tile = tiles.get(image);
        if (tile) tile.plane = null;
      }
    }
    tellView([...visible]);
    repaintTiles();
  },
  { root: list, rootMargin: "80px" },
);

/** Makes the tiles of a session. */
export function makeTiles() {
  observer.disconnect();
  tiles.clear();
  visible.clear();
  list.replaceChildren();
  state.images.forEach(({ name, size }, image) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tile";
    button.dataset.image = String(image);
    const canvas = document.createElement("canvas");
    const ratio = Math.max(0.4, Math.min(1.6, size[0] / size[1]));
    canvas.width = 2 * 160;
    canvas.height = Math.round(2 * 160 * ratio);
    canvas.setAttribute("aria-hidden", "true");
    const caption = document.createElement("span");
    caption.className = "caption";
    for (const part of ["name", "marks", "score"]) {
      const span = document.createElement("span");
      span.className = part;
      caption.append(span);
    }
    /** @type {HTMLElement} */ (caption.firstChild).textContent = name;
    button.append(canvas, caption);
    button.addEventListener("click", () => show(image));
    tiles.set(image, { button, canvas, plane: null });
    list.append(button);
    observer.observe(button);
  });
}

/** Puts the tiles into the chosen order. */
export function sortTiles() {
  const wanted = order();
  const shown = [...list.children].map((child) => Number(/** @type {HTMLElement} */ (child).dataset.image));
  if (wanted.every((image, i) => image === shown[i])) return;
  const focused = document.activeElement;
  for (const image of wanted) {
    const tile = tiles.get(image);
    if (tile) list.append(tile.button);
  }
  if (focused instanceof HTMLElement && list.contains(focused)) focused.focus();
}

/** Shows an image large. @param {number} image */
export function show(image) {
  if (!state.images.length) return;
  const to = Math.max(0, Math.min(state.images.length - 1, image));
  if (to === state.current) return;
  state.current = to;
  tiles.get(to)?.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  tellView();
  changed("current");
}

/** The image that comes `step` places later in the shown order. @param {number} step */
export function step(step) {
  const all = order();
  const at = all.indexOf(state.current);
  show(all[Math.max(0, Math.min(all.length - 1, at + step))]);
}

/** Paints the tiles on the screen with the next frame. */
export function repaintTiles() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    const next = leastSure();
    for (const image of visible) paintTile(image, next);
  });
}

/** @param {number} image @param {number | null} next */
function paintTile(image, next) {
  const tile = tiles.get(image);
  if (!tile || !state.images[image]) return;
  const url = `/api/images/${image}/small?${state.images[image].digest}`;
  if (!tile.plane) {
    fetchPlane(url).then(
      (plane) => {
        if (!visible.has(image) || tile.plane) return;
        tile.plane = plane;
        repaintTiles();
      },
      () => {},
    );
  }
  const [height, width] = state.images[image].size;
  const scale = Math.min(tile.canvas.width / width, tile.canvas.height / height);
  const view = { scale, x: (tile.canvas.width - scale * width) / 2, y: (tile.canvas.height - scale * height) / 2 };
  const context = /** @type {CanvasRenderingContext2D} */ (tile.canvas.getContext("2d"));
  paint(context, { image, url, plane: tile.plane, view, lines: 2.4 });
  describe(image, tile.button, image === next);
}

/** @param {number} image @param {HTMLButtonElement} button @param {boolean} next */
function describe(image, button, next) {
  const prompts = strokesOf(image).filter((stroke) => stroke.structure === state.structure).length;
  const mask = maskOf(image);
  const accepted = state.accepted.has(image);
  const drawn = state.scores.size > 0 || [...state.strokes.values()].some((strokes) => strokes.length);
  const dice = diceOf(image);
  const marks = `${accepted ? "✓ " : ""}${prompts ? `● ${prompts}` : ""}`;
  let score = "";
  if (drawn && dice <= 1) score = `Dice ${dice.toFixed(2)}`;
  else if (drawn && mask && state.model) score = next ? "least sure" : `${Math.round(100 * (1 - mask.uncertainty))} % sure`;
  const [name, marked, scored] = /** @type {HTMLElement[]} */ ([...button.querySelectorAll(".caption span")]);
  marked.textContent = marks;
  scored.textContent = score;
  button.classList.toggle("current", image === state.current);
  button.classList.toggle("accepted", accepted);
  button.classList.toggle("next", next && drawn && state.model !== null);
  button.setAttribute("aria-current", image === state.current ? "true" : "false");
  const words = [name.textContent, prompts ? `${prompts} prompts` : "", accepted ? "accepted" : "", score];
  button.setAttribute("aria-label", words.filter(Boolean).join(", "));
}
