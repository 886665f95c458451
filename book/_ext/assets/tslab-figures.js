// Draws the plotly figures of a page: each when the reader comes near it, with the smallest plotly.js bundle that can
// draw it, in the colours of the theme, and again when the theme changes.
(() => {
  const base = window.tslabAssets.base + "plotly/";
  const bundles = new Map(); // name -> promise of a Plotly object
  let queue = Promise.resolve(); // one bundle at a time: each sets window.Plotly
  const drawn = new Map(); // element -> {Plotly, template}
  const GLOBE_WIDTH = 400; // pixels; in a narrower column a globe is drawn smaller, or its sides would be cut off
  let printing = false;
  const PAPER_WIDTH = 640; // pixels; a column of A4 or Letter holds it

  const loadScript = (src) =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = src;
      script.onload = resolve;
      script.onerror = () => reject(new Error("could not load " + src));
      document.head.append(script);
    });

  // What a globe has drawn is kept, or it would be printed as an empty box.
  const getContext = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, options) {
    return getContext.call(this, kind, /^webgl/.test(kind) ? { ...options, preserveDrawingBuffer: true } : options);
  };

  // A page with both loads one bundle for both.
  const covers = { cartesian: ["basic"], full: ["basic", "geo", "gl3d", "cartesian"] };
  const bundleFor = (name) => {
    const wanted = new Set([...document.querySelectorAll(".tslab-figure")].map((figure) => figure.dataset.bundle));
    return Object.keys(covers).reverse().find((larger) => wanted.has(larger) && covers[larger].includes(name)) || name;
  };

  const loadBundle = (name, spec) => {
    if (!bundles.has(name)) {
      bundles.set(
        name,
        (queue = queue.then(async () => {
          if (!window.PlotlyGeoAssets && usesBaseMap(spec)) await loadScript(base + "world_110m.js");
          await loadScript(`${base}plotly-${name}.min.js`);
          return window.Plotly;
        })),
      );
    } else if (!window.PlotlyGeoAssets && usesBaseMap(spec)) {
      queue = queue.then(() => window.PlotlyGeoAssets || loadScript(base + "world_110m.js"));
      return queue.then(() => bundles.get(name));
    }
    return bundles.get(name);
  };

  // Outlines of the base map are only needed by figures that show one.
  const usesBaseMap = (spec) => spec.data.some((trace) => /geo$|^choropleth$/.test(trace.type || ""));

  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const merge = (target, source) => {
    const out = { ...target };
    for (const [key, value] of Object.entries(source)) {
      out[key] = isObject(value) && isObject(out[key]) ? merge(out[key], value) : value;
    }
    return out;
  };

  // Colours of the page, from the theme's own CSS variables. They go into the template, so that whatever a figure
  // sets itself still wins.
  const themeLayout = () => {
    const css = getComputedStyle(document.documentElement);
    const color = (name) => css.getPropertyValue(name).trim();
    const text = color("--tslab-figure-text");
    const line = color("--tslab-figure-line");
    const grid = color("--tslab-figure-grid");
    const raised = color("--tslab-figure-raised");
    const axis = { gridcolor: grid, linecolor: line, zerolinecolor: line, tickcolor: line };
    const axis3d = { ...axis, backgroundcolor: "rgba(0,0,0,0)", color: text };
    return {
      font: { color: text, family: css.getPropertyValue("--pst-font-family-base") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: axis,
      yaxis: axis,
      polar: { bgcolor: "rgba(0,0,0,0)", angularaxis: axis, radialaxis: axis },
      scene: { xaxis: axis3d, yaxis: axis3d, zaxis: axis3d },
      geo: {
        bgcolor: "rgba(0,0,0,0)",
        landcolor: color("--tslab-figure-land"),
        oceancolor: "rgba(0,0,0,0)",
        lakecolor: "rgba(0,0,0,0)",
        coastlinecolor: line,
        countrycolor: line,
        framecolor: line,
        lonaxis: { gridcolor: grid },
        lataxis: { gridcolor: grid },
      },
      hoverlabel: { bgcolor: raised, bordercolor: line, font: { color: text } },
      legend: { bgcolor: "rgba(0,0,0,0)" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: text },
      updatemenudefaults: { bgcolor: raised, bordercolor: line, font: { color: text } },
      sliderdefaults: {
        bgcolor: raised,
        bordercolor: line,
        tickcolor: line,
        font: { color: text },
        currentvalue: { font: { color: text } },
      },
    };
  };

  const themed = (layout) => {
    const template = layout.template || {};
    return { ...layout, autosize: true, template: { ...template, layout: merge(template.layout || {}, themeLayout()) } };
  };

  // Long arrays come as 16-bit steps between their extremes, the highest for a missing number (book_kernel.py).
  const unpack = (value) => {
    if (Array.isArray(value)) return value.map(unpack);
    if (!isObject(value)) return value;
    if (value.dtype !== "steps") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, unpack(v)]));
    const { bdata, low, step, digits, shape } = value;
    const steps = new Uint16Array(Uint8Array.from(atob(bdata), (character) => character.charCodeAt(0)).buffer);
    const unit = 10 ** digits;
    const numbers = Float64Array.from(steps, (n) => (n === 65535 ? NaN : Math.round((low + n * step) * unit) / unit));
    const columns = String(shape ?? "").split(",").map(Number)[1];
    if (!columns) return numbers;
    return Array.from({ length: numbers.length / columns }, (_, row) =>
      numbers.subarray(row * columns, (row + 1) * columns));
  };

  const dataOf = async (name) => {
    await loadScript(`${window.tslabAssets.base}../figures/${name}.js`);
    return unpack(window.tslabFigures[name]);
  };

  // Frames of a slider, most of a figure's data, come when the reader reaches for the figure. Until they are there its
  // controls move without doing anything; then what they chose is shown.
  const framesOnDemand = (figure, plot, Plotly, name) => {
    const chosen = () => plot._fullLayout.sliders?.[0]?.active;
    const before = chosen();
    let loading;
    const load = async () => {
      await Plotly.addFrames(plot, await dataOf(name));
      for (const layout of [plot.layout, plot._fullLayout]) enableSteps(layout, true);
      figure.dataset.frames = "there";
      const step = plot._fullLayout.sliders?.[0]?.steps[chosen()];
      if (chosen() !== before && step?.method === "animate") await Plotly.animate(plot, ...step.args);
    };
    const start = () => {
      loading ||= load().catch((error) => {
        loading = undefined;
        console.error("frames not loaded:", error);
      });
    };
    for (const event of ["pointerenter", "pointerdown", "focusin"]) figure.addEventListener(event, start);
  };

  const enableSteps = (layout, enabled) => {
    const controls = [...(layout.sliders ?? []), ...(layout.updatemenus ?? [])];
    for (const step of controls.flatMap((control) => control.steps ?? control.buttons ?? [])) {
      if (step.method === "animate") step.execute = enabled;
    }
  };

  // Plotly works in several steps. Two pieces of work on one figure at once leave it half laid out.
  const work = new WeakMap(); // plot -> promise of the last piece
  const inTurn = (plot, piece) => {
    const next = (work.get(plot) ?? Promise.resolve()).then(piece);
    work.set(plot, next.catch(() => {}));
    return next;
  };

  const draw = async (plot) => {
    const figure = plot.closest(".tslab-figure");
    // The data of a figure stands beside it or, if there is much of it, in a script of its own.
    const holder = figure.querySelector(".tslab-spec");
    const { name, frames } = holder.dataset;
    const spec = name ? await dataOf(name) : unpack(JSON.parse(holder.textContent));
    delete spec.layout.width; // the figure is as wide as its column
    const { aspectratio } = spec.layout.scene ?? {};
    const narrow = Math.min(1, plot.clientWidth / GLOBE_WIDTH);
    for (const axis of Object.keys(aspectratio ?? {})) aspectratio[axis] *= narrow;
    const Plotly = await loadBundle(bundleFor(figure.dataset.bundle), spec);
    if (frames) enableSteps(spec.layout, false);
    drawn.set(plot, { Plotly, template: spec.layout.template });
    fitted.observe(figure);
    await inTurn(plot, () => Plotly.newPlot(plot, spec.data, themed(spec.layout), { ...spec.config, responsive: false }));
    if (spec.frames.length) await Plotly.addFrames(plot, spec.frames);
    if (frames) framesOnDemand(figure, plot, Plotly, frames);
    for (const svg of plot.querySelectorAll("svg.main-svg")) svg.setAttribute("aria-hidden", "true");
    figure.dataset.drawn = "true";
  };

  const recolor = () => {
    for (const [plot, { Plotly, template }] of drawn) {
      inTurn(plot, () => Plotly.relayout(plot, { template: themed({ template }).template }));
    }
  };

  // A figure follows the width of its column: a window that changes, a sidebar that opens.
  const widths = new WeakMap();
  const fitted = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const before = widths.get(target);
      widths.set(target, contentRect.width);
      if (printing || before === undefined || Math.abs(before - contentRect.width) < 1 || !contentRect.width) continue;
      const plot = target.querySelector(".tslab-plot");
      inTurn(plot, () => drawn.get(plot).Plotly.Plots.resize(plot));
    }
  });

  // At once, for the printer does not wait.
  const relayoutAll = (change) => {
    for (const [plot, { Plotly }] of drawn) if (plot._fullLayout) Plotly.relayout(plot, change);
  };

  const start = () => {
    const near = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          near.unobserve(entry.target);
          draw(entry.target).catch((error) => console.error("figure not drawn:", error));
        }
      },
      { rootMargin: "400px" },
    );
    document.querySelectorAll(".tslab-plot").forEach((plot) => near.observe(plot));
    // What prints is the whole page, not what was scrolled to, and as wide as the paper.
    window.addEventListener("beforeprint", () => {
      document.querySelectorAll(".tslab-figure:not([data-drawn]) .tslab-plot").forEach((plot) => draw(plot));
      printing = true;
      relayoutAll({ width: PAPER_WIDTH });
    });
    window.addEventListener("afterprint", () => {
      printing = false;
      relayoutAll({ width: null, autosize: true });
    });
    new MutationObserver(recolor).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  };

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
