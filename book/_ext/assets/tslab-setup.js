// First script of every page: tells widgets where the site's own files are, and the widget manager that MathJax is 3.
(() => {
  const here = new URL(".", document.currentScript.src).href;
  window.tslabAssets = { base: here + "tslab/" };
  // The widget manager asks for MathJax 2; the book has MathJax 3.
  const typeset = (item) => (typeof item === "function" ? item() : window.MathJax?.typesetPromise?.([item[2]]));
  const addHub = () => {
    window.MathJax = window.MathJax || {};
    window.MathJax.Hub = window.MathJax.Hub || { Queue: (...items) => items.forEach(typeset), Config: () => {} };
  };
  const formulas = () => [...document.querySelectorAll('.bd-article mjx-container[display="true"]')];
  // A formula wider than the column is set smaller, down to SMALLEST of its size.
  const SMALLEST = 0.7;
  const fit = () => {
    const boxes = formulas();
    for (const box of boxes) box.style.fontSize = box.dataset.size ??= box.style.fontSize || "100%";
    const ratios = boxes.map((box) => box.clientWidth / box.scrollWidth);
    boxes.forEach((box, i) => {
      if (ratios[i] < 1) box.style.fontSize = `${parseFloat(box.dataset.size) * Math.max(SMALLEST, ratios[i] - 0.005)}%`;
    });
  };
  // What still scrolls sideways inside the page (a wide table) must be reachable with the keyboard.
  const reachable = () => {
    for (const box of [...formulas(), ...document.querySelectorAll(".bd-article :is(div.math, pre, .output)")]) {
      if (box.scrollWidth > box.clientWidth + 1 && !box.hasAttribute("tabindex")) box.tabIndex = 0;
    }
  };
  const settle = () => {
    fit();
    reachable();
  };
  window.addEventListener("load", () => {
    reachable();
    window.MathJax?.startup?.promise?.then(settle);
  });
  window.addEventListener("resize", settle);
  // Paper is light. Whoever draws in the colours of the theme follows it there and back.
  const page = document.documentElement;
  window.addEventListener("beforeprint", () => {
    page.dataset.screenTheme = page.dataset.theme ?? "";
    page.dataset.theme = "light";
  });
  window.addEventListener("afterprint", () => {
    page.dataset.theme = page.dataset.screenTheme;
    delete page.dataset.screenTheme;
  });
  document.addEventListener("DOMContentLoaded", () => {
    if (document.querySelector('script[type^="application/vnd.jupyter.widget"]')) addHub();
  });
})();
