"""Everything about the package stands in pyproject.toml, but for one thing that it cannot say: an installed tslab
carries the committed results of the book, so that the chapters also show them where there is no clone (Colab)."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RESULTS = Path(__file__).parent / "book" / "results"


class BuildWithResults(build_py):
    """Copy ``book/results`` into ``tslab/data/results`` of the build; an editable install reads the original."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "tslab" / "data" / "results"
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(RESULTS.glob("*.*")):
            shutil.copyfile(file, target / file.name)


setup(cmdclass={"build_py": BuildWithResults})
