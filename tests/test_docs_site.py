"""The documentation site builds without a warning, and its links and pictures lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_is_whole(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = [path for path in tmp_path.rglob("*.html") if path.name != "404.html"]
    for page in pages:
        for target in re.findall(r'(?:href|src)="([^":#?]+)["#?]', page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(tmp_path)}: {target}"
    assert "td_target" in (tmp_path / "reference/awrq_mixer.html").read_text(encoding="utf-8")  # docstrings are in
    assert "<img" in (tmp_path / "index.html").read_text(encoding="utf-8")  # README is the first page
