"""docs/sample_formats.md: each example file is read by the config that stands under it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from autobucket.results.estimator_config import TrainConfig as ResultsConfig
from autobucket.train import train as train_results
from awrq_mixer.config import TrainConfig
from awrq_mixer.train import train
from marca_common.cli import run_cli
from marca_common.config import load_config
from mpc_balancer.config import SystemModelConfig
from mpc_balancer.system_model.minute_table import read_system
from mpc_balancer.train import train as train_system_model
from revenue_sim.config import EvaluateConfig, RunConfig
from revenue_sim.evaluate import evaluate
from revenue_sim.run import run

PAGE = (Path(__file__).parents[2] / "docs/sample_formats.md").read_text(encoding="utf-8")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's files and, as ``config0.yaml`` …, its configs over the shipped ones; the tests run beside them."""
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r'^``` \{ \.text title="([^"]+)" \}\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL):
        Path(name).write_text(text, encoding="utf-8")
    shipped = ["awrq_mixer", "autobucket", "mpc_balancer", "revenue_sim_run", "revenue_sim_evaluate"]
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for number, (name, text) in enumerate(zip(shipped, blocks, strict=True)):
        Path(f"config{number}.yaml").write_text(f"extends: configs/jd_sample/{name}.yaml\n{text}", encoding="utf-8")


@pytest.mark.usefixtures("page")
def test_modules_1_and_2_as_the_page_shows_them() -> None:
    first, second = load_config(TrainConfig, "config0.yaml"), load_config(ResultsConfig, "config1.yaml").data
    assert first.spec.read(first.requests)["reward"].tolist() == [58.9, 2.0, 0.0]
    log = second.spec.read(second.requests, reward=False, results=True)
    assert log["preranked"].tolist() == [70, 14, 10]
    assert log["i"].tolist() == ["IDC_0", "IDC_1", "IDC_0"]


@pytest.mark.usefixtures("page")
def test_module_3_as_the_page_shows_it() -> None:
    config = load_config(SystemModelConfig, "config2.yaml")
    data = read_system("minutes.csv", config.columns, config.services)
    assert data.next_cpu.tolist() == [[50.3, 70.5], [51.5, 72.7], [52.3, 74]]
    assert str(data.timestamps[0]) == "1970-01-01T11:34:00"


@pytest.mark.usefixtures("page")
def test_module_4_as_the_page_shows_it() -> None:
    Path("scores.csv").write_bytes(Path("truth.csv").read_bytes())
    result = run(load_config(RunConfig, "config3.yaml", ["bootstrap_draws=10"]), "run")
    assert result.summary["return_pct"]["model"]["optimal"] == 100
    judged = evaluate(load_config(EvaluateConfig, "config4.yaml"), "judged").summary
    assert judged["value"] == 1.25 + 0.75 + 2.5


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize(
    ("number", "program", "config", "change", "expected"),
    [
        (0, train, TrainConfig, [], "module1.csv: 2 rows to learn from are too few for the effects of 21 choices; expected at least 21"),
        (1, train_results, ResultsConfig, [], "module2.csv: 2 rows to learn from are too few for the effects of 21 choices; expected at least 21"),
        (2, train_system_model, SystemModelConfig, [], "system table: 3 rows are too few for a system model; expected at"),
        (3, run, RunConfig, ["truth.words=[]"], "truth.csv: row 1, column 'key': got the state '3_1_0_IDC_0'; expected 4"),
        (4, evaluate, EvaluateConfig, ["truth.words=[]"], "truth.csv: row 1, column 'key': got the state '3_1_0_IDC_0'"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_ends_each_program_with_one_line_and_code_2(
    number: int, program: Any, config: Any, change: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--config",
        f"config{number}.yaml",
        "--out",
        "run",
        *(part for one in change for part in ("--set", one)),
    ]
    table = ["--set", "table=minutes.csv"] if number == 2 else []
    with pytest.raises(SystemExit) as left:
        run_cli(program, config, default_config="x.yaml", default_out="run", argv=[*arguments, *table])
    assert left.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"error: {expected}")
    assert not Path("run").exists()
