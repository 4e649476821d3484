import pytest
from pydantic import Field

from marca_common.config import Config, content_hash, dump_yaml, load_config, replaced
from marca_common.errors import UserError


class Inner(Config):
    learning_rate: float = Field(default=0.01, gt=0)
    steps: int = 10


class Outer(Config):
    seed: int = 0
    optimiser: Inner = Inner()
    parts: dict[str, Inner] = {}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_overrides_beat_the_file_and_the_file_beats_defaults(tmp_path):
    path = write(tmp_path / "c.yaml", "seed: 3\noptimiser: {steps: 7}\n")
    config = load_config(Outer, path, ["optimiser.learning_rate=1e-3"])
    assert (config.seed, config.optimiser.steps, config.optimiser.learning_rate) == (3, 7, 0.001)


def test_extends_merges_key_by_key_at_any_depth(tmp_path):
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


def test_a_chain_that_extends_itself_is_refused(tmp_path):
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    path = write(tmp_path / "b.yaml", "extends: a.yaml\n")
    with pytest.raises(UserError, match="leads back to itself"):
        load_config(Outer, path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("sed: 1", r"sed: unknown key; did you mean 'seed'\?"),
        ("optimiser: {learning_rat: 1}", r"optimiser.learning_rat: unknown key; did you mean 'learning_rate'\?"),
        ("parts: {x: {stepz: 1}}", r"parts.x.stepz: unknown key; did you mean 'steps'\?"),
        ("optimiser: {learning_rate: -1}", "optimiser.learning_rate: got -1; .*greater than 0"),
        ("optimiser: {learning_rate: .nan}", "optimiser.learning_rate: got nan"),
        ("seed: many", "seed: got 'many'"),
        ("- 1", "expected a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_bad_config_is_one_line_that_names_file_key_and_expectation(tmp_path, text, message):
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(Outer, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["seed", "=3", "seed=[", "optimiser.lr=3"])
def test_a_bad_override_is_refused(override):
    with pytest.raises(UserError):
        load_config(Outer, None, [override])


def test_the_resolved_config_reads_back_equal(tmp_path):
    config = Outer(seed=5, optimiser=Inner(steps=2), parts={"p": Inner()})
    assert load_config(Outer, write(tmp_path / "r.yaml", dump_yaml(config))) == config


def test_content_hash_sees_every_value_and_nothing_else():
    assert content_hash(Outer(seed=1), {"b": 1, "a": 2}) == content_hash(Outer(seed=1), {"a": 2, "b": 1})
    assert content_hash(Outer(seed=1)) != content_hash(Outer(seed=2))


def test_replaced_changes_one_key_and_validates_again():
    config = replaced(Outer(), {"optimiser.steps": 3, "seed": 2})
    assert (config.seed, config.optimiser.steps, config.optimiser.learning_rate) == (2, 3, 0.01)
    with pytest.raises(KeyError):
        replaced(Outer(), {"optimiser.step": 3})
    with pytest.raises(ValueError, match="greater than 0"):
        replaced(Outer(), {"optimiser.learning_rate": 0})
