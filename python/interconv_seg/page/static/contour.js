// @ts-check
/** Outlines of masks: marching squares with linear interpolation, linked to closed loops. */

const INSIDE = 127.5; // a value of 128 or more is inside

/**
 * The outline of a field as a path in pixels of its grid, for filling and stroking.
 * @param {Uint8Array} field [H,W]
 * @param {number} height
 * @param {number} width
 * @returns {Path2D}
 */
export function outline(field, height, width) {
  const across = width + 2; // a border of zeros closes every loop
  const down = height + 2;
  const value = new Uint8Array(across * down);
  for (let r = 0; r < height; r++) value.set(field.subarray(r * width, (r + 1) * width), (r + 1) * across + 1);
  // Edge 2 i runs from point i to its right neighbour, edge 2 i + 1 to the one below. Each segment enters a cell at one
  // edge and leaves it at another, with the inside on its left, so that every edge has at most one successor.
  const next = new Int32Array(2 * across * down).fill(-1);
  const starts = [];
  for (let r = 0; r < down - 1; r++) {
    for (let c = 0; c < across - 1; c++) {
      const i = r * across + c;
      const code =
        (value[i] > INSIDE ? 1 : 0) |
        (value[i + 1] > INSIDE ? 2 : 0) |
        (value[i + across + 1] > INSIDE ? 4 : 0) |
        (value[i + across] > INSIDE ? 8 : 0);
      if (code === 0 || code === 15) continue;
      const top = 2 * i;
      const left = 2 * i + 1;
      const right = 2 * (i + 1) + 1;
      const bottom = 2 * (i + across);
      const edges = [top, right, bottom, left];
      for (const [from, to] of SEGMENTS[code]) {
        next[edges[from]] = edges[to];
        starts.push(edges[from]);
      }
    }
  }
  const path = new Path2D();
  for (const start of starts) {
    if (next[start] < 0) continue;
    let edge = start;
    let first = true;
    while (next[edge] >= 0) {
      const i = edge >> 1;
      const j = edge & 1 ? i + across : i + 1;
      const t = (INSIDE - value[i]) / (value[j] - value[i]);
      // Point i of the padded grid is the centre of pixel (row - 1, column - 1).
      const x = (i % across) - 0.5 + (edge & 1 ? 0 : t);
      const y = Math.floor(i / across) - 0.5 + (edge & 1 ? t : 0);
      if (first) path.moveTo(x, y);
      else path.lineTo(x, y);
      first = false;
      const following = next[edge];
      next[edge] = -1;
      edge = following;
    }
    path.closePath();
  }
  return path;
}

// For each set of inside corners (1 top left, 2 top right, 4 bottom right, 8 bottom left): from edge to edge, where
// 0 is the top edge, 1 the right, 2 the bottom and 3 the left one.
/** @type {[number, number][][]} */
const SEGMENTS = [
  [],
  [[0, 3]],
  [[1, 0]],
  [[1, 3]],
  [[2, 1]],
  [[0, 3], [2, 1]],
  [[2, 0]],
  [[2, 3]],
  [[3, 2]],
  [[0, 2]],
  [[1, 0], [3, 2]],
  [[1, 2]],
  [[3, 1]],
  [[0, 1]],
  [[3, 0]],
  [],
];
