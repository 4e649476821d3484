"""What `make docs` adds to the pages in docs/: README as the first page, tables of benchmarks, a reference page per package."""

from __future__ import annotations

import posixpath
import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
ADDED = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "benchmarks/results/*"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages and tables from outside docs/, and ``reference/<package>.md`` from the docstrings."""
    for path in (path for pattern in ADDED for path in sorted(REPOSITORY.glob(pattern))):
        name = _on_site(path.relative_to(REPOSITORY).as_posix())
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        text = f"# {package}\n\n::: {package}\n"
        files.append(File.generated(config, f"reference/{package}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links are relative to a page's place in the repository: turn them to the site; keep only the words of the others."""
    place = page.file.src_uri
    folder = (
        "" if place == "index.md" else "docs" if (REPOSITORY / "docs" / place).exists() else posixpath.dirname(place)
    )

    def turned(match: re.Match[str]) -> str:
        words, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        for name in map(_on_site, (path, f"{path}/README.md", f"docs/{path}.md", f"reference/{path}.md")):
            if files.get_file_from_path(name):
                return f"[{words}]({posixpath.relpath(name, posixpath.dirname(place) or '.')}{anchor or ''})"
        return words

    return re.sub(r"\[([^][]+)\]\(((?!\w+:)[\w./-]+)(#[\w-]*)?\)", turned, markdown)


def _on_site(path: str) -> str:
    return {"README.md": "index.md"}.get(path, path.removeprefix("docs/"))
