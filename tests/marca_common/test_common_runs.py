import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from pydantic import Field

from marca_common.checkpoint import generator_state, load_checkpoint, restore_generator, save_checkpoint
from marca_common.cli import run_cli
from marca_common.config import Config
from marca_common.errors import UserError
from marca_common.files import read_json, write_json
from marca_common.memory import PeakMemory
from marca_common.progress import MetricsLog
from marca_common.seeding import integer_seed, numpy_generator, torch_generator
from marca_common.stages import Stage, Stages


class Settings(Config):
    seed: int = Field(0, description="seed of everything")
    device: str = "cpu"


class Part(Config):
    """What is inside."""

    rows: list[int] = Field(list(range(99)), description="rows")
    deep: Settings = Field(Settings(), description="settings of its own")


class Whole(Config):
    name: str | None = Field(description="its name")
    part: Part = Part()
    by_name: dict[str, Settings] = {}


def test_streams_depend_on_seed_and_name_only() -> None:
    first = numpy_generator(3, "logs").random(4)
    numpy_generator(3, "another").random(100)
    np.testing.assert_array_equal(numpy_generator(3, "logs").random(4), first)
    assert integer_seed(3, "a", "b") != integer_seed(3, "ab") != integer_seed(4, "ab")
    assert torch.equal(
        torch.rand(3, generator=torch_generator(1, "x")), torch.rand(3, generator=torch_generator(1, "x"))
    )


def test_a_checkpoint_gives_back_tensors_and_generators_exactly(tmp_path: Path) -> None:
    numpy_rng, torch_rng = numpy_generator(0, "n"), torch_generator(0, "t")
    numpy_rng.random(5)
    payload = {
        "weights": torch.arange(3.0),
        "step": 7,
        "n": generator_state(numpy_rng),
        "t": generator_state(torch_rng),
    }
    save_checkpoint(tmp_path / "c.pt", "kind", ["a", "b"], payload)
    expected = numpy_rng.random(3), torch.rand(3, generator=torch_rng)
    loaded = load_checkpoint(tmp_path / "c.pt", "kind", ["a", "b"])
    numpy_rng, torch_rng = numpy_generator(9, "n"), torch_generator(9, "t")
    restore_generator(numpy_rng, loaded["n"])
    restore_generator(torch_rng, loaded["t"])
    assert loaded["step"] == 7
    np.testing.assert_array_equal(numpy_rng.random(3), expected[0])
    assert torch.equal(torch.rand(3, generator=torch_rng), expected[1])


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/marca-evil",)


def test_other_checkpoints_are_refused_and_never_executed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", "kind", ["a"], {})
    torch.save({"format": 1, "x": Evil()}, tmp_path / "evil.pt")
    torch.save({"format": 0, "kind": "kind"}, tmp_path / "old.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "weights.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:200])
    for name, kind, columns, message in [
        ("c.pt", "other", ["a"], "a checkpoint of 'kind'; expected one of 'other'"),
        ("c.pt", "kind", ["b"], r"fitted on columns \['a'\]; expected \['b'\]"),
        ("old.pt", "kind", None, "a checkpoint of format 0; this version reads format 1: train again"),
        ("weights.pt", "kind", None, "not a checkpoint of this software"),
        ("evil.pt", "kind", None, "not a readable checkpoint"),
        ("cut.pt", "kind", None, "not a readable checkpoint"),
        ("none.pt", "kind", None, "no such checkpoint"),
    ]:
        with pytest.raises(UserError, match=message):
            load_checkpoint(tmp_path / name, kind, columns)


def test_metrics_of_a_resumed_run_continue_after_its_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.csv", ["step", "loss"])
    for step in (1, 2, 3):
        log.write(step=step, loss=1 / step)
    MetricsLog(tmp_path / "metrics.csv", ["step", "loss"], resume_step=2).write(step=3, loss=9.0)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,1\n2,0.5\n3,9\n"
    with pytest.raises(KeyError):
        log.write(step=4, los=1)


def test_metrics_that_another_program_wrote_into_are_one_line(tmp_path: Path) -> None:
    place = tmp_path / "metrics.csv"
    place.write_text("step,loss\n1,0.5\n\nend,0.1\n")
    with pytest.raises(UserError, match=r"metrics.csv: line 4: got 'end'; expected a number \(step\)"):
        MetricsLog(place, ["step", "loss"], resume_step=2)
    assert place.read_text() == "step,loss\n1,0.5\n\nend,0.1\n"


def test_json_takes_numpy_and_turns_nan_into_null(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": np.float32(1.5), "b": np.array([1, 2]), "c": float("nan"), 3: (np.int64(4),)})
    assert read_json(tmp_path / "x.json") == {"a": 1.5, "b": [1, 2], "c": None, "3": [4]}


def leave_with(argv: Any, function: Any, settings: Any = Settings, flags: Any = None) -> Any:
    with pytest.raises(SystemExit) as caught:
        run_cli(function, settings, default_config="unused.yaml", default_out="out", flags=flags or {}, argv=argv)
    return caught.value.code


def test_the_command_line_reports_what_the_user_can_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\n")
    seen = []

    def work(config: Any, out: Any) -> None:
        """Work."""
        seen.append((config.seed, config.device, out))

    assert leave_with(["--config", str(path), "--set", "seed=4", "--device", "cuda", "--out", str(tmp_path)], work) == 0
    assert seen == [(4, "cuda", tmp_path)]
    assert leave_with(["--config", str(path), "--set", "sed=4"], work) == 2
    assert "unknown key; did you mean 'seed'" in capsys.readouterr().err

    def interrupted(config: Any, out: Any) -> None:
        raise KeyboardInterrupt

    assert leave_with(["--config", str(path)], interrupted) == 130


def test_flags_of_a_programs_own_stand_for_a_key_or_a_config(tmp_path: Path) -> None:
    path = tmp_path / "quick.yaml"
    path.write_text("seed: 7\n")
    flags = {"--fast": (str(path), "a short one"), "--start": ("seed", "the seed")}
    seen = []

    def work(config: Any, out: Any) -> None:
        seen.append(config.seed)

    assert leave_with(["--fast"], work, flags=flags) == 0
    assert leave_with(["--fast", "--start=3"], work, flags=flags) == 0
    assert leave_with(["--fast", "--set", "seed=4", "--start", "5"], work, flags=flags) == 0
    assert leave_with(["--fast", "--start", "many"], work, flags=flags) == 2
    assert seen == [7, 3, 5]


def test_help_lists_flags_and_config_keys_with_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")

    def work(config: Any, out: Any) -> None:
        """Work with it."""

    assert leave_with(["--help"], work, Whole, {"--start": ("name", "where it starts")}) == 0
    text = capsys.readouterr().out
    for line in (
        "Work with it.",
        "  --start X        where it starts",
        "  name                          its name (required)",
        "  part.rows                     rows (default: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14…)",
        "  part.deep.*                   settings of its own",
        "  by_name                        (default: {})",
    ):
        assert line in text.splitlines(), text
    assert max(map(len, text.splitlines())) <= 100


def append(path: Any, word: Any, folder: Any) -> None:
    """A picklable stage: leaves its mark outside its folder."""
    with path.open("a") as file:
        file.write(word + "\n")


def stage(name: Any, path: Any, inputs: Any, after: Any = ()) -> Any:
    return Stage(name, partial(append, path, name), inputs, after)


@pytest.mark.parametrize("workers", [1, 2])
def test_stages_are_reused_until_an_input_changes(tmp_path: Path, workers: Any) -> None:
    done = tmp_path / "done"

    def run(inputs: Any) -> None:
        stages = Stages(tmp_path / "run", workers)
        stages.run(stage("one", done, inputs), stage("side", done, 5))
        stages.run(stage("two", done, 0, after=("one",)))

    run(1)
    run(1)
    assert sorted(done.read_text().split()) == ["one", "side", "two"]
    run(2)
    assert sorted(done.read_text().split()) == ["one", "one", "side", "two", "two"]


def test_an_interrupted_stage_keeps_its_folder_and_a_changed_one_does_not(tmp_path: Path) -> None:
    def fail(folder: Any) -> None:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path).run(Stage("s", fail, 1))
    assert (tmp_path / "s" / "half").exists()
    Stages(tmp_path).run(Stage("s", lambda folder: None, 1))
    assert (tmp_path / "s" / "half").exists()
    Stages(tmp_path).run(Stage("s", lambda folder: None, 2))
    assert not (tmp_path / "s" / "half").exists()


def refuse(folder: Any) -> None:
    raise UserError("mend this")


def test_what_the_user_can_mend_comes_through_from_a_worker(tmp_path: Path) -> None:
    stages = Stages(tmp_path, workers=2)
    with pytest.raises(UserError, match="mend this"):
        stages.run(Stage("a", refuse, 1), stage("b", tmp_path / "done", 1))


@pytest.mark.parametrize("workers", [1, 2])
def test_reused_stages_keep_the_time_and_memory_of_the_run_that_did_them(tmp_path: Path, workers: int) -> None:
    def run(megabytes: float) -> Stages:
        memory = PeakMemory()
        memory.mb = megabytes
        stages = Stages(tmp_path / "run", workers, memory=memory)
        stages.run(stage("one", tmp_path / "done", 1), stage("two", tmp_path / "done", 2))
        return stages

    first, again = run(900.0), run(30.0)
    assert (first.peak_mb, again.peak_mb) == (900.0, 900.0)
    assert again.seconds == first.seconds


def test_peak_memory_sees_what_was_freed_again() -> None:
    with PeakMemory(interval=0.01) as memory:
        before = memory.mb
        block = np.ones(200 * 2**20 // 8)
        time.sleep(0.1)
        del block
    assert memory.mb >= before + 150


def test_common_alone_does_not_import_torch() -> None:
    code = "import marca_common.config, marca_common.tables, marca_common.requests, marca_common.cli, marca_common.stages, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_folder_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """A stage of that version lies where this one has a folder of stages."""
    (tmp_path / "balancer").mkdir()
    (tmp_path / "balancer/.stage.json").write_text("{}")
    stage = Stage("balancer/awrq_mixer", lambda folder: None, 1)
    with pytest.raises(UserError, match=r"balancer: left by another version of this program; choose another --out"):
        Stages(tmp_path).run(stage)
    assert not (tmp_path / "balancer/awrq_mixer").exists()


_ORPHANS = """
import os, signal, sys, time
from marca_common.processes import process_pool
def work(folder):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(60)
if __name__ == "__main__":
    with process_pool(2) as pool:
        jobs = [pool.submit(work, sys.argv[1]) for _ in range(2)]
        while len(os.listdir(sys.argv[1])) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_of_a_killed_program_leave_with_it(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "killed.py").write_text(_ORPHANS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path / "pids")]
    killed = subprocess.run(words, env=environment, check=False)
    assert killed.returncode == -9
    workers = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert len(workers) == 2
    left = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in workers):
        assert time.monotonic() < left, "orphans"
        time.sleep(0.05)
