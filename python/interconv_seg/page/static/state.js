// @ts-check
/** What the page knows: the session as the server told it, what was drawn since, and how it is shown. */

/**
 * @typedef {{name: string, size: [number, number], truth: boolean, digest: string}} ImageInfo
 * @typedef {{id: string, structure: number, positive: boolean, radius: number, points: [number, number][]}} Stroke
 * @typedef {{values: Uint8Array, uncertainty: number, dice: number, path: Path2D | null}} Mask
 * @typedef {{following: number | null, copy: number | null, no_prompt: number | null}} Scores
 */

// Okabe and Ito's colours, which colour-blind people can tell apart; `export.py` has the same.
export const COLORS = ["#009e73", "#e69f00", "#56b4e9", "#d55e00", "#cc79a7", "#f0e442", "#0072b2"];
export const INSIDE = "#c6f74b";
export const OUTSIDE = "#ff6fae";

export const state = {
  /** @type {ImageInfo[]} */ images: [],
  title: "",
  /** @type {string | null} */ model: null,
  together: 0,
  opened: 0,
  /** @type {[number, number]} */ grid: [1, 1],
  /** @type {Record<string, string>} */ labels: {},
  /** @type {string[]} */ structures: [],
  /** @type {Map<number, Stroke[]>} */ strokes: new Map(),
  /** @type {Set<number>} */ accepted: new Set(),
  /** @type {{name: string, why: string}[]} */ refused: [],
  notice: "",
  undo: 0,
  redo: 0,

  /** @type {Map<number, Map<number, Mask>>} by structure and image */ masks: new Map(),
  /** @type {Map<number, Uint8Array>} labels on the grid */ truths: new Map(),
  /** @type {Map<number, Scores>} by structure */ scores: new Map(),
  /** @type {Map<number, number>} revision of the masks, by structure */ revisions: new Map(),
  stale: false,

  /** @type {Map<string, {image: number, stroke: Stroke}>} drawn here, not yet confirmed */ local: new Map(),
  /** @type {Set<string>} erased here, not yet confirmed */ erased: new Set(),

  current: 0,
  structure: 1,
  /** @type {"inside" | "outside" | "click" | "erase"} */ tool: "inside",
  radius: 1,
  overlay: 0.35,
  window: 1,
  level: 0.5,
  uncertainty: false,
  outline: false,
  truth: false,
  hidden: false,
  /** @type {"order" | "unsure" | "dice"} */ sort: "order",
  letterKeys: true,
};

/** @type {Set<(what: string) => void>} */
const listeners = new Set();

/** @param {(what: string) => void} listener called with what changed */
export function subscribe(listener) {
  listeners.add(listener);
}

/** @param {string} what "session", "strokes", "masks", "view", "current" or "scores" */
export function changed(what) {
  for (const listener of listeners) listener(what);
}

/** @param {any} message "session" or GET /api/session */
export function setSession(message) {
  const same = message.opened === state.opened;
  Object.assign(state, {
    images: message.images,
    title: message.title,
    model: message.model,
    together: message.together,
    opened: message.opened,
    grid: message.grid,
    labels: message.labels,
    structures: message.structures,
    accepted: new Set(message.accepted),
    refused: message.refused,
    notice: message.notice,
    undo: message.undo,
    redo: message.redo,
    masks: new Map(),
    scores: new Map(),
    revisions: new Map(),
  });
  state.strokes = new Map(Object.entries(message.strokes).map(([image, strokes]) => [Number(image), strokes]));
  if (!same) {
    state.truths = new Map();
    state.current = 0;
    state.structure = 1;
  }
  state.current = Math.min(state.current, state.images.length - 1);
  state.structure = Math.min(state.structure, state.structures.length);
  changed("session");
}

/** @param {any} message "changed" */
export function setChanged(message) {
  state.undo = message.undo;
  state.redo = message.redo;
  for (const [image, strokes] of Object.entries(message.strokes ?? {})) state.strokes.set(Number(image), strokes);
  if (message.accepted) state.accepted = new Set(message.accepted);
  if (message.structures) {
    state.structures = message.structures;
    state.structure = Math.min(state.structure, state.structures.length);
    changed("session");
  }
  if (message.id) {
    if (!drawing(message.id)) state.local.delete(message.id);
    state.erased.delete(message.id);
  }
  changed("strokes");
}

/** Whether a stroke is still being drawn. @param {string} id */
export function drawing(id) {
  return state.local.get(id)?.stroke === active.stroke && active.stroke !== null;
}

export const active = { /** @type {Stroke | null} */ stroke: null };

/**
 * Takes a binary message with masks (`wire.py`).
 * @param {ArrayBuffer} buffer
 * @returns {{revision: number, network: number, server: number, last: boolean} | null} null if its version is unknown
 */
export function setMasks(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0) !== 0x49434d31) return null;
  const revision = view.getUint32(4, true);
  const structure = view.getUint16(8, true);
  const count = view.getUint16(10, true);
  const last = (view.getUint8(17) & 1) === 1;
  const network = view.getFloat32(20, true);
  const server = view.getFloat32(24, true);
  const masks = state.masks.get(structure) ?? new Map();
  state.masks.set(structure, masks);
  let at = 28;
  for (let i = 0; i < count; i++) {
    const image = view.getUint32(at, true);
    const bytes = view.getUint32(at + 12, true);
    masks.set(image, {
      uncertainty: view.getFloat32(at + 4, true),
      dice: view.getFloat32(at + 8, true),
      values: new Uint8Array(buffer, at + 16, bytes),
      path: null,
    });
    for (const others of state.masks.values()) {
      const other = others.get(image);
      if (other) other.path = null; // where masks meet, this one may win now
    }
    at += 16 + bytes;
  }
  state.revisions.set(structure, revision);
  if (last) state.stale = false;
  changed("masks");
  return { revision, network, server, last };
}

/** The strokes that are shown on an image. @param {number} image @returns {Stroke[]} */
export function strokesOf(image) {
  const known = (state.strokes.get(image) ?? []).filter((stroke) => !state.erased.has(stroke.id));
  const ids = new Set(known.map((stroke) => stroke.id));
  for (const { image: other, stroke } of state.local.values()) {
    if (other === image && !ids.has(stroke.id)) known.push(stroke);
  }
  return known;
}

/** @param {number} image @param {number} [structure] */
export function maskOf(image, structure = state.structure) {
  return state.masks.get(structure)?.get(image);
}

/** The mask of a structure where it wins over the others. @param {number} image @param {number} structure */
export function visibleField(image, structure) {
  const own = maskOf(image, structure);
  if (!own) return null;
  let field = own.values;
  for (let other = 1; other <= state.structures.length; other++) {
    const values = other === structure ? undefined : maskOf(image, other)?.values;
    if (!values) continue;
    if (field === own.values) field = own.values.slice();
    for (let i = 0; i < field.length; i++) {
      const loses = values[i] > own.values[i] || (values[i] === own.values[i] && other < structure);
      if (loses && field[i] > 127) field[i] = 127;
    }
  }
  return field;
}

/** The value of the structure in the masks that come with the images, or undefined. */
export function labelOfStructure() {
  const name = state.structures[state.structure - 1];
  return Object.entries(state.labels).find(([, known]) => known === name)?.[0];
}

/** The image whose prompt would help most: the least sure without a prompt. @returns {number | null} */
export function leastSure() {
  let best = null;
  let most = -1;
  for (let i = 0; i < state.images.length; i++) {
    if (state.accepted.has(i) || strokesOf(i).some((stroke) => stroke.structure === state.structure)) continue;
    const unsure = maskOf(i)?.uncertainty ?? 0;
    if (unsure > most) [best, most] = [i, unsure];
  }
  return best;
}

/** Indices of the images in the order in which they are shown. @returns {number[]} */
export function order() {
  const all = state.images.map((_, i) => i);
  if (state.sort === "unsure") all.sort((a, b) => (maskOf(b)?.uncertainty ?? 0) - (maskOf(a)?.uncertainty ?? 0));
  if (state.sort === "dice") all.sort((a, b) => diceOf(a) - diceOf(b));
  return all;
}

/** @param {number} image */
export function diceOf(image) {
  const dice = maskOf(image)?.dice ?? NaN;
  return Number.isNaN(dice) ? 2 : dice;
}
