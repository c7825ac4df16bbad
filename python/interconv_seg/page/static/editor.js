// @ts-check
/** The large image: drawing, erasing, zooming, by mouse, pen, touch and keyboard. */

import { fetchPlane, paint } from "./canvas.js";
import { begin, cancel, end, extend, newId, perform } from "./live.js";
import { INSIDE, OUTSIDE, active, changed, state, strokesOf } from "./state.js";

const SEND_MS = 40;
const CLICK_PIXELS = 2; // a press that moves less is a click
const MAX_POINTS = 2500; // longer strokes go on as new ones
const GRAB_PIXELS = 12; // how near a stroke must be to be erased
const MAX_ZOOM = 40;

const canvas = /** @type {HTMLCanvasElement} */ (document.getElementById("image"));
const cursor = /** @type {HTMLCanvasElement} */ (document.getElementById("cursor"));
const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
const over = /** @type {CanvasRenderingContext2D} */ (cursor.getContext("2d"));

/** @type {import("./canvas.js").View} */
let view = { scale: 1, x: 0, y: 0 };
let fitted = true;
/** @type {import("./canvas.js").Plane | null} */
let plane = null;
let loaded = "";
let scheduled = false;
/** @type {{x: number, y: number} | null} pixels of the canvas */
let pointer = null;
let held = { space: false, w: false };
/** @type {{mode: string, x: number, y: number, image: number, stroke: import("./state.js").Stroke | null, sent: number, last: number, moved: boolean} | null} */
let gesture = null;
/** @type {Map<number, {x: number, y: number}>} */
const touches = new Map();
/** @type {{x: number, y: number} | null} the keyboard's crosshair, in stored pixels */
let crosshair = null;
/** @type {string | null} */
let highlighted = null;

export const editor = { /** @type {(text: string) => void} */ say: () => {} };

/** Paints with the next frame. */
export function repaint() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

function draw() {
  if (!state.images.length) return;
  const { current } = state;
  const url = urlOf(current);
  if (url !== loaded) {
    loaded = url;
    plane = null;
    fetchPlane(url).then(
      (found) => {
        if (loaded !== url) return;
        plane = found;
        repaint();
      },
      () => {
        if (loaded === url) loaded = "";
        editor.say("The image could not be loaded.");
      },
    );
  }
  if (fitted) fit();
  const lines = 1.6 * devicePixelRatio;
  paint(context, { image: current, url, plane, view, lines, highlighted });
  drawCursor();
}

/** @param {number} image */
function urlOf(image) {
  return `/api/images/${image}?${state.images[image].digest}`;
}

function fit() {
  const [height, width] = state.images[state.current].size;
  const margin = 16 * devicePixelRatio;
  const scale = Math.min((canvas.width - margin) / width, (canvas.height - margin) / height);
  view = { scale, x: (canvas.width - scale * width) / 2, y: (canvas.height - scale * height) / 2 };
}

/** Shows the whole image. */
export function showAll() {
  fitted = true;
  repaint();
}

/** Another image is shown. */
export function leaveImage() {
  finish();
  fitted = true;
  highlighted = null;
  if (crosshair) startCrosshair();
}

new ResizeObserver(() => {
  const box = canvas.getBoundingClientRect();
  for (const layer of [canvas, cursor]) {
    layer.width = Math.max(1, Math.round(box.width * devicePixelRatio));
    layer.height = Math.max(1, Math.round(box.height * devicePixelRatio));
  }
  fitted = true;
  draw();
}).observe(canvas);

/** @param {{x: number, y: number}} at pixels of the canvas @returns {[number, number]} stored pixels */
function stored(at) {
  return [(at.x - view.x) / view.scale, (at.y - view.y) / view.scale];
}

/** Stored pixels per pixel of the grid. */
function gridPixel() {
  return state.images[state.current].size[1] / state.grid[1];
}

function drawCursor() {
  over.setTransform(1, 0, 0, 1, 0, 0);
  over.clearRect(0, 0, cursor.width, cursor.height);
  const at = crosshair ? { x: crosshair.x * view.scale + view.x, y: crosshair.y * view.scale + view.y } : pointer;
  if (!at || (gesture && gesture.mode !== "draw" && gesture.mode !== "keys")) return;
  const radius = Math.max(2, state.radius * gridPixel() * view.scale);
  over.lineWidth = 3 * devicePixelRatio;
  for (const [color, width] of /** @type {[string, number][]} */ ([
    ["rgb(0 0 0 / 60%)", 3.5],
    [state.tool === "erase" ? "#ffffff" : state.tool === "outside" ? OUTSIDE : INSIDE, 1.5],
  ])) {
    over.strokeStyle = color;
    over.lineWidth = width * devicePixelRatio;
    over.beginPath();
    over.arc(at.x, at.y, radius, 0, 2 * Math.PI);
    if (crosshair) {
      const arm = radius + 14 * devicePixelRatio;
      over.moveTo(at.x - arm, at.y);
      over.lineTo(at.x - radius, at.y);
      over.moveTo(at.x + radius, at.y);
      over.lineTo(at.x + arm, at.y);
      over.moveTo(at.x, at.y - arm);
      over.lineTo(at.x, at.y - radius);
      over.moveTo(at.x, at.y + radius);
      over.lineTo(at.x, at.y + arm);
    }
    over.stroke();
  }
}

// Strokes

/** @param {[number, number]} point @param {boolean} other the other sign */
function start(point, other) {
  if (state.accepted.has(state.current)) {
    editor.say("This image is accepted. Press A to change it again.");
    return null;
  }
  const positive = (state.tool !== "outside") !== other;
  return {
    id: newId(),
    structure: state.structure,
    positive,
    radius: state.radius,
    points: [rounded(point)],
  };
}

/** @param {[number, number]} point @returns {[number, number]} */
function rounded([x, y]) {
  const [height, width] = state.images[state.current].size;
  const inside = (/** @type {number} */ value, /** @type {number} */ high) => Math.max(-high, Math.min(2 * high, value));
  return [Math.round(100 * inside(x, width)) / 100, Math.round(100 * inside(y, height)) / 100];
}

/** @param {[number, number][]} points */
function add(points) {
  const stroke = gesture?.stroke;
  if (!gesture || !stroke) return;
  const step = gridPixel() / 4;
  for (const point of points) {
    const [x, y] = stroke.points[stroke.points.length - 1];
    if (Math.hypot(point[0] - x, point[1] - y) >= step) stroke.points.push(rounded(point));
  }
  const now = performance.now();
  if (now - gesture.last >= SEND_MS && stroke.points.length > gesture.sent) {
    gesture.sent = extend(stroke, gesture.sent);
    gesture.last = now;
  }
  if (stroke.points.length > MAX_POINTS) {
    const next = { ...stroke, id: newId(), points: [stroke.points[stroke.points.length - 1]] };
    end(gesture.image, stroke, gesture.sent);
    gesture.stroke = next;
    gesture.sent = begin(gesture.image, next);
  }
  repaint();
}

/** Ends the stroke that is being drawn. */
export function finish() {
  if (gesture?.stroke) end(gesture.image, gesture.stroke, gesture.sent);
  gesture = null;
  changed("strokes");
}

/** Drops the stroke that is being drawn. @returns {boolean} whether there was one */
export function drop() {
  if (!gesture?.stroke) return false;
  cancel(gesture.stroke);
  gesture = null;
  repaint();
  return true;
}

/** @param {[number, number]} point stored pixels @returns {string | null} the nearest stroke, if near enough */
function nearest(point) {
  let found = null;
  let best = (GRAB_PIXELS * devicePixelRatio) / view.scale;
  for (const stroke of strokesOf(state.current)) {
    if (stroke.structure !== state.structure) continue;
    const reach = stroke.radius * gridPixel();
    stroke.points.forEach((b, i) => {
      const a = stroke.points[Math.max(0, i - 1)];
      const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
      const length = dx * dx + dy * dy;
      const t = length ? Math.max(0, Math.min(1, ((point[0] - a[0]) * dx + (point[1] - a[1]) * dy) / length)) : 0;
      const distance = Math.hypot(point[0] - a[0] - t * dx, point[1] - a[1] - t * dy) - reach;
      if (distance < best) [found, best] = [stroke.id, distance];
    });
  }
  return found;
}

/** @param {[number, number]} point */
function erase(point) {
  const id = nearest(point);
  if (!id) return;
  if (state.accepted.has(state.current)) {
    editor.say("This image is accepted. Press A to change it again.");
    return;
  }
  perform({ op: "erase", stroke: id });
  state.erased.add(id);
  highlighted = null;
  changed("strokes");
}

// Pointers

/** @param {PointerEvent} event */
function place(event) {
  const box = canvas.getBoundingClientRect();
  return { x: (event.clientX - box.left) * devicePixelRatio, y: (event.clientY - box.top) * devicePixelRatio };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.images.length) return;
  canvas.setPointerCapture(event.pointerId);
  canvas.focus({ preventScroll: true });
  const at = place(event);
  if (event.pointerType === "touch") touches.set(event.pointerId, at);
  if (touches.size === 2) {
    drop();
    gesture = { mode: "pinch", ...middle(), image: state.current, stroke: null, sent: 0, last: spread(), moved: true };
    return;
  }
  crosshair = null;
  const common = { ...at, image: state.current, stroke: null, sent: 0, last: performance.now(), moved: false };
  if (held.space || event.button === 1) gesture = { mode: "pan", ...common };
  else if (held.w) gesture = { mode: "window", ...common };
  else if (state.tool === "erase") erase(stored(at));
  else {
    const stroke = start(stored(at), event.button === 2 || event.altKey);
    if (!stroke) return;
    gesture = { mode: "draw", ...common, stroke };
    gesture.sent = begin(state.current, stroke);
    if (state.tool === "click") finish();
  }
  event.preventDefault();
  repaint();
});

canvas.addEventListener("pointermove", (event) => {
  const at = place(event);
  pointer = at;
  if (event.pointerType === "touch") touches.set(event.pointerId, at);
  if (!gesture || gesture.mode === "keys") {
    const found = state.tool === "erase" && state.images.length ? nearest(stored(at)) : null;
    if (found !== highlighted) {
      highlighted = found;
      repaint();
    }
    drawCursor();
    return;
  }
  if (gesture.mode === "draw") {
    gesture.moved ||= Math.hypot(at.x - gesture.x, at.y - gesture.y) >= CLICK_PIXELS * devicePixelRatio;
    if (gesture.moved) {
      const events = event.getCoalescedEvents?.() ?? [];
      add((events.length ? events : [event]).map((one) => stored(place(one))));
    }
    return;
  }
  if (gesture.mode === "pinch") {
    const now = middle();
    move(now.x - gesture.x, now.y - gesture.y);
    zoom(spread() / gesture.last, now);
    Object.assign(gesture, now, { last: spread() });
  } else if (gesture.mode === "pan") {
    move(at.x - gesture.x, at.y - gesture.y);
    Object.assign(gesture, at);
  } else {
    state.window = Math.max(0.02, Math.min(2, state.window * Math.exp((at.x - gesture.x) / 300 / devicePixelRatio)));
    state.level = Math.max(0, Math.min(1, state.level + (at.y - gesture.y) / 500 / devicePixelRatio));
    Object.assign(gesture, at);
    changed("view");
  }
});

for (const type of /** @type {const} */ (["pointerup", "pointercancel"])) {
  canvas.addEventListener(type, (event) => {
    touches.delete(event.pointerId);
    if (gesture?.mode === "draw" && type === "pointercancel") drop();
    else if (gesture?.mode !== "keys") finish();
  });
}

canvas.addEventListener("pointerleave", () => {
  pointer = null;
  drawCursor();
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());

canvas.addEventListener(
  "wheel",
  (event) => {
    if (!state.images.length) return;
    event.preventDefault();
    if (event.ctrlKey) {
      setRadius(state.radius * Math.exp(-event.deltaY / 400));
      return;
    }
    const box = canvas.getBoundingClientRect();
    const at = { x: (event.clientX - box.left) * devicePixelRatio, y: (event.clientY - box.top) * devicePixelRatio };
    zoom(Math.exp(-event.deltaY / 400), at);
  },
  { passive: false },
);

function middle() {
  const all = [...touches.values()];
  return { x: all.reduce((sum, p) => sum + p.x, 0) / all.length, y: all.reduce((sum, p) => sum + p.y, 0) / all.length };
}

function spread() {
  const [a, b] = [...touches.values()];
  return b ? Math.max(1, Math.hypot(a.x - b.x, a.y - b.y)) : 1;
}

/** @param {number} factor @param {{x: number, y: number}} [at] pixels of the canvas */
export function zoom(factor, at = { x: canvas.width / 2, y: canvas.height / 2 }) {
  const scale = Math.max(0.05, Math.min(MAX_ZOOM * devicePixelRatio, view.scale * factor));
  const ratio = scale / view.scale;
  view = { scale, x: at.x + (view.x - at.x) * ratio, y: at.y + (view.y - at.y) * ratio };
  fitted = false;
  repaint();
}

/** @param {number} dx @param {number} dy */
function move(dx, dy) {
  view = { ...view, x: view.x + dx, y: view.y + dy };
  fitted = false;
  repaint();
}

/** @param {number} radius */
export function setRadius(radius) {
  state.radius = Math.max(0.5, Math.min(state.model ? 8 : 32, Math.round(radius * 20) / 20));
  changed("view");
}

// Keyboard

/** @param {"space" | "w"} key @param {boolean} down */
export function hold(key, down) {
  held = { ...held, [key]: down };
  canvas.classList.toggle("panning", held.space);
}

/** Shows or hides the crosshair for drawing with the arrow keys. */
export function toggleCrosshair() {
  finish();
  if (crosshair) crosshair = null;
  else startCrosshair();
  editor.say(crosshair ? "Arrow keys move the crosshair, Enter starts and ends a stroke, K ends." : "");
  repaint();
}

function startCrosshair() {
  const [height, width] = state.images[state.current].size;
  crosshair = { x: width / 2, y: height / 2 };
}

/** @param {KeyboardEvent} event @returns {boolean} whether the key moved the crosshair or drew */
export function crosshairKey(event) {
  if (!crosshair || !state.images.length) return false;
  const [height, width] = state.images[state.current].size;
  const step = gridPixel() * (event.shiftKey ? 10 : 1);
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[/** @type {keyof typeof moves} */ (event.key)];
  if (move) {
    crosshair.x = Math.max(0, Math.min(width - 0.01, crosshair.x + step * move[0]));
    crosshair.y = Math.max(0, Math.min(height - 0.01, crosshair.y + step * move[1]));
    if (gesture?.mode === "keys") add([[crosshair.x, crosshair.y]]);
  } else if (event.key === "Enter") {
    if (gesture?.mode === "keys") finish();
    else if (state.tool === "erase") erase([crosshair.x, crosshair.y]);
    else {
      const stroke = start([crosshair.x, crosshair.y], event.altKey);
      if (stroke) {
        gesture = { mode: "keys", x: 0, y: 0, image: state.current, stroke, sent: 0, last: performance.now(), moved: true };
        gesture.sent = begin(state.current, stroke);
        if (state.tool === "click") finish();
      }
    }
  } else return false;
  repaint();
  return true;
}

/** For tests: where a stored pixel is on the screen. @param {number} x @param {number} y */
export function onScreen(x, y) {
  const box = canvas.getBoundingClientRect();
  return [(x * view.scale + view.x) / devicePixelRatio + box.left, (y * view.scale + view.y) / devicePixelRatio + box.top];
}
