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
  document.addEventListener("DOMContentLoaded", () => {
    if (document.querySelector('script[type^="application/vnd.jupyter.widget"]')) addHub();
  });
})();
