"""A run folder holds the results of one finished run, whole, whatever happens to later ones."""

import errno
import fcntl
import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from marca_common.config import Config
from marca_common.errors import UserError
from marca_common.files import read_json, write_text
from marca_common.run_folder import RunFolder
from marca_common.stages import Stage, Stages


class Settings(Config):
    seed: int = Field(0, description="seed of everything")


class Killed(BaseException):
    """Stands for whatever leaves no time to tidy up but the ``with`` statement itself."""


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def one_run(
    out: Path, seed: int, fails: BaseException | None = None, resumes_from: str | Sequence[str] = ()
) -> RunFolder:
    with RunFolder(out, Settings(seed=seed), resumes_from) as run:
        write_text(run.path / "tables" / "a.csv", f"{seed}\n")
        write_text(run.path / "state.pt", f"{seed}\n")
        if fails is not None:
            raise fails
        run.write_summary({"seed": seed})
    return run


def _hold(path: Any, ready: Any, leave: Any) -> None:
    with RunFolder(path, Settings()):
        ready.set()
        leave.wait(20)


def test_two_processes_never_write_one_run_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "run", ready, leave))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(UserError, match="another process is writing"), RunFolder(tmp_path / "run", Settings()):
            pass
    finally:
        leave.set()
        holder.join()


def test_a_finished_run_replaces_the_one_before(tmp_path: Path) -> None:
    one_run(tmp_path / "run", 1)
    one_run(tmp_path / "run", 2)
    found = contents(tmp_path / "run")
    assert sorted(found) == ["config.yaml", "state.pt", "summary.json", "tables/a.csv", "versions.json"]
    assert found["config.yaml"] == "seed: 2\n"
    assert found["tables/a.csv"] == "2\n"
    assert read_json(tmp_path / "run/summary.json") == {"seed": 2}
    assert read_json(tmp_path / "run/versions.json")["python"]


@pytest.mark.parametrize("fails", [UserError("bad"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), Killed()])
def test_a_run_that_fails_leaves_the_folder_as_it_was(tmp_path: Path, fails: BaseException) -> None:
    one_run(tmp_path / "run", 1)
    before = contents(tmp_path / "run")
    with pytest.raises(type(fails)):
        one_run(tmp_path / "run", 2, fails)
    assert contents(tmp_path / "run") == before
    with pytest.raises(type(fails)):
        one_run(tmp_path / "some/new/place", 2, fails)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "run"]


def test_a_run_resumes_only_its_own_config(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        one_run(tmp_path, 1, Killed(), "state.pt")
    with RunFolder(tmp_path, Settings(seed=2), "state.pt") as other:
        assert not other.resuming
        assert len(list(tmp_path.glob("unfinished-*"))) == 2  # the other config's start is still there
        raised = RunFolder(tmp_path, Settings(seed=1), "state.pt")
        with pytest.raises(UserError, match="another process is writing"), raised:
            pass
        assert other.path.exists()
    with RunFolder(tmp_path, Settings(seed=2)) as anew:
        assert not anew.resuming


def test_an_interrupted_run_goes_on_and_a_finished_one_is_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        one_run(tmp_path, 1, Killed(), "state.pt")
    (next(tmp_path.glob("unfinished-*")) / "tables" / ".partial.b.xyz.csv").touch()  # what SIGKILL leaves of a write
    with RunFolder(tmp_path, Settings(seed=1), "state.pt") as run:
        assert run.resuming
        assert (run.path / "state.pt").read_text() == "1\n"
        run.write_summary({})
    assert not list(tmp_path.glob("unfinished-*"))
    assert not list(tmp_path.rglob(".partial*"))
    with RunFolder(tmp_path, Settings(seed=1), "state.pt") as run:
        assert run.resuming
        assert run.path == tmp_path
    with RunFolder(tmp_path, Settings(seed=1)) as run:
        assert not run.resuming  # a program that can't resume starts anew


def test_a_run_killed_on_its_last_move_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_run(tmp_path, 1)

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr("marca_common.run_folder._merge", killed)
    with pytest.raises(Killed):
        one_run(tmp_path, 2)
    monkeypatch.undo()
    assert not (tmp_path / "summary.json").exists()  # between two runs: neither is claimed to be complete
    with RunFolder(tmp_path, Settings(seed=2), "state.pt") as run:
        assert run.path == tmp_path
        assert read_json(tmp_path / "summary.json") == {"seed": 2}


def test_a_run_inside_a_run_records_where_its_files_end_up(tmp_path: Path) -> None:
    class Inner(Config):
        table: str

    with RunFolder(tmp_path, Settings()) as run:
        write_text(run.path / "t.csv", "")
        with RunFolder(run.path / "inner", Inner(table=str(run.path / "t.csv"))) as inner:
            inner.write_summary({})
        run.write_summary({})
    assert (tmp_path / "inner/config.yaml").read_text() == f"table: {tmp_path}/t.csv\n"


def test_a_file_system_without_locks_is_not_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(UserError, match=r"gives no lock \(ENOLCK: No locks available\)"),
        RunFolder(tmp_path, Settings()),
    ):
        pass


def full(*_: Any) -> None:
    raise UserError("No space left on device")


@pytest.mark.parametrize("write", ["write_text", "write_json"])
def test_a_disk_that_is_full_from_the_start_leaves_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    one_run(tmp_path / "old", 1)
    with pytest.raises(Killed):
        one_run(tmp_path / "old", 3, Killed(), "state.pt")
    before = contents(tmp_path)
    monkeypatch.setattr(f"marca_common.run_folder.{write}", full)
    for out, seed in (("new/place", 2), ("old", 2), ("old", 3)):
        with pytest.raises(UserError, match="No space"), RunFolder(tmp_path / out, Settings(seed=seed), "state.pt"):
            pass
    assert contents(tmp_path) == before
    assert len(list(tmp_path.rglob("unfinished-*"))) == 1  # the one that can be gone on with
    assert sorted(tmp_path.iterdir()) == [tmp_path / "old"]


def test_a_complete_run_whose_move_is_refused_is_kept_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marca_common.run_folder._merge", full)
    for _ in range(2):  # the second is refused on entry
        with pytest.raises(UserError):
            one_run(tmp_path, 1)
    monkeypatch.undo()
    with RunFolder(tmp_path, Settings(seed=1), "state.pt") as run:
        assert run.path == tmp_path
        assert read_json(tmp_path / "summary.json") == {"seed": 1}


def test_folders_of_the_user_that_look_unfinished_stay(tmp_path: Path) -> None:
    for name in ("unfinished-business", "unfinished-0123456789", "unfinished-0123ABCD", "unfinished-01234567"):
        (tmp_path / name).mkdir()
    one_run(tmp_path, 1)
    kept = sorted(path.name for path in tmp_path.glob("unfinished-*"))
    assert kept == ["unfinished-0123456789", "unfinished-0123ABCD", "unfinished-business"]


def test_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out: cannot write the run folder: "), RunFolder(tmp_path / "out", Settings()):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def fill(folder: Path, text: str, fails: BaseException | None = None) -> None:
    write_text(folder / "result.txt", text)
    if fails is not None:
        raise fails


def stage(key: int, work: Callable[..., None]) -> Stage:
    return Stage("part/one", work, key)


def test_a_stage_that_fails_brings_back_what_it_had_done_before(tmp_path: Path) -> None:
    Stages(tmp_path).run(stage(1, partial(fill, text="one")))
    before = contents(tmp_path)
    with pytest.raises(UserError):
        Stages(tmp_path).run(stage(2, partial(fill, text="two", fails=UserError("bad"))))
    assert contents(tmp_path) == before
    with pytest.raises(Killed):
        Stages(tmp_path).run(stage(2, partial(fill, text="two", fails=Killed())))
    with pytest.raises(UserError):
        Stages(tmp_path).run(stage(3, partial(fill, text="three", fails=UserError("bad"))))
    assert contents(tmp_path) == before
    Stages(tmp_path).run(stage(2, partial(fill, text="two")))
    assert contents(tmp_path)["part/one/result.txt"] == "two"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".stage.json", "one", "part", "result.txt"]


def test_a_first_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        Stages(tmp_path).run(stage(1, partial(fill, text="one", fails=UserError("bad"))))
    assert not list(tmp_path.iterdir())
