"""Programs in surroundings that are not a developer's: outputs that are files, terminals without λ, homes that can't be written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
RUN = ["mpc_balancer.run", "--set=train.epochs=2", "--set=scenario.days=0.05"]


def run(
    words: list[str], folder: Path = REPOSITORY, environment: dict[str, str] | None = None, keep_home: bool = True
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if keep_home or name not in ("HOME", "USER")}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=kept | {"PYTHONPATH": str(REPOSITORY)} | (environment or {}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_output_in_a_file_is_plain_lines(tmp_path: Path) -> None:
    done = run([*RUN, f"--out={tmp_path}/run"])
    assert done.returncode == 0, done.stderr
    assert not {"\r", "\x1b"} & set(done.stdout + done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        {"COLUMNS": "20"},
        {"NO_COLOR": "1", "TERM": "dumb"},
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    ],
)
def test_help_in_any_terminal(environment: dict[str, str]) -> None:
    done = run(["mpc_balancer.run", "--help"], environment=environment)
    assert done.returncode == 0, done.stderr
    assert "scenario" in done.stdout


@pytest.mark.slow
def test_a_folder_and_a_temporary_folder_with_odd_names_and_no_home(tmp_path: Path) -> None:
    folder = tmp_path / "Ünser Ordner, λ"
    long = folder / ("t" * 120)
    long.mkdir(parents=True)
    done = run([*RUN, "--out=ein Lauf"], folder, {"TMPDIR": str(long)}, keep_home=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "ein Lauf/summary.json").exists()


@pytest.mark.slow
def test_a_long_temporary_folder_under_worker_processes(tmp_path: Path) -> None:
    """Sockets of worker processes stand in the temporary folder, where a path may have 108 characters."""
    long = tmp_path / ("t" * 120)
    long.mkdir()
    script = "from marca_common.processes import process_pool\nif __name__ == '__main__':\n"
    script += "    with process_pool(1) as pool:\n        print(pool.submit(abs, -3).result())\n"
    (tmp_path / "pool.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(long)}
    words = [sys.executable, str(tmp_path / "pool.py")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "3\n", done.stderr


_MOUNTS = """
set -e
mount --bind {tree} {tree}
mount -o remount,ro,bind {tree}
mkdir -p {home}
mount -t tmpfs -o ro tmpfs {home}
cd {tree}
exec env HOME={home} XDG_CACHE_HOME={home}/c TMPDIR={out} {python} -B -m mpc_balancer.run --set=train.epochs=2 --set=scenario.days=0.05 --out={out}/run
"""


@pytest.mark.slow
def test_a_tree_and_a_home_that_can_only_be_read(tmp_path: Path) -> None:
    tree, home, out = tmp_path / "tree", tmp_path / "home", tmp_path / "out"
    out.mkdir()
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "site", "benchmarks")
    shutil.copytree(REPOSITORY, tree, ignore=ignored)
    script = _MOUNTS.format(tree=tree, home=home, out=out, python=sys.executable)
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if os.geteuid() != 0 or tried.returncode != 0:
        pytest.skip("mounting a tree read-only needs root and unshare")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "run/summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.3, 1.0])
def test_ctrl_c_while_the_program_is_imported(tmp_path: Path, after_s: float) -> None:
    words = [sys.executable, "-m", "awrq_mixer.train", f"--out={tmp_path}/run"]
    process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


_STATE = """
import importlib, locale, logging, os, random, signal, sys, warnings
import numpy as np, torch, matplotlib, pandas
def state():
    return {
        "backend": matplotlib.rcParams._get_backend_or_none(), "rc": dict(matplotlib.rcParams.copy()).get("figure.dpi"),
        "errors": np.geterr(), "threads": torch.get_num_threads(), "default": torch.get_default_dtype(),
        "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)], "handlers": list(logging.root.handlers),
        "level": logging.root.level, "locale": locale.setlocale(locale.LC_ALL), "random": random.getstate()[1][:3],
        "numpy": np.random.get_state()[1][:3].tolist(), "torch": torch.initial_seed(), "path": list(sys.path),
        "environment": {k: v for k, v in os.environ.items() if not k.startswith(("KMP_", "TORCHINDUCTOR"))},
        "deterministic": torch.are_deterministic_algorithms_enabled(), "pandas": pandas.get_option("display.width"),
    }
before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
    after = state()
    changed = [key for key in before if before[key] != after[key]]
    assert not changed, f"{name} changes {changed}: {[(before[k], after[k]) for k in changed]}"
"""


@pytest.mark.slow
def test_importing_the_library_changes_nothing_else() -> None:
    rooms = (
        "marca_common",
        "marca_measures",
        "marca_loop",
        "marca_report",
        "cascade_world",
        "awrq_mixer",
        "autobucket",
    )
    files = [
        path
        for room in (*rooms, "mpc_balancer", "revenue_sim", "own_system")
        for path in (REPOSITORY / room).rglob("*.py")
    ]
    names = sorted(
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in files if path.stem != "__init__"
    )
    done = subprocess.run(
        [sys.executable, "-c", _STATE, *names], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]
