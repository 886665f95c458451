// The explorer: controls, two panels (one feature; similarity to a place), each a globe and a map, and the read-out.
//
// It does not know who computes: `chooseBackend` gives it the kernel of a live notebook, or ONNX Runtime Web once the
// reader asks for it. Requests never queue up: while one is computed only the newest state is remembered. An explorer can
// stand alone or be one side of the laboratory, which then holds what both sides share.

import { FlatMap, Globe, cellCentre, cellOf, colorTable, flatRaster, globeRaster } from "./maps.js";
import { COLUMNS, ROWS, parseColor, turnGlobe, unpackLines, wrapLongitude } from "./maps.js";
import { KernelBackend, OnnxBackend, Trouble } from "./backends.js";

export const MEASURES = ["cosine", "dot"];
const STATE = ["encoder", "parameters", "place", "channel", "measure"];
const COMMON = ["num_scales", "min_radius", "max_radius"];
const COMMON_LABELS = { num_scales: "Scales", min_radius: "Finest scale", max_radius: "Coarsest scale" };
const LOG_STEPS = 200;
const POINTER_HINT = "Point to read a value, click to choose the place.";
const GRID_STEP = 2;
let views = 0;
export const newId = (kind) => `tslab-${kind}-${++views}`;

// ------------------------------------------------------------------------------------------------ words and numbers

export function formatNumber(value, digits = 3) {
  if (!Number.isFinite(value)) return "none";
  if (value === 0 || Math.abs(value) < 1e-7) return "0";
  return Number(value.toPrecision(digits)).toString().replace("-", "\u2212");
}

export function formatPlace([lon, lat]) {
  const part = (value, positive, negative) => `${Math.abs(value).toFixed(1)}°${value < 0 ? negative : positive}`;
  return `${part(lat, "N", "S")} ${part(lon, "E", "W")}`;
}

/** Position of a value on its slider, and back. Logarithmic sliders have LOG_STEPS steps. */
export const toSlider = ({ kind, low, high }, value) =>
  kind === "log" ? Math.round((LOG_STEPS * Math.log(value / low)) / Math.log(high / low)) : value;

export function fromSlider({ kind, low, high }, position) {
  if (kind !== "log") return Number(position);
  const value = low * (high / low) ** (position / LOG_STEPS);
  return Math.min(high, Math.max(low, Number(value.toPrecision(3))));
}

/** What feature number `channel` is: its name, and the number of its scale if it has one. */
export function describeFeature({ axes, template }, channel, outFeatures) {
  if (template === "Y") {
    const l = Math.floor(Math.sqrt(channel));
    return { name: `spherical harmonic of degree ${l}, order ${formatNumber(channel - l * l - l)}` };
  }
  const sized = axes.map(([name, labels]) => [name, labels, labels.length]);
  const labelled = sized.reduce((product, [, , size]) => product * (size || 1), 1);
  let rest = channel;
  let name = template.replace("{n}", channel + 1);
  let scale;
  for (const [axis, labels, size] of sized.reverse()) {
    const count = size || Math.max(1, outFeatures / labelled);
    const index = rest % count;
    rest = Math.floor(rest / count);
    if (size) name = name.replace(`{${axis}}`, labels[index]);
    else scale = { index, count };
  }
  return { name, scale };
}

/** Share of the Earth's surface where the field exceeds a threshold. */
export function shareAbove(field, threshold) {
  let [above, all] = [0, 0];
  for (let row = 0; row < ROWS; row++) {
    const area = Math.cos(((90 - (row + 0.5) * GRID_STEP) * Math.PI) / 180);
    for (let column = 0; column < COLUMNS; column++) {
      all += area;
      if (field[row * COLUMNS + column] > threshold) above += area;
    }
  }
  return above / all;
}

function extremes(field) {
  let [low, high] = [0, 0];
  for (let i = 1; i < field.length; i++) {
    if (field[i] < field[low]) low = i;
    if (field[i] > field[high]) high = i;
  }
  return { low: field[low], high: field[high], lowAt: cellCentre(low), highAt: cellCentre(high) };
}

// ------------------------------------------------------------------------------------------------------- small DOM

export function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** "light" or "dark": the page says so, or else the colour behind the widget does. */
function pageTheme(element) {
  for (let at = element.parentElement; at; at = at.parentElement) {
    const [r, g, b, alpha = 1] = (getComputedStyle(at).backgroundColor.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
    if (alpha > 0.5) return 0.299 * r + 0.587 * g + 0.114 * b < 128 ? "dark" : "light";
  }
  const { theme } = document.documentElement.dataset;
  return theme === "dark" ? "dark" : "light";
}

/** Keeps `root.dataset.theme` right, calls `repaint` when it changes; returns a function that stops. */
export function followTheme(root, repaint) {
  const recolor = () => {
    const theme = pageTheme(root);
    if (root.dataset.theme === theme) return;
    root.dataset.theme = theme;
    repaint();
  };
  recolor();
  const observer = new MutationObserver(() => requestAnimationFrame(recolor));
  const options = { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light", "theme", "class"] };
  observer.observe(document.documentElement, options);
  observer.observe(document.body, options);
  const resized = new ResizeObserver(() => {
    recolor();
    repaint();
  });
  resized.observe(root);
  window.addEventListener("beforeprint", recolor); // paper is light
  return () => {
    window.removeEventListener("beforeprint", recolor);
    observer.disconnect();
    resized.disconnect();
  };
}

/** The widget's own files in a page of the book, else its kernel. */
export function chooseBackend(model) {
  const base = window.tslabAssets?.base;
  return base ? new OnnxBackend(base, MEASURES) : new KernelBackend(model);
}

// ----------------------------------------------------------------------------------------------------------- panel

/** A title, a globe, a map and a colour bar for one field, with dots at `points` if there are any. */
class Panel {
  constructor(explorer, { title, head, colors, description }) {
    this.explorer = explorer;
    this.tables = colors;
    this.points = [];
    this.painted = {};
    const id = newId("panel");
    const label = [title, explorer.label].filter(Boolean).join(", ");
    const canvas = (kind, label) =>
      node("canvas", {
        class: `tslab-${kind}`,
        tabindex: 0,
        role: "application",
        "aria-roledescription": kind === "globe" ? "globe" : "map",
        "aria-label": label,
        "aria-describedby": `${id}-text`,
      });
    this.globe = new Globe(
      canvas("globe", `${label} on a globe. Arrow keys turn it, Enter picks the place in its middle.`),
    );
    this.map = new FlatMap(canvas("map", `${label} on a map. Arrow keys move the place, with Shift in larger steps.`));
    this.gradient = node("div", { class: "tslab-gradient", "aria-hidden": "true" });
    this.ticks = node("div", { class: "tslab-ticks" });
    this.pointer = node("div", { class: "tslab-pointer", "aria-hidden": "true" }, POINTER_HINT);
    this.text = node("p", { class: "tslab-hidden", id: `${id}-text` }, description);
    this.root = node(
      "div",
      { class: "tslab-panel", role: "group", "aria-label": label },
      node("div", { class: "tslab-title" }, title),
      head,
      this.globe.canvas,
      this.map.canvas,
      node("div", { class: "tslab-bar" }, this.gradient, this.ticks),
      this.pointer,
      this.text,
    );
    this.listen();
  }

  /** Shows a field, or with null that there is none. */
  show(field, { low, high, diverging } = {}) {
    this.root.classList.toggle("tslab-empty", !field);
    this.globe.field = this.map.field = field;
    if (!field) return;
    const { table, stops } = diverging ? this.tables.diverging : this.tables.field;
    // lines are dark on the diverging scale, which is light, and light on the other, which is dark
    this.colors = { table, low, high, missing: this.tables.missing, ink: diverging ? "16, 23, 29" : "255, 255, 255" };
    this.gradient.style.background = `linear-gradient(to right, ${stops.map(([t, c]) => `${c} ${100 * t}%`).join(", ")})`;
    const middle = diverging ? 0 : (low + high) / 2;
    this.ticks.replaceChildren(...[low, middle, high].map((value) => node("span", {}, formatNumber(value))));
  }

  /** Paints what has changed since the last time; `quick` leaves out the map and paints the globe coarser. */
  draw(scene, raster, quick) {
    const width = this.globe.canvas.clientWidth;
    if (!width || !this.globe.field) return;
    const shared = [this.globe.field, this.points, scene.outline, scene.place.join(), Object.values(this.colors).join()];
    if (this.isNew("globe", [...shared, width, scene.view.join(), quick])) {
      this.globe.fit(width, width);
      const turned = raster("globe", quick ? Math.min(width, 260) : this.globe.canvas.width);
      if (turned.view !== scene.view.join()) {
        turnGlobe(turned, scene.view);
        turned.view = scene.view.join();
      }
      this.globe.draw(turned, this.colors, { ...scene, points: this.points });
    }
    const { clientWidth, clientHeight } = this.map.canvas;
    if (quick || !this.isNew("map", [...shared, clientWidth, clientHeight])) return; // the map does not turn
    this.map.fit(clientWidth, clientHeight);
    this.map.draw(raster("flat", this.map.canvas.width), this.colors, { ...scene, points: this.points });
  }

  isNew(what, facts) {
    const before = this.painted[what];
    this.painted[what] = facts;
    return !before || facts.some((fact, i) => fact !== before[i]);
  }

  listen() {
    const { explorer } = this;
    const globe = this.globe.canvas;
    let from = null;
    globe.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, view: [...explorer.view], moved: false };
      globe.setPointerCapture(event.pointerId);
    });
    globe.addEventListener("pointermove", (event) => {
      this.point(event, this.globe);
      if (!from) return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      if (Math.hypot(dx, dy) > 4) from.moved = true;
      if (!from.moved) return;
      const degrees = 115 / globe.clientWidth; // the surface follows the pointer in the middle of the globe
      explorer.turn([from.view[0] - dx * degrees, from.view[1] + dy * degrees], { quick: true });
    });
    const end = (event) => {
      if (from && !from.moved && event.type === "pointerup") this.pick(event, this.globe);
      if (from?.moved) explorer.turn(explorer.view);
      from = null;
    };
    globe.addEventListener("pointerup", end);
    globe.addEventListener("pointercancel", end);
    globe.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 30 : 10;
      const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
      if (by) explorer.turn([explorer.view[0] + by[0], explorer.view[1] + by[1]]);
      else if (event.key === "Enter" || event.key === " ") explorer.setPlace(explorer.view);
      else return;
      event.preventDefault();
    });

    const map = this.map.canvas;
    map.addEventListener("click", (event) => this.pick(event, this.map));
    map.addEventListener("pointermove", (event) => this.point(event, this.map));
    map.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 10 : 2;
      const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
      if (!by) return;
      event.preventDefault();
      const [lon, lat] = explorer.state.place;
      explorer.setPlace([wrapLongitude(lon + by[0]), lat + by[1]], { follow: true });
    });
    for (const canvas of [globe, map])
      canvas.addEventListener("pointerleave", () => (this.pointer.textContent = POINTER_HINT));
  }

  placeUnder(event, view) {
    const box = view.canvas.getBoundingClientRect();
    return view.placeAt(event.clientX - box.left, event.clientY - box.top, this.explorer.view);
  }

  pick(event, view) {
    const place = this.placeUnder(event, view);
    if (place) this.explorer.setPlace(place);
  }

  point(event, view) {
    const place = this.placeUnder(event, view);
    const field = view.field;
    this.pointer.textContent = place && field ? `${formatPlace(place)}: ${formatNumber(field[cellOf(...place)])}` : POINTER_HINT;
  }
}

// -------------------------------------------------------------------------------------------------------- explorer

export class Explorer {
  /** @param lab the laboratory that this is one side of; a lone explorer has none. */
  constructor(model, root, lab = null) {
    this.model = model;
    this.root = root;
    this.lab = lab;
    this.label = lab ? root.getAttribute("aria-label") : "";
    this.encoders = model.get("_encoders");
    this.names = lab ? [...STATE, "species"] : STATE;
    this.state = this.given();
    this.coast = unpackLines(model.get("_land"));
    this.view = lab?.view ?? [this.state.place[0] + 15, Math.max(-50, Math.min(50, this.state.place[1] - 15))];
    this.reducedMotion = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.base = window.tslabAssets?.base;
    this.backend = lab?.backend ?? chooseBackend(model);
    this.build();
    this.followModel();
    this.unfollow = followTheme(root, () => this.redraw());
    this.showInitial();
    if (this.base) this.setMode("initial");
    else this.start();
  }

  /** The state as the model has it. */
  given() {
    return Object.fromEntries(this.names.map((name) => [name, this.model.get(name)]));
  }

  build() {
    const colors = this.model.get("_colors");
    const [r, g, b] = parseColor(colors.missing);
    const tables = {
      field: { table: colorTable(colors.field), stops: colors.field },
      diverging: { table: colorTable(colors.diverging), stops: colors.diverging },
      missing: ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0,
    };
    const id = (name) => `${this.root.id}-${name}`;

    this.encoderSelect = node("select", { id: id("encoder"), onchange: () => this.setEncoder(this.encoderSelect.value) });
    const families = [...new Set(Object.values(this.encoders).map((e) => e.family))];
    for (const family of families) {
      const group = node("optgroup", { label: family });
      for (const [key, encoder] of Object.entries(this.encoders))
        if (encoder.family === family) group.append(node("option", { value: key }, encoder.name));
      this.encoderSelect.append(group);
    }
    this.summary = node("p", { class: "tslab-summary" });
    this.sliders = node("div", { class: "tslab-sliders" });
    this.reset = node("button", { type: "button", class: "tslab-quiet", onclick: () => this.setEncoder(this.state.encoder) }, "Reset");
    this.controls = node(
      "fieldset",
      { class: "tslab-controls" },
      node("legend", { class: "tslab-hidden" }, "Encoder and its parameters"),
      node(
        "div",
        { class: "tslab-encoder" },
        node("label", { for: id("encoder") }, "Encoder"),
        this.encoderSelect,
        this.reset,
      ),
      this.summary,
      this.sliders,
    );

    this.run = node("button", { type: "button", class: "tslab-run", onclick: () => this.press() }, "Run in your browser");
    this.note = node("p", { class: "tslab-note" });
    this.banner = node("div", { class: "tslab-banner" }, this.run, this.note);

    this.channelSlider = node("input", {
      type: "range",
      id: id("channel"),
      min: 0,
      max: 0,
      step: 1,
      oninput: () => this.set({ channel: Number(this.channelSlider.value) }),
    });
    this.channelLabel = node("label", { for: id("channel") }, "Feature");
    this.featureName = node("p", { class: "tslab-feature" });
    this.channelFields = node(
      "fieldset",
      { class: "tslab-head" },
      node("legend", { class: "tslab-hidden" }, "Which feature"),
      node("div", { class: "tslab-channel" }, this.channelLabel, this.channelSlider),
      this.featureName,
    );
    this.measureSelect = node(
      "select",
      { id: id("measure"), onchange: () => this.set({ measure: this.measureSelect.value }) },
      node("option", { value: "cosine" }, "cosine"),
      node("option", { value: "dot" }, "inner product"),
    );
    const number = (name, limit) =>
      node("input", {
        type: "number",
        id: id(name),
        min: -limit,
        max: limit,
        step: "any",
        onchange: () => this.typePlace(),
      });
    this.lon = number("lon", 180);
    this.lat = number("lat", 90);
    this.placeFields = node(
      "fieldset",
      { class: "tslab-head tslab-place" },
      node("legend", { class: "tslab-hidden" }, "Which place, and how similarity is measured"),
      node("div", {}, node("label", { for: id("lat") }, "Latitude"), this.lat),
      node("div", {}, node("label", { for: id("lon") }, "Longitude"), this.lon),
      node("div", {}, node("label", { for: id("measure") }, "Measure"), this.measureSelect),
    );
    this.panels = [
      new Panel(this, { title: "One feature", head: this.channelFields, colors: tables }),
      new Panel(this, { title: "Similarity to the place", head: this.lab ? null : this.placeFields, colors: tables }),
    ];
    if (this.lab) {
      this.presenceNote = node("p", { class: "tslab-feature" });
      this.panels.push(new Panel(this, { title: "Predicted presence", head: this.presenceNote, colors: tables }));
    }

    this.readout = node("dl", { class: "tslab-readout" });
    this.live = node("p", { class: "tslab-hidden", role: "status", "aria-live": "polite" });
    this.trouble = node("p", { class: "tslab-trouble", role: "alert", hidden: true });
    const panels = node("div", { class: "tslab-panels" }, ...this.panels.map((panel) => panel.root));
    const banner = this.base && !this.lab ? [this.banner] : []; // the laboratory has one for both sides
    const shown = this.lab ? [this.readout, panels] : [panels, this.readout];
    this.root.append(this.controls, ...banner, this.trouble, ...shown, this.live);
    this.fillSliders();
  }

  // ---- state

  /** Changes part of the state, shows it in the controls and computes. */
  set(change, { quiet = false } = {}) {
    Object.assign(this.state, change);
    this.showState();
    if (!quiet) this.save();
    this.compute();
  }

  save() {
    this.handing = true; // what the model says in between is half old
    for (const [name, value] of Object.entries(this.state)) this.model.set(name, value);
    this.handing = false;
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.model.save_changes(), 150);
  }

  setEncoder(key) {
    const { parameters, channel } = this.encoders[key];
    const values = Object.fromEntries(parameters.map((p) => [p.name, p.default]));
    Object.assign(this.state, { encoder: key, parameters: values, channel });
    this.fillSliders();
    this.set({});
  }

  setParameter(parameter, value) {
    const parameters = { ...this.state.parameters, [parameter.name]: value };
    // the finest scale is never coarser than the coarsest
    const limit = (name) => this.encoders[this.state.encoder].parameters.find((p) => p.name === name);
    if (parameter.name === "min_radius" && value > parameters.max_radius)
      parameters.max_radius = Math.min(limit("max_radius").high, value);
    if (parameter.name === "max_radius" && value < parameters.min_radius) parameters.min_radius = value;
    this.set({ parameters });
  }

  setPlace([lon, lat], { follow = false } = {}) {
    if (this.mode === "initial") return (this.lab?.sides[0] ?? this).say("Press “Run in your browser” first: until then the picture is fixed.", true);
    const place = [round(wrapLongitude(lon)), round(Math.max(-90, Math.min(90, lat)))];
    if (lon === 180) place[0] = 180;
    this.set({ place });
    if (follow) this.turn([place[0], Math.max(-60, Math.min(60, place[1]))]);
  }

  typePlace() {
    const [lon, lat] = [this.lon, this.lat].map((input) => (input.value === "" ? NaN : Number(input.value)));
    if (Math.abs(lon) <= 180 && Math.abs(lat) <= 90) return this.setPlace([lon, lat], { follow: true });
    this.fail(new Trouble("That is no place: longitude runs from −180 to 180, latitude from −90 to 90 degrees."), false);
  }

  /** Takes over what Python, or the other side of the laboratory, has changed. */
  followModel() {
    const pull = () => {
      if (this.handing) return;
      const given = this.given();
      const changed = this.names.filter((name) => JSON.stringify(given[name]) !== JSON.stringify(this.state[name]));
      if (!changed.length || !given.encoder) return;
      if (changed.includes("encoder") && !changed.includes("parameters")) {
        // a new encoder without parameters of its own starts from its defaults
        const { parameters, channel } = this.encoders[given.encoder];
        given.parameters = Object.fromEntries(parameters.map((p) => [p.name, p.default]));
        given.channel = channel;
      }
      Object.assign(this.state, given);
      this.fillSliders();
      this.set({});
    };
    this.listeners = this.names.map((name) => [`change:${name}`, pull]);
    for (const [event, listener] of this.listeners) this.model.on(event, listener);
  }

  // ---- controls

  fillSliders() {
    const { parameters, summary, name, family } = this.encoders[this.state.encoder];
    this.encoderSelect.value = this.state.encoder;
    this.summary.textContent = `${name}: ${summary}.`;
    this.root.style.setProperty("--tslab-family", `var(--tslab-family-${family.replaceAll(" ", "-")})`);
    const own = Object.fromEntries(parameters.map((p) => [p.name, p]));
    // alone, an encoder keeps the common sliders so that they do not jump; beside another one it shows its own, in one row
    const names = [...new Set([...(this.lab ? [] : COMMON), ...Object.keys(own)])];
    this.inputs = new Map();
    const none = node("p", { class: "tslab-feature" }, "This encoder has no parameter to move.");
    this.sliders.replaceChildren(...(names.length ? names.map((n) => this.slider(n, own[n])) : [none]));
    this.showState();
  }

  slider(name, parameter) {
    const id = `${this.root.id}-${name}`;
    const output = node("output", { for: id });
    const log = parameter?.kind === "log";
    const input = node("input", {
      type: "range",
      id,
      name,
      min: log ? 0 : (parameter?.low ?? 0),
      max: log ? LOG_STEPS : (parameter?.high ?? 1),
      step: parameter?.kind === "linear" ? "any" : 1,
      disabled: !parameter,
      oninput: () => this.setParameter(parameter, fromSlider(parameter, Number(input.value))),
    });
    if (parameter) this.inputs.set(name, { parameter, input, output });
    else output.textContent = "does not apply";
    const label = node("label", { for: id }, parameter?.label ?? COMMON_LABELS[name]);
    return node("div", { class: "tslab-slider" }, label, output, input);
  }

  showState() {
    for (const [name, { parameter, input, output }] of this.inputs) {
      const value = this.state.parameters[name];
      input.value = toSlider(parameter, value);
      output.textContent = `${formatNumber(value)}${parameter.unit}`;
      input.setAttribute("aria-valuetext", output.textContent);
    }
    this.measureSelect.value = this.state.measure;
    if (document.activeElement !== this.lon) this.lon.value = this.state.place[0];
    if (document.activeElement !== this.lat) this.lat.value = this.state.place[1];
    this.redraw();
  }

  // ---- computing

  setMode(mode) {
    this.mode = this.root.dataset.state = mode;
    const locked = mode === "initial" || mode === "loading";
    for (const fields of [this.controls, this.channelFields, this.placeFields]) fields.disabled = locked;
    this.lab?.modeChanged();
    if (!this.base) return;
    this.banner.hidden = mode === "ready";
    this.run.disabled = mode === "loading";
    this.note.textContent =
      mode === "loading"
        ? "Loading ONNX Runtime and the encoder …"
        : "The picture was computed with torch when this page was built. To change it, load the same encoder into your browser (about 14 MB; some 4 MB where the host compresses it).";
  }

  press() {
    this.pressed = true;
    (this.lab ?? this).start();
  }

  async start() {
    this.setMode(this.base ? "loading" : "ready");
    this.trouble.hidden = true;
    try {
      await this.backend.open();
      await this.compute();
      if (this.mode === "loading") {
        const hadFocus = [this.run, document.body].includes(document.activeElement); // a disabled button loses it
        this.setMode("ready");
        if (this.pressed && hadFocus) this.encoderSelect.focus({ preventScroll: true });
      }
    } catch (error) {
      this.fail(error);
    }
  }

  /** Computes the newest state; while one computation runs, later calls only mark that another is needed. */
  async compute() {
    if (this.mode === "initial") return;
    this.stale = true;
    if (this.computing) return this.computing;
    this.computing = (async () => {
      while (this.stale && !this.closed) {
        this.stale = false;
        const request = structuredClone(this.state);
        const began = performance.now();
        const result = await this.backend.compute(request, () => this.stale);
        if (this.closed) return;
        this.trouble.hidden = true;
        this.show(result, request, performance.now() - began);
      }
    })();
    try {
      await this.computing;
    } catch (error) {
      this.fail(error);
    } finally {
      this.computing = null;
    }
  }

  fail(error, stop = true) {
    const text = error instanceof Trouble ? error.message : `Something went wrong: ${error.message}. Reload the page to start again.`;
    this.trouble.textContent = text;
    this.trouble.hidden = false;
    if (!(error instanceof Trouble)) console.error(error);
    if (stop && this.mode === "loading") this.setMode("initial");
  }

  showInitial() {
    const { ranges, ...facts } = this.model.get("_initial") ?? {};
    if (!ranges) return; // a side that was added later starts empty
    const field = (name) => {
      if (!ranges[name]) return undefined;
      const [low, high] = ranges[name];
      const view = this.model.get(`_initial_${name}`);
      const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
      return Float32Array.from(bytes, (byte) => low + ((high - low) * byte) / 255);
    };
    this.show(
      { ...facts, feature: field("feature"), similarity: field("similarity"), presence: field("presence") },
      structuredClone(this.state),
    );
  }

  // ---- showing

  show(result, request, milliseconds) {
    this.result = result;
    const { feature, similarity, outFeatures } = result;
    if (!this.stale && this.state.channel >= outFeatures) {
      this.state.channel = outFeatures - 1;
      this.save();
    }
    const range = extremes(feature);
    const largest = Math.max(Math.abs(range.low), Math.abs(range.high)) || 1;
    const signed = range.low < 0 && range.high > 0;
    this.panels[0].show(feature, signed ? { low: -largest, high: largest, diverging: true } : range);
    const alike = extremes(similarity);
    const most = Math.max(1, Math.abs(alike.low), Math.abs(alike.high));
    this.panels[1].show(similarity, { low: -most, high: most, diverging: true });
    if (this.lab) this.showPresence(result, request);
    this.redraw();
    this.describe(result, request, range, alike);
    if (milliseconds === undefined) return;
    this.root.dataset.results = Number(this.root.dataset.results || 0) + 1;
    this.root.dispatchEvent(
      new CustomEvent("tslab:result", { bubbles: true, detail: { request, result, milliseconds, backend: this.base ? "onnx" : "kernel" } }),
    );
  }

  showPresence({ presence, present, top1 }, { species }) {
    const { panels, presenceNote } = this;
    const { rows, ceiling, sightings } = this.lab.trained;
    const [panel] = panels.slice(-1);
    panel.points = this.lab.pairs(sightings[this.lab.trained.species.indexOf(species)]);
    panel.show(presence ?? null, { low: 0, high: 1 });
    presenceNote.textContent = presence
      ? `P(${species} is here), as learned behind this encoder from ${rows.toLocaleString("en")} synthetic sightings (dots: some of ` +
        `them), with the sliders where they start. Top-1 on new sightings: ${formatNumber(100 * top1)}\u00a0%, at best ${formatNumber(100 * ceiling)}\u00a0%.`
      : "No model is trained with this encoder.";
    if (!presence) return;
    const range = extremes(presence);
    panel.text.textContent =
      `Predicted presence of the synthetic species ${species}: ${formatNumber(present)} at the place, highest ${formatNumber(range.high)} ` +
      `at ${formatPlace(range.highAt)}; above one half on ${formatShare(shareAbove(presence, 0.5))} of the Earth.`;
  }

  describe(result, request, range, alike) {
    const encoder = this.encoders[request.encoder];
    const { name, scale } = describeFeature(encoder, result.channel, result.outFeatures);
    const wavelength = scale ? result.wavelengths[scale.index] : undefined;
    this.channelSlider.max = result.outFeatures - 1;
    this.channelSlider.value = result.channel;
    this.channelSlider.disabled = result.outFeatures < 2;
    this.channelLabel.textContent = `Feature ${result.channel + 1} of ${result.outFeatures}`;
    this.channelSlider.setAttribute("aria-valuetext", `${result.channel + 1} of ${result.outFeatures}: ${name}`);
    const parts = [name];
    if (scale && scale.count > 1) parts.push(`scale ${scale.index + 1} of ${scale.count}`);
    if (wavelength) parts.push(`one wave is ${formatNumber(wavelength)}°`);
    const aliased = wavelength < 2 * GRID_STEP;
    this.featureName.textContent = parts.join(", ") + (aliased ? ". Finer than this map can show: the pattern is an artefact." : "");

    const place = formatPlace(request.place);
    const share = result.similarArea ?? shareAbove(result.similarity, 0.5); // the first picture is rounded to bytes
    const percent = formatShare(share);
    const rows = [
      ...(this.lab ? [] : [["Place", place, ""]]),
      ["Feature there", formatNumber(result.value), ""],
      ["Similar area", percent, "Share of the Earth whose similarity exceeds 0.5."],
      ["Seam gap", formatMeter(result.seamGap), "Jump of the encoding across the date line; 1 is the distance between two random places.", result.seamGap],
      ["Pole spread", formatMeter(result.poleSpread), "How much one pole changes with its longitude; 1 is the distance between two random places.", result.poleSpread],
      ["Effective rank", formatRank(result), "How many independent features carry the variation over the Earth."],
    ];
    if (result.presence)
      rows.push([`P(${request.species})`, formatNumber(result.present, 2), "Predicted presence of the synthetic species at the place."]);
    this.readout.replaceChildren(
      ...rows.map(([term, value, title, level]) =>
        node(
          "div",
          { title },
          node("dt", {}, term),
          node("dd", {}, value, Number.isFinite(level) ? meter(level) : null),
        ),
      ),
    );
    this.panels[0].text.textContent =
      `${encoder.name}, feature ${result.channel + 1} of ${result.outFeatures}: ${parts.join(", ")}. On the map it runs from ` +
      `${formatNumber(range.low)} at ${formatPlace(range.lowAt)} to ${formatNumber(range.high)} at ${formatPlace(range.highAt)}.`;
    this.panels[1].text.textContent =
      `Similarity of every place to ${place}: above 0.5 on ${percent} of the Earth, lowest ${formatNumber(alike.low)} at ${formatPlace(alike.lowAt)}.`;
    if (this.described) {
      this.say(
        `${place}: feature ${formatNumber(result.value)}. ${percent} of the Earth is similar. ` +
          `Seam gap ${formatMeter(result.seamGap)}, pole spread ${formatMeter(result.poleSpread)}.`,
      );
    }
    this.described = true;
  }

  /** Says something to screen readers once the reader pauses. */
  say(text, visible = false) {
    clearTimeout(this.saying);
    if (visible && this.base) this.note.textContent = text;
    this.saying = setTimeout(() => (this.live.textContent = text), visible ? 0 : 700);
  }

  /** Turns both globes; `quick` draws them coarser, for use while the pointer moves. */
  turn(to, options) {
    (this.lab ?? this).turnTo(to, options);
  }

  turnTo([lon, lat], { quick = false } = {}) {
    const to = [wrapLongitude(lon), Math.max(-90, Math.min(90, lat))];
    cancelAnimationFrame(this.turning);
    const far = Math.abs(wrapLongitude(to[0] - this.view[0])) + Math.abs(to[1] - this.view[1]) > 3;
    if (quick || this.reducedMotion || !far) {
      this.view = to;
      return this.redraw(quick);
    }
    const from = this.view;
    const by = [wrapLongitude(to[0] - from[0]), to[1] - from[1]];
    const began = performance.now();
    const step = (now) => {
      const t = Math.min(1, Math.max(0, (now - began) / 250));
      const eased = t * (2 - t);
      this.view = [wrapLongitude(from[0] + by[0] * eased), from[1] + by[1] * eased];
      this.draw(t < 1);
      if (t < 1) this.turning = requestAnimationFrame(step);
    };
    this.turning = requestAnimationFrame(step);
  }

  redraw(quick = false) {
    cancelAnimationFrame(this.drawing);
    this.drawing = requestAnimationFrame(() => this.draw(quick));
  }

  draw(quick = false) {
    if (this.closed || !this.result || !this.root.isConnected) return;
    const outline = getComputedStyle(this.root).getPropertyValue("--tslab-line").trim() || "#9aa7b1";
    const scene = { view: this.view, place: this.state.place, coast: this.coast, outline };
    for (const panel of this.panels) panel.draw(scene, (kind, size) => this.raster(kind, size), quick);
  }

  /** Rasters by size, so that the panels share one. */
  raster(kind, size) {
    this.rasters ||= new Map();
    const key = `${kind} ${size}`;
    if (!this.rasters.has(key)) {
      if (this.rasters.size > 6) this.rasters.clear();
      this.rasters.set(key, kind === "globe" ? globeRaster(size) : flatRaster(size));
    }
    return this.rasters.get(key);
  }

  close() {
    this.closed = true;
    this.unfollow();
    for (const [event, listener] of this.listeners) this.model.off(event, listener);
    if (!this.lab) this.backend.close();
  }
}

const round = (degrees) => Math.round(degrees * 100) / 100;
const formatMeter = (value) => (Number.isNaN(value) ? "…" : value < 0.005 ? "0" : value.toFixed(2));
const formatShare = (share) => `${share < 0.001 ? "under 0.1" : formatNumber(100 * share, 2)}\u00a0%`;
const formatRank = ({ effectiveRank, outFeatures }) =>
  Number.isNaN(effectiveRank) ? "…" : `${formatNumber(effectiveRank)} of ${outFeatures}`;

/** A short bar beside a number between 0 and about 1.5. */
function meter(value) {
  const bar = node("span", { class: "tslab-meter", "aria-hidden": "true" });
  bar.style.setProperty("--level", `${Math.min(100, (100 * value) / 1.5)}%`);
  return bar;
}
