// Drawing a field on a globe and on an equal-area map (Equal Earth), with canvas 2D and nothing else.
//
// A field is a Float32Array of ROWS x COLUMNS cells of two degrees, row by row from the north-west corner. Which cells a
// pixel needs is looked up in a raster: the flat map's never changes, the globe's is made anew when the globe turns, once
// for both globes. Values are interpolated between cell centres, but never across the date line: a seam there must stay
// visible.

export const ROWS = 90;
export const COLUMNS = 180;
const STEP = 2;
const RAD = Math.PI / 180;

const [A1, A2, A3, A4] = [1.340264, -0.081106, 0.000893, 0.003796];
const slope = (t2) => A1 + t2 * (3 * A2 + t2 * t2 * (7 * A3 + t2 * 9 * A4));
const height = (theta) => {
  const t2 = theta * theta;
  return theta * (A1 + t2 * (A2 + t2 * t2 * (A3 + t2 * A4)));
};

/** Equal Earth projection of degrees: [x, y] on a sphere of radius 1. */
export function equalEarth(lon, lat) {
  const theta = Math.asin((Math.sqrt(3) / 2) * Math.sin(lat * RAD));
  return [(2 * Math.sqrt(3) * lon * RAD * Math.cos(theta)) / (3 * slope(theta * theta)), height(theta)];
}

export const HALF_WIDTH = equalEarth(180, 0)[0];
export const HALF_HEIGHT = equalEarth(0, 90)[1];

/** Degrees of a point of the Equal Earth plane, or null outside the world. */
export function inverseEqualEarth(x, y) {
  if (Math.abs(y) > HALF_HEIGHT) return null;
  let theta = y / A1;
  for (let i = 0; i < 8; i++) theta -= (height(theta) - y) / slope(theta * theta);
  const sine = (2 / Math.sqrt(3)) * Math.sin(theta);
  const lat = Math.asin(Math.max(-1, Math.min(1, sine))) / RAD;
  const lon = (x * 3 * slope(theta * theta)) / (2 * Math.sqrt(3) * Math.cos(theta)) / RAD;
  return Math.abs(lon) <= 180 ? [lon, lat] : null;
}

/** Orthographic projection seen from above `view` = [lon, lat]: [x, y, z] in the unit ball; z < 0 is the far side. */
export function orthographic(lon, lat, view) {
  const dlon = (lon - view[0]) * RAD;
  const [sinLat, cosLat] = [Math.sin(lat * RAD), Math.cos(lat * RAD)];
  const [sin0, cos0] = [Math.sin(view[1] * RAD), Math.cos(view[1] * RAD)];
  const along = cosLat * Math.cos(dlon);
  return [cosLat * Math.sin(dlon), sinLat * cos0 - along * sin0, sinLat * sin0 + along * cos0];
}

/** Degrees of a point of the unit disc, or null outside it. */
export function inverseOrthographic(x, y, view) {
  const rho2 = x * x + y * y;
  if (rho2 > 1) return null;
  const z = Math.sqrt(1 - rho2);
  const [sin0, cos0] = [Math.sin(view[1] * RAD), Math.cos(view[1] * RAD)];
  const lat = Math.asin(Math.max(-1, Math.min(1, z * sin0 + y * cos0))) / RAD;
  return [wrapLongitude(view[0] + Math.atan2(x, z * cos0 - y * sin0) / RAD), lat];
}

export const wrapLongitude = (lon) => ((((lon + 180) % 360) + 360) % 360) - 180;

/** Index of the cell that holds a place. */
export const cellOf = (lon, lat) =>
  Math.min(ROWS - 1, Math.max(0, Math.floor((90 - lat) / STEP))) * COLUMNS +
  Math.min(COLUMNS - 1, Math.max(0, Math.floor((lon + 180) / STEP)));

/** Centre of a cell in degrees. */
export const cellCentre = (cell) => [
  ((cell % COLUMNS) + 0.5) * STEP - 180,
  90 - (Math.floor(cell / COLUMNS) + 0.5) * STEP,
];

// A raster: for each pixel inside the outline its number, the cell to its north-west, and how far it is towards the next.
function emptyRaster(width, height, count) {
  return {
    width,
    height,
    count,
    pixel: new Int32Array(count),
    cell: new Int32Array(count),
    east: new Float32Array(count),
    south: new Float32Array(count),
  };
}

function look(raster, k, lon, lat) {
  let u = (lon + 180) / STEP - 0.5;
  let v = (90 - lat) / STEP - 0.5;
  u = u < 0 ? 0 : u > COLUMNS - 1 ? COLUMNS - 1 : u;
  v = v < 0 ? 0 : v > ROWS - 1 ? ROWS - 1 : v;
  const column = u >= COLUMNS - 1 ? COLUMNS - 2 : u | 0;
  const row = v >= ROWS - 1 ? ROWS - 2 : v | 0;
  raster.cell[k] = row * COLUMNS + column;
  raster.east[k] = u - column;
  raster.south[k] = v - row;
}

export function flatRaster(width) {
  const rows = Math.round((width * HALF_HEIGHT) / HALF_WIDTH);
  const places = [];
  for (let j = 0; j < rows; j++) {
    const y = (1 - (2 * (j + 0.5)) / rows) * HALF_HEIGHT;
    for (let i = 0; i < width; i++) {
      const place = inverseEqualEarth(((2 * (i + 0.5)) / width - 1) * HALF_WIDTH, y);
      if (place) places.push(j * width + i, place[0], place[1]);
    }
  }
  const raster = emptyRaster(width, rows, places.length / 3);
  for (let k = 0; k < raster.count; k++) {
    raster.pixel[k] = places[3 * k];
    look(raster, k, places[3 * k + 1], places[3 * k + 2]);
  }
  return raster;
}

/** The pixels of a globe of `size` pixels; turn it with `turnGlobe`. */
export function globeRaster(size) {
  const inside = [];
  for (let j = 0; j < size; j++) {
    const y = 1 - (2 * (j + 0.5)) / size;
    for (let i = 0; i < size; i++) {
      const x = (2 * (i + 0.5)) / size - 1;
      const rho2 = x * x + y * y;
      if (rho2 < 1) inside.push(j * size + i, x, y, Math.sqrt(1 - rho2));
    }
  }
  const raster = emptyRaster(size, size, inside.length / 4);
  raster.xyz = new Float32Array(3 * raster.count);
  for (let k = 0; k < raster.count; k++) {
    raster.pixel[k] = inside[4 * k];
    for (let a = 0; a < 3; a++) raster.xyz[3 * k + a] = inside[4 * k + 1 + a];
  }
  return raster;
}

export function turnGlobe(raster, view) {
  const [sin0, cos0] = [Math.sin(view[1] * RAD), Math.cos(view[1] * RAD)];
  const { xyz, count } = raster;
  for (let k = 0, a = 0; k < count; k++, a += 3) {
    const [x, y, z] = [xyz[a], xyz[a + 1], xyz[a + 2]];
    let lon = view[0] + Math.atan2(x, z * cos0 - y * sin0) / RAD;
    if (lon > 180) lon -= 360;
    else if (lon < -180) lon += 360;
    look(raster, k, lon, Math.asin(z * sin0 + y * cos0) / RAD);
  }
}

/** Colours of a field as 32-bit pixels, between `low` and `high` of a table of 256 colours. */
export function paint(pixels, raster, field, table, low, high, missing) {
  const { pixel, cell, east, south, count } = raster;
  const scale = 255.999 / (high - low || 1);
  for (let k = 0; k < count; k++) {
    const c = cell[k];
    const e = east[k];
    const s = south[k];
    const north = field[c] + (field[c + 1] - field[c]) * e;
    const below = field[c + COLUMNS] + (field[c + COLUMNS + 1] - field[c + COLUMNS]) * e;
    const t = (north + (below - north) * s - low) * scale;
    pixels[pixel[k]] = t !== t ? missing : table[t < 0 ? 0 : t > 255 ? 255 : t | 0];
  }
}

/** 256 pixels (ABGR, as canvas wants them) from colour stops [[position, "#rrggbb"], ...]. */
export function colorTable(stops) {
  const table = new Uint32Array(256);
  for (let i = 0, s = 0; i < 256; i++) {
    const t = i / 255;
    while (s < stops.length - 2 && t > stops[s + 1][0]) s++;
    const [[p, a], [q, b]] = [stops[s], stops[s + 1]];
    const [from, to] = [parseColor(a), parseColor(b)];
    const f = (t - p) / (q - p);
    const [r, g, blue] = from.map((c, n) => Math.round(c + (to[n] - c) * f));
    table[i] = ((255 << 24) | (blue << 16) | (g << 8) | r) >>> 0;
  }
  return table;
}

export const parseColor = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

/** Lines in degrees (with breaks) from the packed form: int16 pairs in hundredths of a degree, -32768 for a break. */
export function unpackLines(view) {
  const packed = new Int16Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  const lines = [[]];
  for (let i = 0; i < packed.length; i += 2) {
    if (packed[i] === -32768) lines.push([]);
    else lines[lines.length - 1].push([packed[i] / 100, packed[i + 1] / 100]);
  }
  return lines.filter((line) => line.length > 1);
}

function arc(lon0, lat0, lon1, lat1, steps = 60) {
  const at = (t) => [lon0 + (lon1 - lon0) * t, lat0 + (lat1 - lat0) * t];
  return Array.from({ length: steps + 1 }, (_, i) => at(i / steps));
}

export const GRATICULE = [
  ...[-150, -120, -90, -60, -30, 0, 30, 60, 90, 120, 150].map((lon) => arc(lon, -90, lon, 90)),
  ...[-60, -30, 0, 30, 60].map((lat) => arc(-180, lat, 180, lat, 120)),
];
export const DATE_LINE = [arc(180, -90, 180, 90)];

/** Draws lines on the globe; what lies on the far side is left out. */
function strokeOnGlobe(context, lines, view, radius) {
  context.beginPath();
  for (const line of lines) {
    let drawing = false;
    for (const [lon, lat] of line) {
      const [x, y, z] = orthographic(lon, lat, view);
      if (z < 0) {
        drawing = false;
        continue;
      }
      const [px, py] = [radius * (1 + x), radius * (1 - y)];
      if (drawing) context.lineTo(px, py);
      else context.moveTo(px, py);
      drawing = true;
    }
  }
  context.stroke();
}

/** A dot that shows on any colour. */
function drawDot(context, x, y) {
  context.beginPath();
  context.arc(x, y, 1.6, 0, 2 * Math.PI);
  context.fill();
  context.stroke();
}

function dotStyle(context) {
  context.fillStyle = "#ffffff";
  context.strokeStyle = "#10171d";
  context.lineWidth = 0.8;
}

/** The place as a ring that shows on any colour. */
function drawMark(context, x, y, size) {
  for (const [color, width] of [
    ["#ffffff", 5],
    ["#10171d", 2.2],
  ]) {
    context.beginPath();
    context.arc(x, y, size, 0, 2 * Math.PI);
    context.lineWidth = width;
    context.strokeStyle = color;
    context.stroke();
  }
}

/** A canvas that shows one field; `Globe` and `FlatMap` say how. */
class FieldCanvas {
  constructor(canvas) {
    this.canvas = canvas;
    this.layer = document.createElement("canvas");
    this.field = null;
  }

  /** Fits the canvas to its place on the page; true if its size changed. */
  fit(cssWidth, cssHeight) {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [Math.round(cssWidth * ratio), Math.round(cssHeight * ratio)];
    this.ratio = ratio;
    if (this.canvas.width === width && this.canvas.height === height) return false;
    Object.assign(this.canvas, { width, height });
    return true;
  }

  /** Colours the raster into the hidden layer and puts that on the canvas. */
  putField(raster, colors) {
    if (this.layer.width !== raster.width || this.layer.height !== raster.height || !this.image) {
      Object.assign(this.layer, { width: raster.width, height: raster.height });
      this.image = new ImageData(raster.width, raster.height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    paint(this.pixels, raster, this.field, colors.table, colors.low, colors.high, colors.missing);
    this.layer.getContext("2d").putImageData(this.image, 0, 0);
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.imageSmoothingEnabled = true;
    context.drawImage(this.layer, 0, 0, this.canvas.width, this.canvas.height);
  }

  /** Puts the lines on the field. They are drawn anew only if `facts` changed, which they do not while a slider moves. */
  putLines(facts, draw) {
    const all = [this.canvas.width, this.canvas.height, ...facts];
    if (!this.lines || all.some((fact, i) => fact !== this.lineFacts[i])) {
      this.lines ||= document.createElement("canvas");
      this.lineFacts = all;
      Object.assign(this.lines, { width: this.canvas.width, height: this.canvas.height }); // clears it
      const context = this.lines.getContext("2d");
      context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      context.lineJoin = "round";
      draw(context);
    }
    this.canvas.getContext("2d").drawImage(this.lines, 0, 0);
  }
}

export class Globe extends FieldCanvas {
  /** @param raster made by `globeRaster` and turned to `view`; may be coarser than the canvas. */
  draw(raster, colors, scene) {
    this.putField(raster, colors);
    const facts = [colors.ink, scene.outline, scene.view.join(), scene.place.join(), scene.points];
    this.putLines(facts, (context) => this.drawLines(context, colors, scene));
  }

  drawLines(context, colors, scene) {
    const radius = this.canvas.width / this.ratio / 2;
    context.save();
    context.beginPath();
    context.arc(radius, radius, radius - 0.5, 0, 2 * Math.PI);
    context.clip();
    context.strokeStyle = `rgba(${colors.ink}, 0.17)`;
    context.lineWidth = 0.7;
    strokeOnGlobe(context, GRATICULE, scene.view, radius);
    context.strokeStyle = `rgba(${colors.ink}, 0.8)`;
    context.lineWidth = 0.9;
    strokeOnGlobe(context, scene.coast, scene.view, radius);
    context.setLineDash([5, 4]);
    context.lineWidth = 1.4;
    strokeOnGlobe(context, DATE_LINE, scene.view, radius);
    context.setLineDash([]);
    dotStyle(context);
    for (const point of scene.points || []) {
      const [px, py, depth] = orthographic(...point, scene.view);
      if (depth > 0) drawDot(context, radius * (1 + px), radius * (1 - py));
    }
    const [x, y, z] = orthographic(scene.place[0], scene.place[1], scene.view);
    if (z > 0) drawMark(context, radius * (1 + x), radius * (1 - y), 6);
    context.restore();
    context.beginPath();
    context.arc(radius, radius, radius - 0.75, 0, 2 * Math.PI);
    context.strokeStyle = scene.outline;
    context.lineWidth = 1.5;
    context.stroke();
  }

  /** The place under a point of the canvas, in CSS pixels from its corner, or null. */
  placeAt(x, y, view) {
    const radius = this.canvas.clientWidth / 2;
    return inverseOrthographic(x / radius - 1, 1 - y / radius, view);
  }
}

export class FlatMap extends FieldCanvas {
  draw(raster, colors, scene) {
    this.putField(raster, colors);
    const facts = [colors.ink, scene.outline, scene.place.join(), scene.points];
    this.putLines(facts, (context) => this.drawLines(context, colors, scene));
  }

  drawLines(context, colors, scene) {
    const [width, tall] = [this.canvas.width / this.ratio, this.canvas.height / this.ratio];
    const at = (lon, lat) => {
      const [x, y] = equalEarth(lon, lat);
      return [(1 + x / HALF_WIDTH) * (width / 2), (1 - y / HALF_HEIGHT) * (tall / 2)];
    };
    if (this.pathsFor !== width) {
      const path = (lines) => {
        const out = new Path2D();
        for (const line of lines) line.forEach((p, i) => out[i ? "lineTo" : "moveTo"](...at(...p)));
        return out;
      };
      this.paths = { coast: path(scene.coast), graticule: path(GRATICULE) };
      this.paths.frame = path([[...arc(-180, -90, -180, 90), ...arc(180, 90, 180, -90), [-180, -90]]]);
      this.paths.dateLines = path([arc(-180, -90, -180, 90), arc(180, -90, 180, 90)]);
      this.pathsFor = width;
    }
    context.strokeStyle = `rgba(${colors.ink}, 0.17)`;
    context.lineWidth = 0.7;
    context.stroke(this.paths.graticule);
    context.strokeStyle = `rgba(${colors.ink}, 0.8)`;
    context.lineWidth = 0.8;
    context.stroke(this.paths.coast);
    context.strokeStyle = scene.outline;
    context.lineWidth = 1.5;
    context.stroke(this.paths.frame);
    context.strokeStyle = `rgba(${colors.ink}, 0.8)`;
    context.setLineDash([5, 4]);
    context.stroke(this.paths.dateLines);
    context.setLineDash([]);
    dotStyle(context);
    for (const point of scene.points || []) drawDot(context, ...at(...point));
    drawMark(context, ...at(...scene.place), 5);
  }

  placeAt(x, y) {
    const { clientWidth, clientHeight } = this.canvas;
    return inverseEqualEarth(((2 * x) / clientWidth - 1) * HALF_WIDTH, (1 - (2 * y) / clientHeight) * HALF_HEIGHT);
  }
}
