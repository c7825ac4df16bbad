// @ts-check
/** Paints one image with masks and strokes. */

import { outline } from "./contour.js";
import { COLORS, INSIDE, OUTSIDE, labelOfStructure, maskOf, state, strokesOf, visibleField } from "./state.js";

/** @typedef {{shape: [number, number, number], bits: number, window: [number, number], values: Uint8Array | Uint16Array}} Plane */

const KEPT_PLANES = 6; // large images are read again rather than kept
/** @type {Map<string, Promise<Plane>>} */
const planes = new Map();
/** @type {Map<string, HTMLCanvasElement>} */
const pictures = new Map();
/** @type {Map<string, Path2D>} */
const truthPaths = new Map();

/** Forgets the images of another session. */
export function forgetImages() {
  planes.clear();
  pictures.clear();
  truthPaths.clear();
}

/**
 * Pixels of an image.
 * @param {string} url
 * @returns {Promise<Plane>}
 */
export function fetchPlane(url) {
  let found = planes.get(url);
  if (!found) {
    found = fetch(url).then(async (answer) => {
      if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
      const about = JSON.parse(answer.headers.get("x-image") ?? "{}");
      const buffer = await answer.arrayBuffer();
      return { ...about, values: about.bits === 16 ? new Uint16Array(buffer) : new Uint8Array(buffer) };
    });
    found.catch(() => planes.delete(url));
  } else {
    planes.delete(url);
  }
  planes.set(url, found);
  const large = [...planes.keys()].filter((key) => !key.endsWith("/small"));
  for (const key of large.slice(0, Math.max(0, large.length - KEPT_PLANES))) {
    planes.delete(key);
    for (const drawn of [...pictures.keys()]) if (drawn.startsWith(`${key} `)) pictures.delete(drawn);
  }
  return found;
}

/**
 * The image with window and level applied.
 * @param {string} url
 * @param {Plane} plane
 */
function picture(url, plane) {
  const key = `${url} ${state.window} ${state.level}`;
  let found = pictures.get(key);
  if (found) return found;
  for (const other of [...pictures.keys()]) if (other.startsWith(`${url} `)) pictures.delete(other);
  const [channels, height, width] = plane.shape;
  found = document.createElement("canvas");
  found.width = width;
  found.height = height;
  const context = /** @type {CanvasRenderingContext2D} */ (found.getContext("2d"));
  const pixels = context.createImageData(width, height);
  const colors = new Uint32Array(pixels.data.buffer);
  const [low, high] = plane.window;
  const middle = low + (high - low) * state.level;
  const half = ((high - low) * state.window) / 2;
  const table = new Uint8Array(2 ** plane.bits);
  for (let v = 0; v < table.length; v++) table[v] = Math.max(0, Math.min(255, (255 * (v - middle + half)) / (2 * half)));
  const { values } = plane;
  const area = width * height;
  for (let i = 0; i < area; i++) {
    const red = table[values[i]];
    const green = channels === 3 ? table[values[i + area]] : red;
    const blue = channels === 3 ? table[values[i + 2 * area]] : red;
    colors[i] = (255 << 24) | (blue << 16) | (green << 8) | red;
  }
  context.putImageData(pixels, 0, 0);
  pictures.set(key, found);
  return found;
}

/**
 * @typedef {{scale: number, x: number, y: number}} View stored pixels to pixels of the canvas: scale * p + (x, y)
 * @typedef {{image: number, url: string, plane: Plane | null, view: View, lines: number, highlighted?: string | null}} Scene
 */

/**
 * Paints.
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 */
export function paint(context, scene) {
  const { canvas } = context;
  const { view, image, lines } = scene;
  const [height, width] = state.images[image].size;
  const [rows, columns] = state.grid;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
  if (scene.plane) {
    context.imageSmoothingEnabled = view.scale < 12; // single pixels show at high zoom
    context.imageSmoothingQuality = "high";
    context.drawImage(picture(scene.url, scene.plane), 0, 0, width, height);
  }
  context.save();
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  context.scale(width / columns, height / rows);
  const line = (lines * columns) / width / view.scale;
  if (state.uncertainty) paintUncertainty(context, image);
  if (!state.hidden) {
    for (let structure = 1; structure <= state.structures.length; structure++) {
      paintMask(context, image, structure, structure === state.structure ? line : 0.7 * line);
    }
  }
  if (state.truth) paintTruth(context, image, line);
  context.restore();
  for (const stroke of strokesOf(image)) {
    if (stroke.structure === state.structure) paintStroke(context, stroke, scene, width / columns);
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} image
 * @param {number} structure
 * @param {number} line
 */
function paintMask(context, image, structure, line) {
  const mask = maskOf(image, structure);
  if (!mask) return;
  if (!mask.path) {
    const field = /** @type {Uint8Array} */ (visibleField(image, structure));
    mask.path = outline(field, state.grid[0], state.grid[1]);
  }
  const color = COLORS[(structure - 1) % COLORS.length];
  if (!state.outline) {
    context.globalAlpha = state.overlay;
    context.fillStyle = color;
    context.fill(mask.path, "evenodd");
    context.globalAlpha = 1;
  }
  context.lineWidth = line * 2.2;
  context.strokeStyle = "rgb(0 0 0 / 45%)";
  context.stroke(mask.path);
  context.lineWidth = line;
  context.strokeStyle = color;
  context.stroke(mask.path);
}

/** Pixels with p near 1/2 in yellow. @param {CanvasRenderingContext2D} context @param {number} image */
function paintUncertainty(context, image) {
  const mask = maskOf(image);
  if (!mask) return;
  const [rows, columns] = state.grid;
  const layer = document.createElement("canvas");
  layer.width = columns;
  layer.height = rows;
  const own = /** @type {CanvasRenderingContext2D} */ (layer.getContext("2d"));
  const pixels = own.createImageData(columns, rows);
  const colors = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < colors.length; i++) {
    const p = (mask.values[i] + 0.5) / 256;
    colors[i] = (Math.round(230 * 4 * p * (1 - p)) << 24) | 0x32d0ff; // 0xAABBGGRR
  }
  own.putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(layer, 0, 0, columns, rows);
}

/** @param {CanvasRenderingContext2D} context @param {number} image @param {number} line */
function paintTruth(context, image, line) {
  const labels = state.truths.get(image);
  const label = labelOfStructure();
  if (!labels || label === undefined) return;
  const key = `${image} ${label}`;
  let path = truthPaths.get(key);
  if (!path) {
    path = outline(labels.map((value) => (value === Number(label) ? 255 : 0)), state.grid[0], state.grid[1]);
    truthPaths.set(key, path);
  }
  context.setLineDash([4 * line, 3 * line]);
  context.lineWidth = line;
  context.strokeStyle = "#ffffff";
  context.stroke(path);
  context.setLineDash([]);
}

/**
 * Inside solid, outside dashed, so that nobody depends on the colours.
 * @param {CanvasRenderingContext2D} context
 * @param {import("./state.js").Stroke} stroke
 * @param {Scene} scene
 * @param {number} pixel stored pixels per pixel of the grid
 */
function paintStroke(context, stroke, scene, pixel) {
  const width = Math.max(2 * stroke.radius * pixel, (1.5 * scene.lines) / scene.view.scale);
  context.beginPath();
  stroke.points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  if (stroke.points.length === 1) context.lineTo(stroke.points[0][0] + 1e-3, stroke.points[0][1]);
  context.lineCap = stroke.positive || stroke.points.length === 1 ? "round" : "butt";
  context.lineJoin = "round";
  context.globalAlpha = scene.highlighted === stroke.id ? 1 : 0.8;
  if (!stroke.positive && stroke.points.length > 1) context.setLineDash([1.6 * width, 0.9 * width]);
  if (scene.highlighted === stroke.id) {
    context.lineWidth = width + 4 / scene.view.scale;
    context.strokeStyle = "#ffffff";
    context.stroke();
  }
  context.lineWidth = width;
  context.strokeStyle = stroke.positive ? INSIDE : OUTSIDE;
  context.stroke();
  context.setLineDash([]);
  context.globalAlpha = 1;
}
