// First script of every page. Tells widgets where the site's own files are, and makes the theme's icon script and the
// widget manager live together.
(() => {
  const here = new URL(".", document.currentScript.src).href;
  window.tslabAssets = { base: here + "tslab/" };
  // The theme's FontAwesome would replace the icons inside widgets too, which makes their Play button throw.
  window.FontAwesomeConfig = { observeMutations: false };
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
