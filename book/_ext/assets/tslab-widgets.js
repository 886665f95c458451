// Loaded between require.js and the widget manager, on pages with widgets: the modules and fonts the manager asks for
// are files of this site.
(() => {
  const base = window.tslabAssets.base + "widgets/";
  window.requirejs.config({ baseUrl: base, paths: { anywidget: base + "anywidget" } });
})();
