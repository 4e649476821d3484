"""Sound inputs, as small as can be: what every program and reader is given before it is spoiled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

import autobucket.evaluate
import autobucket.export
import autobucket.fit_costs
import autobucket.live
import autobucket.predict
import autobucket.testbench
import autobucket.train
import awrq_mixer.anchor
import awrq_mixer.evaluate
import awrq_mixer.export
import awrq_mixer.predict
import awrq_mixer.profile
import awrq_mixer.train
import cascade_world.describe
import cascade_world.generate
import cascade_world.sample
import examples.decision_service.join
import examples.llm_router.run
import marca_loop.explain
import marca_loop.live_mpc
import marca_loop.orchestrate
import marca_loop.score_shards
import marca_loop.signed_uplift
import mpc_balancer.commission
import mpc_balancer.evaluate
import mpc_balancer.export
import mpc_balancer.run
import mpc_balancer.serve
import mpc_balancer.train
import own_system.check
import own_system.translate
import recommender.build
import revenue_sim.evaluate
import revenue_sim.ope
import revenue_sim.run
import revenue_sim.shards
import revenue_sim.train
from autobucket.bench.bench_config import LiveConfig, TestbenchConfig
from autobucket.config import EvaluateConfig as EstimatorErrors
from autobucket.config import ExportConfig as CostExport
from autobucket.config import PredictConfig as CostPrediction
from autobucket.costs.cost_config import FitCostsConfig
from autobucket.costs.measured_costs import read_loadtest
from autobucket.results.estimator import Estimator
from autobucket.results.estimator_config import TrainConfig as EstimatorTraining
from awrq_mixer.anchoring.global_profile import read_profile
from awrq_mixer.config import AnchorConfig, ProfileConfig
from awrq_mixer.config import EvaluateConfig as LearnerErrors
from awrq_mixer.config import ExportConfig as LearnerExport
from awrq_mixer.config import PredictConfig as ScorePrediction
from awrq_mixer.config import TrainConfig as LearnerTraining
from awrq_mixer.serving.policy import HullPolicy
from awrq_mixer.serving.predictor import Predictor
from cascade_world.config import WorldConfig
from cascade_world.population.world_traffic import read_trace
from examples.decision_service.config import JoinConfig
from examples.llm_router.config import RouterConfig
from marca_common.config import load_config
from marca_common.requests import RequestSpec
from marca_common.scores import read_long_scores, read_scores
from marca_loop.explain import Explain
from marca_loop.live_mpc import LiveMpc
from marca_loop.score_shards import ScoreShardsConfig
from marca_loop.settings import Orchestration
from marca_loop.signed_uplift import SignedUplift
from mpc_balancer.config import ColumnsConfig, CommissionConfig, SystemErrorsConfig, SystemModelConfig
from mpc_balancer.config import ExportConfig as SystemModelExport
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.run import ClosedLoopConfig
from mpc_balancer.serve import ServeConfig
from mpc_balancer.system_model.minute_table import read_system
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.testbed.trace_traffic import TraceConfig, trace_traffic
from own_system.declaration import OwnSystem
from recommender.config import RecommenderConfig
from revenue_sim.config import CountTable, RunConfig, ShardsConfig
from revenue_sim.config import EvaluateConfig as AllocationJudging
from revenue_sim.judging.score_files import read_allocation, read_demand
from revenue_sim.ope import OpeConfig
from revenue_sim.train import GroundTruth
from revenue_sim.train import TrainConfig as TruthTraining
from tests.malformed.cases import Program
from tests.recommender.tiny_movielens import tiny_ratings, write_100k

SAMPLE = Path(__file__).parents[2] / "data/sample"
SERVICES = ("retrieval", "ranking")
SPEC = RequestSpec(
    state={"place": "category", "tier": "category"}, agents={"one": ["a1", "a2"]}, sizes={"a1": 2, "a2": 3}
)
STATES = pd.DataFrame({"place": ["home", "home", "feed"], "tier": ["v1", "v2", "v1"]})
_STATE = dict.fromkeys(("user_value", "placement", "segment", "idc"), "category")
_ACTIONS = {"a1": "int 0 3", "a2": "int 0 4", "a3": "int 0 4", "a4": "int 0 1", "a5": "int 0 4"}
_LOG = {"timestamp": "time", **_STATE, **_ACTIONS, "revenue": "float 0", "propensity": "float* 1e-12 1"}
_MINUTES = {
    "timestamp": "time", "idc": "category", "qps": "float 0", "degradation": "float 0", "q_sum": "float", "q_mean": "float",
    **{f"cpu_{name}": "float? 0 100" for name in SERVICES}, **{f"lambda_{name}": "float 0" for name in SERVICES},
    **{f"next_cpu_{name}": "float? 0 100" for name in SERVICES}, "next_qps": "float* 0",
    **{f"c_{name}_{what}": "float" for name in SERVICES for what in ("sum", "mean")},
}  # fmt: skip
_LOADTEST = {
    "idc": "category", "service": "category", "round": "int 0", "channels": "category", "model": "category",
    "retrieved": "float? 0", "preranked": "float? 0", "degradation": "float* 0", "qps": "float 0",
    "machines": "int 1", "cores": "int 1", "cpu_percent": "float 0 100",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A reader of tables, with a sound CSV file."""

    name: str
    data: bytes
    columns: dict[str, str]  # column → word, as in bad_tables
    read: Callable[[Path], Any]
    time: str | None = None
    ordered: bool = False


def _csv(frame: pd.DataFrame) -> bytes:
    return str(frame.to_csv(index=False, lineterminator="\n")).encode()


def _head(name: str, rows: int) -> bytes:
    return b"".join((SAMPLE / name).read_bytes().splitlines(keepends=True)[: rows + 1])


def tables(folder: Path) -> list[Table]:
    """Every reader of CSV and Parquet tables."""
    minutes = pd.date_range("2026-01-05", periods=40, freq="min")
    trace = _csv(pd.DataFrame({"timestamp": minutes, "value": np.linspace(1.0, 2.0, 40).round(4)}))
    keys = [f"{a1}_{a2}" for a1 in range(2) for a2 in range(3)]
    pairs = [(f"{p}_{t}", key) for p, t in STATES.itertuples(index=False) for key in keys]
    scores = _csv(
        pd.DataFrame({"state": [p for p, _ in pairs], "action": [k for _, k in pairs], "value": np.arange(18) / 8})
    )
    states = _csv(pd.DataFrame({"state": ["home_v1", "home_v2", "feed_v1"], "count": [2, 3, 1]}))
    quotas = _csv(pd.DataFrame({"action": keys[:3], "count": [3, 2, 1]}))
    (folder / "sound_states.csv").write_bytes(states)
    (folder / "sound_quotas.csv").write_bytes(quotas)
    profile = _csv(pd.DataFrame(SPEC.joint_table(), columns=["a1", "a2"]).assign(value=np.arange(1, 7) / 8))
    allocation = _csv(pd.DataFrame({"state": ["home_v1", "feed_v1"], "action": ["0_1", "1_2"], "count": [2, 3]}))
    value = {"timestamp": "time", "value": "float 0"}
    keyed = {"state": "category", "action": "category"}
    return [
        Table("requests", _head("requests.csv", 60), _LOG, RequestSpec().read, "timestamp"),
        Table("system", _head("system.csv", 60), _MINUTES, _minutes, "timestamp", ordered=True),
        Table("loadtest", _head("loadtest.csv", 120), _LOADTEST, _loadtest),
        Table("calendar", _head("calendar.csv", 2), {"start": "time", "factor": "float 1e-9", "decay_minutes": "float 1e-9"},
              lambda path: str(Calendar.read(path).events), "start", ordered=True),
        Table("world trace", trace, value, lambda path: str(read_trace(path)), "timestamp", ordered=True),
        Table("plant trace", trace, value, lambda path: str(vars(trace_traffic(TraceConfig(path=str(path)), 2, 0))), "timestamp", ordered=True),
        Table("long scores", scores, {**keyed, "value": "float"}, lambda path: str(read_long_scores(path, SPEC, ["value"]).scores)),
        Table("states", states, {"state": "category", "count": "int 0"},
              lambda path: str(_demand(path, folder / "sound_quotas.csv"))),
        Table("quotas", quotas, {"action": "category", "count": "int 0"},
              lambda path: str(_demand(folder / "sound_states.csv", path))),
        Table("profile", profile, {"a1": "int 0 1", "a2": "int 0 2", "value": "float 0"}, lambda path: str(read_profile(path, SPEC))),
        Table("allocation", allocation, {**keyed, "count": "int 0"}, lambda path: str(_judged(path))),
    ]  # fmt: skip


def _demand(states: Path, quotas: Path) -> str:
    return str(read_demand(CountTable(file=str(states)), CountTable(file=str(quotas)), SPEC, STATES))


def _judged(path: Path) -> list[Any]:
    state, action, count = read_allocation(CountTable(file=str(path)), SPEC, STATES)
    return sorted(zip(state.tolist(), action.tolist(), count.tolist()))


def _minutes(path: Path) -> str:
    data = read_system(path, ColumnsConfig(), list(SERVICES))
    parts = (
        data.groups,
        data.group,
        data.timestamps,
        data.qps,
        data.cpu,
        data.price,
        data.next_cpu,
        data.next_qps,
        data.extras,
    )
    return str([np.asarray(one).tolist() for one in parts])


def _loadtest(path: Path) -> pd.DataFrame:
    return read_loadtest(load_config(FitCostsConfig, "configs/autobucket/costs.yaml", [f"loadtest={path}"]))


def score_table() -> pa.Table:
    """Wide scores of all states of SPEC."""
    values = np.arange(3 * SPEC.n_joint, dtype=np.float32).reshape(3, -1) / 8
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), SPEC.n_joint)
    return pa.table({**{name: pa.array(STATES[name].tolist()) for name in STATES}, "value": fixed})


def programs(folder: Path) -> dict[str, Program]:
    """Every program; ``folder`` holds, or will hold, the run folders that later ones read."""
    log, minutes = SAMPLE / "requests.csv", SAMPLE / "system.csv"
    truth, best, estimator = (
        folder / name for name in ("truth/truth.parquet", "learner/best.pt", "estimator/estimator.pt")
    )
    profile = folder / "profile/profile.csv"
    model, maps, costs = (
        folder / "model/system_model.pt",
        folder / "costs/cost_maps.json",
        folder / "predicted/costs.parquet",
    )
    tiny = ("sample_states=60", "trees.trees=5", "trees.min_rows=20", "nets.epochs=1", "nets.batch_size=64")
    costed = (f"estimator={estimator}", f"cost_maps={maps}")
    costs_of = (("estimator", "estimator"), ("cost_maps", "cost maps"))
    scored = (f"checkpoint={best}", f"requests={log}", *costed)
    scores_of = (("requests", "requests"), ("checkpoint", "learner"), *costs_of)
    loop = (f"model={model}", "scenario.days=0.02", "clairvoyant=false", "zoom_minutes=10")
    listed = [
        Program("awrq_mixer.train", awrq_mixer.train.train, LearnerTraining, "configs/awrq_mixer/smoke.yaml", (f"requests={log}",), (("requests", "requests"),)),
        Program("awrq_mixer.predict", awrq_mixer.predict.predict, ScorePrediction, "configs/awrq_mixer/predict.yaml", (f"checkpoint={best}", f"states={log}"), (("states", "requests"), ("checkpoint", "learner"))),
        Program("awrq_mixer.evaluate", awrq_mixer.evaluate.evaluate, LearnerErrors, "configs/awrq_mixer/evaluate.yaml", (f"checkpoint={best}", f"requests={log}", "buckets=4"), (("requests", "requests"), ("checkpoint", "learner"))),
        Program("awrq_mixer.profile", awrq_mixer.profile.profile, ProfileConfig, "configs/awrq_mixer/profile.yaml", (f"requests={log}", "surrogate=null"), (("requests", "requests"),)),
        Program("awrq_mixer.anchor", awrq_mixer.anchor.anchor, AnchorConfig, "configs/awrq_mixer/anchor.yaml", (f"checkpoint={best}", f"requests={log}", f"profile={profile}"), (("requests", "requests"), ("checkpoint", "learner"), ("profile", "profile"))),
        Program("autobucket.train", autobucket.train.train, EstimatorTraining, "configs/autobucket/smoke.yaml", (f"data.requests={log}",), (("data.requests", "requests"),)),
        Program("autobucket.fit_costs", autobucket.fit_costs.fit_costs, FitCostsConfig, "configs/autobucket/costs.yaml", (f"loadtest={SAMPLE}/loadtest.csv", "bootstrap=2"), (("loadtest", "loadtest"),)),
        Program("autobucket.predict", autobucket.predict.predict, CostPrediction, "configs/autobucket/predict.yaml", (f"checkpoint={estimator}", f"cost_maps={maps}", f"requests={log}"), (("requests", "requests"), ("checkpoint", "estimator"), ("cost_maps", "cost maps"))),
        Program("autobucket.evaluate", autobucket.evaluate.evaluate, EstimatorErrors, "configs/autobucket/evaluate.yaml", (f"checkpoint={estimator}", f"data.requests={log}"), (("data.requests", "requests"), ("checkpoint", "estimator"))),
        Program("autobucket.testbench", autobucket.testbench.testbench, TestbenchConfig, "configs/autobucket/testbench_quick.yaml"),
        Program("autobucket.live", autobucket.live.live, LiveConfig, "configs/autobucket/live.yaml"),
        Program("revenue_sim.train", revenue_sim.train.train, TruthTraining, "configs/revenue_sim/train.yaml", (f"requests=[{log}]", *tiny), (("requests.0", "requests"),)),
        Program("revenue_sim.run", revenue_sim.run.run, RunConfig, "configs/revenue_sim/run.yaml", (f"requests={log}", f"truth={truth}", f"models={{one: {truth}}}", f"costs={costs}", "bootstrap_draws=10", "buckets=4", "curve_budgets=3"), (("requests", "requests"), ("truth", "scores"), ("costs", "scores"))),
        Program("revenue_sim.evaluate", revenue_sim.evaluate.evaluate, AllocationJudging, "configs/revenue_sim/evaluate.yaml", (f"allocation={folder}/allocation.csv", f"truth={truth}"), (("allocation", "allocation"), ("truth", "scores"))),
        Program("revenue_sim.ope", revenue_sim.ope.evaluate_policy, OpeConfig, "configs/revenue_sim/ope.yaml", (f"requests={log}", f"scores={truth}"), (("requests", "requests"), ("scores", "scores"))),
        Program("mpc_balancer.train", mpc_balancer.train.train, SystemModelConfig, "configs/mpc_balancer/train.yaml", (f"table={minutes}", "epochs=2", "hidden=[8]", "tune_candidates=2", "tune_days=0.05", "forecast_horizon=2", "rollout_steps=2"), (("table", "system"),)),
        Program("mpc_balancer.commission", mpc_balancer.commission.commission, CommissionConfig, "configs/mpc_balancer/commission.yaml", (f"table={minutes}", "days=1"), (("table", "system"),)),
        Program("mpc_balancer.evaluate", mpc_balancer.evaluate.evaluate, SystemErrorsConfig, "configs/mpc_balancer/evaluate.yaml", (f"model={model}", f"table={minutes}", "steps=2"), (("table", "system"), ("model", "system model"))),
        Program("mpc_balancer.run", mpc_balancer.run.run, ClosedLoopConfig, "configs/mpc_balancer/run.yaml", loop, (("traffic", "plant trace"), ("calendar", "calendar"), ("model", "system model"))),
        Program("mpc_balancer.serve", mpc_balancer.serve.serve, ServeConfig, "configs/mpc_balancer/serve.yaml", (f"model={model}", f"source.path={folder}/lines.jsonl", "source.follow=false"), (("calendar", "calendar"), ("model", "system model"))),
        Program("cascade_world.generate", cascade_world.generate.generate, WorldConfig, "configs/cascade_world/small.yaml", ("truth.cache=null",), (("traffic.trace", "world trace"),)),
        Program("cascade_world.describe", cascade_world.describe.describe, WorldConfig, "configs/cascade_world/small.yaml", ("truth.cache=null",), (("traffic.trace", "world trace"),)),
        Program("cascade_world.sample", cascade_world.sample.sample, WorldConfig, "configs/cascade_world/sample.yaml", (), (("traffic.trace", "world trace"),)),
        Program("marca_loop.orchestrate", marca_loop.orchestrate.orchestrate, Orchestration, "configs/smoke.yaml"),
        Program("marca_loop.live_mpc", marca_loop.live_mpc.live_mpc, LiveMpc, "configs/live_mpc.yaml"),
        Program("awrq_mixer.export", awrq_mixer.export.export, LearnerExport, "configs/awrq_mixer/export.yaml", (f"checkpoint={best}",), (("checkpoint", "learner"),)),
        Program("autobucket.export", autobucket.export.export, CostExport, "configs/autobucket/export.yaml", costed, costs_of),
        Program("mpc_balancer.export", mpc_balancer.export.export, SystemModelExport, "configs/mpc_balancer/export.yaml", (f"model={model}",), (("model", "system model"),)),
        Program("revenue_sim.shards", revenue_sim.shards.shards, ShardsConfig, "configs/revenue_sim/shards.yaml"),
        Program("marca_loop.explain", marca_loop.explain.explain, Explain, "configs/explain.yaml", (*scored, "max_states=5"), scores_of),
        Program("marca_loop.score_shards", marca_loop.score_shards.score_shards, ScoreShardsConfig, "configs/score_shards.yaml", scored, scores_of),
        Program("marca_loop.signed_uplift", marca_loop.signed_uplift.signed_uplift_of_log, SignedUplift, "configs/own_uplift.yaml", (f"requests={log}", f"costs.estimator={estimator}", f"costs.maps={maps}", "learner.epochs=0.1"), (("requests", "requests"), ("costs.estimator", "estimator"), ("costs.maps", "cost maps"))),
        Program("own_system.check", own_system.check.check_and_leave, OwnSystem, "configs/own_system.yaml"),
        Program("own_system.translate", own_system.translate.translate, OwnSystem, "configs/own_system.yaml"),
        Program("examples.decision_service.join", examples.decision_service.join.join, JoinConfig, "configs/decision_service/join.yaml"),
        Program("examples.llm_router.run", examples.llm_router.run.run, RouterConfig, "configs/other_computation/llm_router.yaml"),
        Program("recommender.build", recommender.build.build, RecommenderConfig, "configs/recommender/movielens.yaml", (f"data.folder={folder}/movielens",)),
    ]  # fmt: skip
    return {one.name: one for one in listed}


def prepare(folder: Path) -> dict[str, Program]:
    """Run what later programs read: learner, profile, estimator, cost maps, truth, system model, an allocation."""
    found = programs(folder)
    write_100k(folder / "movielens", tiny_ratings())
    for name, out in {
        "awrq_mixer.train": "learner", "awrq_mixer.profile": "profile", "autobucket.train": "estimator", "autobucket.fit_costs": "costs",
        "autobucket.predict": "predicted", "revenue_sim.train": "truth", "mpc_balancer.train": "model",
    }.items():  # fmt: skip
        found[name].start(folder / out, untouched=False)
    states = read_scores(folder / "truth/truth.parquet", RequestSpec()).keys()[:3]
    _allocation = pd.DataFrame({"state": states, "action": "0_1_1_0_1", "count": 2})
    (folder / "lines.jsonl").write_text('{"qps": 400.0, "cpu": [60.0, 60.0]}\n')
    (folder / "allocation.csv").write_bytes(_csv(_allocation))
    policy = HullPolicy.build(STATES, partial(_values, 1), partial(_values, 2), quiet=True)
    policy.save(folder / "policy.npz")
    return found


def _values(services: int, states: pd.DataFrame) -> np.ndarray:
    generator = np.random.default_rng(services)
    shape = (len(states), 6) if services == 1 else (len(states), 6, services)
    return generator.random(shape).astype(np.float32)


def checkpoints(folder: Path) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """Checkpoints by name: the file and what reads it."""
    member = next(iter(sorted((folder / "truth/members").glob("*net*.pt"))), None)
    tree = next(iter(sorted((folder / "truth/members").glob("*tree*.pt"))), None)
    found: dict[str, tuple[Path, Callable[[Path], Any]]] = {
        "learner": (folder / "learner/best.pt", Predictor.load),
        "estimator": (folder / "estimator/estimator.pt", Estimator.load),
        "system model": (folder / "model/system_model.pt", SystemModel.load),
    }
    for name, file in {"truth's net": member, "truth's trees": tree}.items():
        assert file is not None
        found[name] = (file, partial(_truth, file))
    return found


def _truth(sound: Path, path: Path) -> Any:
    """The ensemble with one member, ``sound``, replaced by the file at ``path``."""
    members = path.parent / "truth/members"
    shutil.copytree(sound.parent, members)
    (members / sound.name).write_bytes(path.read_bytes())
    return GroundTruth.load(members.parent, RequestSpec())


def cost_maps(folder: Path) -> bytes:
    """A cost map file, one data centre's maps only, so that its parts are few."""
    content = json.loads((folder / "costs/cost_maps.json").read_text())
    idc, service = content["idcs"][0], content["services"][0]
    content |= {"idcs": [idc], "services": [service], "maps": {idc: {service: content["maps"][idc][service]}}}
    return json.dumps(content).encode()


def free_part(path: tuple[Any, ...], wrong: Any) -> bool:
    """May this part of a cost map file be so? Copies for simple readers may be anything, optional parts may be absent."""
    copies = path[0] in ("unit", "elements", "channels", "switches", "actions") or path[3:4] in (
        ("model",),
        ("quality",),
    )
    optional = path[-1] in ("load", "degradation", "idle_percent", "low", "high") and wrong is None
    one_of_many = wrong is None and len(path) > 5 and path[3] == "queues" and path[-1] not in ("x", "cost", 0)
    return copies or optional or one_of_many


def load_policy(path: Path) -> Any:
    """The policy, asked once for every state."""
    policy = HullPolicy.load(path)
    return policy.decide(np.arange(3), np.zeros(2)).tolist() if len(policy.states) == 3 else policy
