// @ts-check
/** The connection: what is drawn goes up, masks come down. What was not confirmed is sent again after a loss. */

import { active, changed, setChanged, setMasks, setSession, state } from "./state.js";

const KEPT_MS = 3000; // the server saves later than it confirms: what is younger is sent again after a crash
const RETRY_MS = [300, 600, 1000, 2000];

/** @type {WebSocket | null} */
let socket = null;
let tries = 0;
let revision = 0;
let replaced = false;
/** @type {{message: any, confirmed: number}[]} operations with ids, in order */
let outbox = [];
/** @type {{revision: number, at: number}[]} when requests were made, to measure */
let asked = [];

export const timing = { total: NaN, network: NaN, revision: 0, connected: false, /** @type {number[]} */ all: [] };
/** @type {{status: (message: any) => void, problem: (text: string) => void, link: (state: string) => void}} */
export const handlers = { status: () => {}, problem: () => {}, link: () => {} };

/** A new id. */
export function newId() {
  return `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`;
}

export function connect() {
  const opening = new WebSocket(`ws://${location.host}/api/live`);
  opening.binaryType = "arraybuffer";
  opening.onopen = () => {
    socket = opening;
    tries = 0;
  };
  opening.onmessage = (event) => (typeof event.data === "string" ? onText(JSON.parse(event.data)) : onMasks(event.data));
  opening.onclose = (event) => {
    socket = null;
    timing.connected = false;
    if (event.code === 4001) {
      replaced = true;
      handlers.link("replaced");
      return;
    }
    handlers.link("lost");
    setTimeout(connect, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
  };
}

/** @param {any} message */
function onText(message) {
  if (message.type === "session") {
    const other = state.opened !== 0 && message.images && !sameImages(message.images);
    if (other) {
      outbox = [];
      state.local.clear();
    }
    setSession(message);
    timing.connected = true;
    handlers.link("open");
    const now = performance.now();
    outbox = outbox.filter((entry) => !entry.confirmed || now - entry.confirmed < KEPT_MS);
    for (const { message: again } of outbox) transmit(again);
    tellView();
  } else if (message.type === "changed") {
    confirm(message.id);
    setChanged(message);
  } else if (message.type === "scores") {
    state.scores.set(message.structure, message);
    changed("scores");
  } else if (message.type === "error") {
    confirm(message.id);
    if (message.id) {
      state.local.delete(message.id);
      state.erased.delete(message.id);
    }
    changed("strokes");
    handlers.problem(message.error);
  } else if (message.type === "status") {
    timing.connected = true;
    handlers.link("open");
    handlers.status(message);
  }
}

/** @param {any[]} images */
function sameImages(images) {
  return images.length === state.images.length && images.every((image, i) => image.digest === state.images[i].digest);
}

/** @param {string} id */
function confirm(id) {
  const now = performance.now();
  outbox = outbox.filter((entry) => !entry.confirmed || now - entry.confirmed < KEPT_MS);
  const entry = outbox.find((candidate) => candidate.message.id === id);
  if (entry) entry.confirmed = now;
}

/** @param {ArrayBuffer} buffer */
function onMasks(buffer) {
  const found = setMasks(buffer);
  if (!found) {
    replaced = true;
    socket?.close();
    handlers.problem("The server speaks another version: reload the page.");
    return;
  }
  const request = asked.find((entry) => entry.revision >= found.revision);
  asked = asked.filter((entry) => entry.revision > found.revision);
  timing.network = found.network;
  timing.revision = found.revision;
  if (request) {
    requestAnimationFrame(() => {
      timing.total = performance.now() - request.at;
      timing.all.push(timing.total);
      if (timing.all.length > 1000) timing.all.shift();
      changed("timing");
    });
  }
}

/** @param {any} message */
function transmit(message) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  revision = Math.max(revision, timing.revision) + 1;
  socket.send(JSON.stringify({ ...message, rev: revision }));
  if (message.op !== "view") {
    asked.push({ revision, at: performance.now() });
    if (asked.length > 500) asked.shift();
  }
  return true;
}

/**
 * Performs an operation that must not get lost.
 * @param {any} message without id and rev
 * @returns {string} its id
 */
export function perform(message) {
  const id = newId();
  if (replaced) return id;
  state.stale = true;
  const whole = { ...message, id };
  outbox.push({ message: whole, confirmed: 0 });
  transmit(whole);
  return id;
}

// A stroke that is being drawn.

/** @param {number} image @param {import("./state.js").Stroke} stroke */
export function begin(image, stroke) {
  active.stroke = stroke;
  state.local.set(stroke.id, { image, stroke });
  state.stale = true;
  transmit({ op: "begin", image, ...stroke });
  return stroke.points.length;
}

/** @param {import("./state.js").Stroke} stroke @param {number} sent how many of its points were sent */
export function extend(stroke, sent) {
  if (stroke.points.length > sent) transmit({ op: "extend", id: stroke.id, points: stroke.points.slice(sent) });
  return stroke.points.length;
}

/** @param {number} image @param {import("./state.js").Stroke} stroke @param {number} sent */
export function end(image, stroke, sent) {
  active.stroke = null;
  outbox.push({ message: { op: "stroke", image, ...stroke }, confirmed: 0 });
  extend(stroke, sent);
  transmit({ op: "end", id: stroke.id });
}

/** @param {import("./state.js").Stroke} stroke */
export function cancel(stroke) {
  active.stroke = null;
  state.local.delete(stroke.id);
  transmit({ op: "cancel", id: stroke.id });
  changed("strokes");
}

let told = "";
/** @type {number[]} */
let visible = [];

/** Tells which images are on the screen. @param {number[]} [images] */
export function tellView(images = visible) {
  visible = images;
  const wanted = [...new Set([state.current, ...visible])].filter((i) => i < state.images.length).sort((a, b) => a - b);
  const text = `${state.opened} ${wanted}`;
  if (text === told && images !== visible) return;
  told = text;
  transmit({ op: "view", images: wanted });
}
