from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from awrq_mixer.config import PredictConfig
from marca_common.config import Config, content_hash, dump_yaml, load_config, replaced
from marca_common.errors import UserError
from marca_common.files import shipped


class Inner(Config):
    RENAMED: ClassVar = {"rate": "learning_rate"}
    learning_rate: float = Field(default=0.01, gt=0)
    steps: int = 10


class Other(Config):
    kind: str


class Outer(Config):
    RENAMED: ClassVar = {"random_state": "seed"}
    seed: int = 0
    optimiser: Inner = Inner()
    parts: dict[str, Inner] = {}
    choice: Other | Inner | None = None


def write(path: Any, text: Any) -> Any:
    path.write_text(text, encoding="utf-8")
    return path


def test_overrides_beat_the_file_and_the_file_beats_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "seed: 3\noptimiser: {steps: 7}\n")
    config = load_config(Outer, path, ["optimiser.learning_rate=1e-3"])
    assert (config.seed, config.optimiser.steps, config.optimiser.learning_rate) == (3, 7, 0.001)


def test_extends_merges_key_by_key_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "seed: 1\noptimiser: {steps: 5, learning_rate: 0.5}\n")
    write(tmp_path / "inner.yaml", "steps: 99\n")
    path = write(
        tmp_path / "c.yaml",
        "extends: base.yaml\noptimiser: {steps: 6}\nparts: {a: {extends: inner.yaml, learning_rate: 2}}\n",
    )
    config = load_config(Outer, path)
    assert config.seed == 1
    assert config.optimiser == Inner(steps=6, learning_rate=0.5)
    assert config.parts["a"] == Inner(steps=99, learning_rate=2)


def test_shipped_files_are_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped("configs/demo.yaml").is_file()
    assert shipped("configs/no_such.yaml") == Path("configs/no_such.yaml")
    assert shipped("marca_common/cli.py") == Path("marca_common/cli.py")
    write(tmp_path / "own.yaml", "extends: configs/awrq_mixer/predict.yaml\nname: mine\n")
    assert load_config(PredictConfig, "own.yaml").name == "mine"
    assert load_config(PredictConfig, "configs/awrq_mixer/predict.yaml").name == "q"
    (tmp_path / "configs/awrq_mixer").mkdir(parents=True)
    write(tmp_path / "configs/awrq_mixer/predict.yaml", "name: nearer\n")
    assert load_config(PredictConfig, "configs/awrq_mixer/predict.yaml").name == "nearer"


def test_a_chain_that_extends_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    path = write(tmp_path / "b.yaml", "extends: a.yaml\n")
    with pytest.raises(UserError, match="leads back to itself"):
        load_config(Outer, path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("sed: 1", r"sed: unknown key; did you mean 'seed'\?"),
        ("optimiser: {learning_rat: 1}", r"optimiser.learning_rat: unknown key; did you mean 'learning_rate'\?"),
        ("random_state: 1", "key 'random_state' is now 'seed'$"),
        ("optimiser: {rate: 1}", "key 'optimiser.rate' is now 'optimiser.learning_rate'$"),
        ("{wrong: 1, parts: {x: {rate: 1}}}", "key 'parts.x.rate' is now 'parts.x.learning_rate'$"),
        ("choice: {rate: 1}", "key 'choice.*rate' is now 'choice.*learning_rate'$"),
        ("parts: {x: {stepz: 1}}", r"parts.x.stepz: unknown key; did you mean 'steps'\?"),
        ("optimiser: {learning_rate: -1}", "optimiser.learning_rate: got -1; .*greater than 0"),
        ("optimiser: {learning_rate: .nan}", "optimiser.learning_rate: got nan"),
        ("seed: many", "seed: got 'many'"),
        ("- 1", "expected a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_bad_config_is_one_line_that_names_file_key_and_expectation(tmp_path: Path, text: Any, message: str) -> None:
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(Outer, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["seed", "=3", "seed=[", "optimiser.lr=3"])
def test_a_bad_override_is_refused(override: Any) -> None:
    with pytest.raises(UserError):
        load_config(Outer, None, [override])


def test_the_resolved_config_reads_back_equal(tmp_path: Path) -> None:
    config = Outer(seed=5, optimiser=Inner(steps=2), parts={"p": Inner()})
    assert load_config(Outer, write(tmp_path / "r.yaml", dump_yaml(config))) == config


def test_content_hash_sees_every_value_and_nothing_else() -> None:
    assert content_hash(Outer(seed=1), {"b": 1, "a": 2}) == content_hash(Outer(seed=1), {"a": 2, "b": 1})
    assert content_hash(Outer(seed=1)) != content_hash(Outer(seed=2))


def test_replaced_changes_one_key_and_validates_again() -> None:
    config = replaced(Outer(), {"optimiser.steps": 3, "seed": 2})
    assert (config.seed, config.optimiser.steps, config.optimiser.learning_rate) == (2, 3, 0.01)
    with pytest.raises(KeyError):
        replaced(Outer(), {"optimiser.step": 3})
    with pytest.raises(ValueError, match="greater than 0"):
        replaced(Outer(), {"optimiser.learning_rate": 0})
    with pytest.raises(ValueError, match="expected a number"):
        replaced(Outer(), {"optimiser.steps": True})


def test_a_boolean_is_no_number_in_whichever_kind_of_a_union() -> None:
    with pytest.raises(ValueError, match="expected a number"):
        Outer.model_validate({"choice": {"steps": True}})
    assert Job.model_validate({"best": True, "name": "a"}).best == 1  # may be text: not a number alone


@pytest.mark.parametrize("place", ["own", "base"])
def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path, place: Any) -> None:
    (tmp_path / "base.yaml").write_text("inner: {size: 1}\n" + ("inner: {size: 2}\n" if place == "base" else ""))
    (tmp_path / "own.yaml").write_text("extends: base.yaml\nseed: 1\n" + ("\nseed: 2\n" if place == "own" else ""))
    lines = {
        "own": "own.yaml: key 'seed' stands in lines 2 and 4",
        "base": "base.yaml: key 'inner' stands in lines 1 and 2",
    }
    with pytest.raises(UserError, match=lines[place]):
        load_config(Config, tmp_path / "own.yaml")


def test_entries_of_the_extended_mapping_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("tasks: {click: {rows: [1]}, buy: {rows: [2]}}\nname: base\n")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\ntasks: {click: !remove , buy: {rows: [3]}}\n")
    found = load_config(Job, tmp_path / "own.yaml")
    assert {name: one.rows for name, one in found.tasks.items()} == {"buy": [3]}
    assert not load_config(Job, tmp_path / "own.yaml", ["tasks.buy=!remove"]).tasks
    (tmp_path / "own.yaml").write_text("extends: base.yaml\ntasks: {clik: !remove }\n")
    with pytest.raises(UserError, match=r"own.yaml: tasks.clik: nothing of this name to remove"):
        load_config(Job, tmp_path / "own.yaml")


class Task(Config):
    rows: list[int] = [0]
    share: float | None = None


class Job(Config):
    name: str = ""
    tasks: dict[str, Task] = {}
    best: int | str = 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", r"base.yaml: key 'name' stands in lines 1 and 2"),
        ("name: [a\n", r"base.yaml: not valid YAML"),
        ("name: caf\udce9\n", r"base.yaml: the config is not UTF-8 text"),
        ("- name\n", r"base.yaml: expected a mapping"),
        ("name: !!python/object/apply:os.getcwd []\n", r"base.yaml: not valid YAML"),
        ("name: 2026-02-30\n", r"base.yaml: not valid YAML"),
        ("? [a]\n: 1\n", r"base.yaml: not valid YAML"),
        ("tasks: &a {b: *a}\n", r"base.yaml: not valid YAML|an alias leads back"),
        ("\tname: a\n", r"base.yaml: not valid YAML"),
        ("extends: nowhere.yaml\n", r"base.yaml: extends: no such file 'nowhere.yaml'"),
        ("extends: .\n", r"base.yaml: extends: no such file '.'"),
        ("tasks: {a: {rows: [1, yes]}}\n", r"own.yaml: tasks.a.rows: got \[1, True\]; expected a number"),
        ("tasks: {a: {share: on}}\n", r"own.yaml: tasks.a.share: got True; expected a number"),
        ("tasks: {a: {share: .nan}}\n", r"own.yaml: tasks.a.share: got nan"),
        ("tasks: {a: {share: -.inf}}\n", r"own.yaml: tasks.a.share: got -inf"),
        ("tasks: {a: {rows: [1.5]}}\n", r"own.yaml: tasks.a.rows.0: got 1.5"),
        ("1: 2\n", r"own.yaml: .*1"),
    ],
)
def test_what_is_wrong_with_the_extended_file_is_one_line_too(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "base.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "own.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(UserError, match=message):
        load_config(Job, tmp_path / "own.yaml")


def test_aliases_that_grow_without_end_are_cut_short(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join(9 * [f'*a{k - 1}'])}]" for k in range(1, 9)]
    (tmp_path / "own.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"own.yaml: a0: unknown key"):
        load_config(Job, tmp_path / "own.yaml")
