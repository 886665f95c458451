// Who computes: the kernel of a live notebook, or ONNX Runtime Web in a page without one. Both run the same torch
// modules (the second as ONNX graphs exported from them) and answer the same call:
//
//   await backend.compute({encoder, parameters, place, channel, measure, species}, hurried)
//   -> {outFeatures, channel, feature, similarity, value, seamGap, poleSpread, effectiveRank, wavelengths,
//       presence, present, top1}
//
// `feature` and `similarity` are Float32Arrays over the grid, `value` is the feature at the place. With a `species`,
// `presence` is the map that the model trained with this encoder predicts for it, `present` its value at the place.
// `hurried()` says that a newer request waits: then the meters may be left out (NaN). One backend serves several views.

/** An error whose message is a sentence for the reader, with a next step. */
export class Trouble extends Error {}

/** Live: asks the Python side of the widget. */
export class KernelBackend {
  constructor(model, patience = 30_000) {
    this.model = model;
    this.patience = patience;
    this.waiting = new Map();
    this.last = 0;
    this.prefix = Math.random().toString(36).slice(2);
    this.receive = (content, buffers) => {
      const waiting = this.waiting.get(content.id);
      if (!waiting) return;
      this.waiting.delete(content.id);
      clearTimeout(waiting.timer);
      if (content.kind === "error") waiting.reject(new Trouble(content.text));
      else waiting.resolve({ ...content.result, ...unpack(buffers) });
    };
    model.on("msg:custom", this.receive);
  }

  async open() {}

  compute(request) {
    const id = `${this.prefix}-${++this.last}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        reject(new Trouble("The kernel does not answer. Start it again, run the cell, and the picture comes alive."));
      }, this.patience);
      this.waiting.set(id, { resolve, reject, timer });
      this.model.send({ kind: "compute", id, ...request });
    });
  }

  close() {
    this.model.off("msg:custom", this.receive);
    for (const { timer } of this.waiting.values()) clearTimeout(timer);
  }
}

function unpack([feature, similarity, presence]) {
  const floats = (view) =>
    view && new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  return { feature: floats(feature), similarity: floats(similarity), presence: floats(presence) };
}

const REMEMBERED = 4; // encodings of the grid, so that moving the place is quick for both sides of the laboratory

/** Static page: ONNX Runtime Web and the exported graphs below `base`, fetched by `open`. */
export class OnnxBackend {
  constructor(base, measures) {
    this.base = base;
    this.measures = measures;
    this.sessions = new Map();
    this.grid = null;
    this.encoded = new Map();
    this.predicted = new Map();
  }

  /** Fetches what every encoder needs, once; a failed try can be repeated. */
  open() {
    this.opening ||= this.fetchAll().catch((error) => {
      this.opening = null;
      throw error;
    });
    return this.opening;
  }

  async fetchAll() {
    if (location.protocol === "file:")
      throw new Trouble(
        "A page opened from a file may not load the encoders. Serve the book (make serve) or read it on the web.",
      );
    const manifest = await this.fetch("models/manifest.json", "the list of encoders");
    this.manifest = await manifest.json();
    try {
      this.ort = await import(/* webpackIgnore: true */ `${this.base}ort/ort.wasm.bundle.min.mjs`);
      this.ort.env.wasm.wasmPaths = `${this.base}ort/`;
      this.ort.env.wasm.numThreads = 1; // threads would need special headers from the server
      this.ort.env.logLevel = "error";
    } catch (error) {
      throw new Trouble(`ONNX Runtime Web could not be loaded (${error.message}). Reload the page and try again.`);
    }
    const places = await this.fetch(`models/${this.manifest.meter_places.file}`, "the places of the meters");
    this.meterPlaces = new Float64Array(await places.arrayBuffer());
    this.grid = gridPlaces(this.manifest.grid_step_deg);
  }

  async compute({ encoder, parameters, place, channel, measure, species }, hurried = () => false) {
    const entry = Object.hasOwn(this.manifest.encoders, encoder) && this.manifest.encoders[encoder];
    if (!entry) throw new Trouble(`The page holds no graph of the encoder ${encoder}. Choose another one.`);
    const session = await this.session(entry);
    const inputs = this.inputs(entry, parameters);
    const key = JSON.stringify([encoder, parameters]);
    const encoded = this.encoded.get(key) || (await this.encode(session, inputs, this.grid));
    remember(this.encoded, key, encoded, REMEMBERED);
    const { features, width, wavelengths } = encoded;
    const here = (await this.encode(session, inputs, Float64Array.from(place))).features;
    const similarity = await this.similarities(features, width, here, this.measures.indexOf(measure));
    const chosen = Math.min(channel, width - 1);
    const feature = column(features, width, chosen);
    if (!encoded.meters && !hurried()) encoded.meters = await this.meters(session, inputs);
    const [seamGap, poleSpread, effectiveRank] = encoded.meters || [NaN, NaN, NaN];
    const facts = { outFeatures: width, channel: chosen, value: here[chosen], wavelengths };
    const predicted = species == null ? {} : await this.predict(entry.presence, place, this.manifest.species.indexOf(species));
    return { ...facts, feature, similarity, seamGap, poleSpread, effectiveRank, ...predicted };
  }

  async meters(session, inputs) {
    const { features, width } = await this.encode(session, inputs, this.meterPlaces);
    const probes = new this.ort.Tensor("float32", features, [features.length / width, width]);
    return Array.from((await this.run(this.manifest.meters, { features: probes })).meters.data);
  }

  /** What the trained model says about one species, on the grid and at the place. */
  async predict(entry, place, index) {
    const everywhere = this.predicted.get(entry.file) || (await this.presences(entry, this.grid));
    this.predicted.set(entry.file, everywhere);
    const here = await this.presences(entry, Float64Array.from(place));
    return { presence: column(everywhere, this.manifest.species.length, index), present: here[index], top1: entry.top1 };
  }

  async presences(entry, places) {
    const { features } = await this.encode(await this.session(entry), {}, places, "presence");
    return features;
  }

  /** Output of a graph for places (flat pairs of degrees), block by block, so that the page can answer in between. */
  async encode(session, inputs, places, output = "features") {
    const { Tensor } = this.ort;
    const count = places.length / 2;
    let features = null;
    let width = 0;
    let wavelengths = [];
    for (let from = 0; from < count; from += this.manifest.block_rows) {
      const to = Math.min(count, from + this.manifest.block_rows);
      const lonlat = new Tensor("float64", places.subarray(2 * from, 2 * to), [to - from, 2]);
      const out = await session.run({ lonlat, ...inputs });
      width = out[output].dims[1];
      features ||= new Float32Array(count * width);
      features.set(out[output].data, from * width);
      wavelengths = Array.from(out.wavelengths?.data || []);
      await breathe();
    }
    return { features, width, wavelengths };
  }

  async similarities(features, width, here, chosen) {
    const { Tensor } = this.ort;
    const count = features.length / width;
    const similarity = new Float32Array(count);
    const place = new Tensor("float32", here, [1, width]);
    for (let from = 0; from < count; from += this.manifest.block_rows) {
      const to = Math.min(count, from + this.manifest.block_rows);
      const block = new Tensor("float32", features.subarray(from * width, to * width), [to - from, width]);
      const { data } = (await this.run(this.manifest.similarity, { features: block, place })).similarity;
      for (let i = from; i < to; i++) similarity[i] = data[2 * (i - from) + chosen];
      await breathe();
    }
    return similarity;
  }

  inputs(entry, parameters) {
    const { Tensor } = this.ort;
    return Object.fromEntries(
      entry.parameters.map(({ name, kind }) => [
        name,
        kind === "count"
          ? new Tensor("int64", BigInt64Array.from({ length: parameters[name] }, (_, i) => BigInt(i)))
          : new Tensor("float64", [parameters[name]], []),
      ]),
    );
  }

  async run(entry, inputs) {
    return (await this.session(entry)).run(inputs);
  }

  session(entry) {
    if (!this.sessions.has(entry.file)) {
      const loading = this.load(entry);
      loading.catch(() => this.sessions.delete(entry.file)); // the next try asks again
      this.sessions.set(entry.file, loading);
    }
    return this.sessions.get(entry.file);
  }

  async load(entry) {
    const response = await this.fetch(`models/${entry.file}?${entry.sha256.slice(0, 12)}`, "the encoder");
    const bytes = new Uint8Array(await response.arrayBuffer());
    try {
      return await this.ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    } catch (error) {
      throw new Trouble(
        `Your browser could not start the encoder (${error.message}). A current Firefox, Chrome, Edge or Safari can.`,
      );
    }
  }

  async fetch(path, what) {
    let response;
    try {
      response = await fetch(this.base + path);
    } catch {
      throw new Trouble(`The server does not answer, so ${what} could not be loaded. Check the connection and try again.`);
    }
    if (!response.ok)
      throw new Trouble(`This site does not hold ${what} (${path}). Build the book again with: make book`);
    return response;
  }

  close() {
    for (const session of this.sessions.values()) session.then((s) => s.release()).catch(() => {});
  }
}

/** One column of a table stored row by row. */
function column(table, width, index) {
  const out = new Float32Array(table.length / width);
  for (let i = 0, k = index; i < out.length; i++, k += width) out[i] = table[k];
  return out;
}

/** Keeps the values used last. */
function remember(map, key, value, most) {
  map.delete(key);
  map.set(key, value);
  while (map.size > most) map.delete(map.keys().next().value);
}

/** Centres of the grid cells as flat pairs, row by row from the north-west corner. */
export function gridPlaces(step) {
  const [rows, columns] = [180 / step, 360 / step];
  const places = new Float64Array(2 * rows * columns);
  for (let row = 0, k = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      places[k++] = (column + 0.5) * step - 180;
      places[k++] = 90 - (row + 0.5) * step;
    }
  return places;
}

let lastPause = 0;
/** Lets the browser paint and react if it has waited for more than one frame. */
async function breathe() {
  if (performance.now() - lastPause < 16) return;
  if (globalThis.scheduler?.yield) await globalThis.scheduler.yield();
  else await new Promise((resolve) => setTimeout(resolve)); // four milliseconds late
  lastPause = performance.now();
}
