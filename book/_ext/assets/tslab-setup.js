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
  // What scrolls sideways inside the page (a long formula, a wide table) must be reachable with the keyboard.
  const reachable = () => {
    for (const box of document.querySelectorAll(".bd-article :is(mjx-container, div.math, pre, .output)")) {
      if (box.scrollWidth > box.clientWidth + 1 && !box.hasAttribute("tabindex")) box.tabIndex = 0;
    }
  };
  window.addEventListener("load", () => {
    reachable();
    window.MathJax?.startup?.promise?.then(reachable);
  });
  window.addEventListener("resize", reachable);
  document.addEventListener("DOMContentLoaded", () => {
    if (document.querySelector('script[type^="application/vnd.jupyter.widget"]')) addHub();
  });
})();
