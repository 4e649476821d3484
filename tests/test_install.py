"""The project as others meet it: installed from a wheel, in a directory of their own."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def imported(folder: Path) -> set[str]:
    """Top-level names of all modules that the files of a folder import."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names


def test_every_import_of_the_packages_is_a_declared_and_pinned_dependency() -> None:
    pinned = re.findall(
        r"^([\w.-]+)==[\w.]+(?:\s+#.+)?$", (REPOSITORY / "requirements.txt").read_text(), flags=re.MULTILINE
    )
    extra = [
        line.partition("==")[0] for line in PROJECT["project"]["optional-dependencies"]["onnx"]
    ]  # asked for by name
    declared = {name.lower().replace("_", "-") for name in (*pinned, *extra)}
    third_party = set().union(*(imported(REPOSITORY / package) for package in PACKAGES))
    third_party -= {*PACKAGES, *sys.stdlib_module_names}
    owners = packages_distributions()
    undeclared = {
        name for name in third_party if not {d.lower().replace("_", "-") for d in owners.get(name, [name])} & declared
    }
    assert undeclared <= {"cycler", "pydantic_core", "llvmlite"}  # parts of matplotlib, pydantic and numba


def test_every_package_of_the_repository_is_installed_and_nothing_else_is() -> None:
    found = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
    assert found - {"benchmarks", "tests"} == set(PACKAGES)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the project's wheel in it, and this environment's libraries within reach."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(REPOSITORY)], check=True)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(next(folder.glob("*.whl")))], check=True)
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    (folder / "work").mkdir()
    return folder


def python(elsewhere: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(elsewhere / "venv/bin/python"), *arguments],
        cwd=elsewhere / "work",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_programs_of_the_wheel_run_in_another_directory(elsewhere: Path) -> None:
    for package in PACKAGES:
        where = python(elsewhere, "-c", f"import {package}; print({package}.__file__)")
        assert where.startswith(str(elsewhere)), f"{package} comes from {where}"
    assert "config keys" in python(elsewhere, "-m", "awrq_mixer.train", "--help")
    python(elsewhere, "-m", "cascade_world.generate", "--config", "configs/cascade_world/small.yaml", "--out", "world")
    assert (elsewhere / "work/world/logs/requests.parquet").is_file()
    python(elsewhere, "-m", "autobucket.fit_costs", "--set", "bootstrap=0", "--out", "costs")  # reads shipped data
    assert (elsewhere / "work/costs/cost_maps.json").is_file()
    python(elsewhere, "-c", "from marca_common.html_page import write_page; write_page('page.html', 't', 'l', {}, [])")
    assert sorted(path.name for path in (elsewhere / "work").iterdir()) == ["costs", "page.html", "runs", "world"]
