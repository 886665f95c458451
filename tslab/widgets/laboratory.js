// The laboratory: one explorer, or two side by side, over the same place. What the sides share lives in the widget's model,
// and each side follows it there. In a page of the book the whole state also stands in the address.

import { MEASURES, Explorer, chooseBackend, followTheme, newId, node } from "./explorer.js";
import { wrapLongitude } from "./maps.js";

const SIDES = ["a", "b"];
const MOST_FEATURES = 1e6; // more than any encoder has
const SHARED = ["place", "measure", "species"];

// ---------------------------------------------------------------------------------------------------------- address

/** The state as the part of an address behind "#": what the encoders' defaults do not say already. */
export function toHash({ sides, place, measure, species }, encoders) {
  const parts = [];
  sides.forEach(({ encoder, parameters, channel }, i) => {
    const defaults = encoders[encoder];
    parts.push([SIDES[i], encoder]);
    for (const { name, default: usual } of defaults.parameters)
      if (parameters[name] !== usual) parts.push([`${SIDES[i]}.${name}`, parameters[name]]);
    if (channel !== defaults.channel) parts.push([`${SIDES[i]}.channel`, channel]);
  });
  parts.push(["place", place.join(",")], ["measure", measure], ["species", species]);
  const plain = (value) => encodeURIComponent(value).replaceAll("%2C", ",").replaceAll("%2B", "+");
  return `#${parts.map(([name, value]) => `${name}=${plain(value)}`).join("&")}`;
}

/** A number written in decimal digits; NaN for anything else, such as "0x10", "1e999", blanks or nothing. */
function decimal(text) {
  const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text ?? "") ? Number(text) : NaN;
  return Number.isFinite(number) ? number : NaN;
}

/** The state that an address asks for, or null if it asks for none; what it leaves out or gets wrong is left out here. */
export function fromHash(hash, encoders, species) {
  let given;
  try {
    given = new Map(hash.replace(/^#/, "").split("&").map((part) => part.split("=").map(decodeURIComponent)));
  } catch {
    return null; // not written by us
  }
  const sides = SIDES.filter((side) => Object.hasOwn(encoders, given.get(side))).map((side) => {
    const encoder = given.get(side);
    const value = ({ name, kind, low, high, default: usual }) => {
      const number = decimal(given.get(`${side}.${name}`));
      if (!Number.isFinite(number)) return usual;
      return Math.min(high, Math.max(low, kind === "count" ? Math.round(number) : number));
    };
    const parameters = Object.fromEntries(encoders[encoder].parameters.map((p) => [p.name, value(p)]));
    const channel = decimal(given.get(`${side}.channel`));
    const known = Number.isSafeInteger(channel) && channel >= 0 && channel <= MOST_FEATURES;
    return { encoder, parameters, channel: known ? channel : encoders[encoder].channel };
  });
  if (!sides.length) return null;
  const state = { sides };
  const place = (given.get("place") ?? "").split(",").map(decimal);
  if (place.length === 2 && Math.abs(place[0]) <= 180 && Math.abs(place[1]) <= 90) state.place = place;
  if (MEASURES.includes(given.get("measure"))) state.measure = given.get("measure");
  if (species.includes(given.get("species"))) state.species = given.get("species");
  return state;
}

/** The state as the Python expression that shows it. */
export function toPython({ sides, place, measure, species }) {
  const encoders = sides.map((side) => JSON.stringify(side).replaceAll('":', '": ').replaceAll(',"', ', "'));
  return `Laboratory(${[...encoders, `place=(${place.join(", ")})`, `measure="${measure}"`, `species="${species}"`].join(", ")})`;
}

// ------------------------------------------------------------------------------------------------------------- side

/** The model of one side: encoder, parameters and channel are its own, everything else is the laboratory's. */
class SideModel {
  constructor(model, index) {
    this.model = model;
    this.index = index;
  }

  get(name) {
    if (SideModel.own.includes(name)) return this.model.get("sides")[this.index]?.[name];
    if (name === "_initial") return this.model.get("_initial")[this.index];
    if (name.startsWith("_initial_")) return this.model.get("_initial")[this.index][name.slice("_initial_".length)];
    return this.model.get(name);
  }

  set(name, value) {
    if (!SideModel.own.includes(name)) return this.model.set(name, value);
    const sides = [...this.model.get("sides")];
    if (!sides[this.index] || JSON.stringify(sides[this.index][name]) === JSON.stringify(value)) return;
    sides[this.index] = { ...sides[this.index], [name]: value };
    this.model.set("sides", sides);
  }

  on(event, listener) {
    this.model.on(this.event(event), listener);
  }

  off(event, listener) {
    this.model.off(this.event(event), listener);
  }

  event(name) {
    return SideModel.own.includes(name.replace("change:", "")) ? "change:sides" : name;
  }

  save_changes() {
    this.model.save_changes();
  }
}
SideModel.own = ["encoder", "parameters", "channel"];

// ------------------------------------------------------------------------------------------------------- laboratory

export class Laboratory {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.encoders = model.get("_encoders");
    this.trained = model.get("_trained");
    this.backend = chooseBackend(model);
    this.fixed = Boolean(window.tslabAssets?.base); // a page without a kernel: its address can hold the state
    const [lon, lat] = model.get("place");
    this.view = [wrapLongitude(lon + 15), Math.max(-50, Math.min(50, lat - 15))];
    this.sides = [];
    this.build();
    this.unfollow = followTheme(root, () => {});
    this.listeners = [
      ["change:sides", () => this.fitSides()],
      ...["change:sides", ...SHARED.map((name) => `change:${name}`)].map((event) => [event, () => this.changed()]),
    ];
    for (const [event, listener] of this.listeners) model.on(event, listener);
    if (this.fixed) {
      this.followAddress = () => this.readAddress();
      window.addEventListener("hashchange", this.followAddress);
      this.readAddress();
    } else {
      this.followLink = (event) => this.readLink(event);
      document.addEventListener("click", this.followLink, true);
    }
  }

  build() {
    const id = (name) => `${this.root.id}-${name}`;
    this.columns = node("div", { class: "tslab-sides" });
    this.speciesSelect = node(
      "select",
      { id: id("species"), onchange: () => this.share({ species: this.speciesSelect.value }) },
      ...this.trained.species.map((name) => node("option", { value: name }, name)),
    );
    this.compare = node("input", { type: "checkbox", id: id("compare"), onchange: () => this.setCompare(this.compare.checked) });
    this.copy = node(
      "button",
      { type: "button", onclick: () => this.copyState() },
      this.fixed ? "Copy link" : "Copy Python",
    );
    this.copied = node("span", { class: "tslab-copied", role: "status" });
    this.tools = node(
      "fieldset",
      { class: "tslab-tools" },
      node("legend", { class: "tslab-hidden" }, "What all maps share"),
      node("div", { class: "tslab-species" }, node("label", { for: id("species") }, "Species (synthetic)"), this.speciesSelect),
      node("div", { class: "tslab-check" }, this.compare, node("label", { for: id("compare") }, "Compare two encoders")),
    );
    const copying = node("div", { class: "tslab-copy" }, this.copy, this.copied);
    const shared = node("div", { class: "tslab-shared" }, this.tools, copying);
    this.root.append(shared, this.columns);
    this.fitSides();
    const [first] = this.sides;
    this.tools.prepend(first.placeFields);
    if (this.fixed) this.root.prepend(first.banner);
    this.modeChanged();
    this.changed(false);
  }

  // ---- state

  get state() {
    return Object.fromEntries(["sides", ...SHARED].map((name) => [name, this.model.get(name)]));
  }

  share(change) {
    for (const [name, value] of Object.entries(change)) if (value !== undefined) this.model.set(name, value);
    this.model.save_changes();
  }

  /** As many explorers as the model has sides. */
  fitSides() {
    const count = this.model.get("sides").length;
    while (this.sides.length > count) {
      const side = this.sides.pop();
      side.close();
      side.root.remove();
    }
    while (this.sides.length < count) {
      const index = this.sides.length;
      const name = `encoder ${SIDES[index].toUpperCase()}`;
      const root = node("div", { class: "tslab-explorer tslab-side", id: newId("side"), role: "group", "aria-label": name });
      this.columns.append(root);
      const side = new Explorer(new SideModel(this.model, index), root, this);
      this.sides.push(side);
      if (this.fixed && this.sides[0].mode === "ready") side.start();
    }
    this.columns.dataset.count = count;
  }

  setCompare(wanted) {
    const sides = this.model.get("sides");
    if (wanted) {
      const other = sides[0].encoder === "wrap" ? "sphere2vec_sphereC+" : "wrap";
      const { parameters, channel } = this.encoders[other];
      const fresh = { encoder: other, parameters: Object.fromEntries(parameters.map((p) => [p.name, p.default])), channel };
      this.share({ sides: [sides[0], this.parked ?? fresh] });
    } else {
      this.parked = sides[1];
      this.share({ sides: sides.slice(0, 1) });
    }
  }

  /** After any change of the state: the shared controls and the address say it. */
  changed(byReader = true) {
    const { sides, species } = this.state;
    this.speciesSelect.value = species;
    this.compare.checked = sides.length > 1;
    this.copied.textContent = "";
    if (!this.fixed || !byReader) return;
    clearTimeout(this.writing);
    this.writing = setTimeout(() => {
      if (this.mode !== "initial") history.replaceState(history.state, "", toHash(this.state, this.encoders));
    }, 300);
  }

  // ---- address

  readAddress() {
    const wanted = fromHash(location.hash, this.encoders, this.trained.species);
    if (!wanted) return;
    this.root.scrollIntoView({ block: "start" });
    if (this.mode === "ready") this.restore(wanted);
    else this.start(wanted);
  }

  /** In a notebook, whose address is not ours: a link with a state, in the text around, is taken over here. */
  readLink(event) {
    const link = event.target.closest?.("a[href*='#a=']");
    const wanted = link && !event.defaultPrevented && fromHash(link.hash, this.encoders, this.trained.species);
    if (!wanted) return;
    event.preventDefault();
    event.stopPropagation();
    this.root.scrollIntoView({ block: "start" });
    this.restore(wanted);
  }

  restore(wanted) {
    this.share(wanted);
    const [lon, lat] = this.model.get("place");
    this.turnTo([lon, Math.max(-60, Math.min(60, lat))]);
  }

  async copyState() {
    const text = this.fixed
      ? `${location.href.split("#")[0]}${toHash(this.state, this.encoders)}`
      : toPython(this.state);
    try {
      await navigator.clipboard.writeText(text);
      this.copied.textContent = "Copied.";
    } catch {
      this.copied.textContent = this.fixed ? "Your browser does not let pages copy; copy the address of this page." : text;
    }
  }

  // ---- running

  get mode() {
    return this.sides[0]?.mode;
  }

  modeChanged() {
    if (!this.mode) return;
    this.root.dataset.state = this.mode;
    this.tools.disabled = this.mode !== "ready";
  }

  /** Loads what the encoders need, then takes over the state of the address, if there is one. */
  async start(wanted) {
    const [first] = this.sides;
    for (const side of this.sides) side.setMode("loading");
    try {
      await this.backend.open();
    } catch (error) {
      for (const side of this.sides.slice(1)) side.setMode("initial");
      return first.fail(error);
    }
    if (wanted) this.restore(wanted);
    await Promise.all(this.sides.map((side) => side.start()));
  }

  /** Turns the globes of all sides. */
  turnTo(to, options) {
    this.view = to;
    for (const side of this.sides) side.turnTo(to, options);
  }

  pairs(flat) {
    return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);
  }

  close() {
    clearTimeout(this.writing);
    if (this.followAddress) window.removeEventListener("hashchange", this.followAddress);
    if (this.followLink) document.removeEventListener("click", this.followLink, true);
    for (const [event, listener] of this.listeners) this.model.off(event, listener);
    for (const side of this.sides) side.close();
    this.unfollow();
    this.backend.close();
  }
}

function render({ model, el }) {
  const isLaboratory = model.get("sides") !== undefined;
  const [kind, label] = isLaboratory ? ["laboratory", "Laboratory"] : ["explorer", "Encoder explorer"];
  const root = node("div", { class: "tslab-explorer", id: newId(kind), role: "group", "aria-label": label });
  if (isLaboratory) root.classList.add("tslab-laboratory");
  el.append(root);
  const shown = isLaboratory ? new Laboratory(model, root) : new Explorer(model, root);
  return () => shown.close();
}

export default { render };
