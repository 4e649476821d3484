"""Revenue by budget on the real cascade: ``python -m benchmarks.movielens [--data FOLDER] [--seeds N] [--quick] [--keep]``.

For each seed the cascade is built anew (the coin that halves the likes, money, models). Learners see its log, are trained and
anchored, and choose an action for every visit under a budget. Joint actions that are the same cascade have one value, the mean. What they chose is judged by likes that no log has shown.
Intervals are percentiles over draws of users, seeds pooled. ``ceiling`` chooses by the judged likes themselves; ``logged_likes``
by the other half's, which is what knowing each visit's labels is worth. ``told_levels`` is told how much each visit earns on average
over actions, and takes all else from the common profile: no learner of levels can do better. Finished builds and learners are kept in
runs/benchmarks/movielens.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import awrq_mixer.anchor
import awrq_mixer.profile
import awrq_mixer.train
from awrq_mixer.anchoring.global_profile import read_profile
from awrq_mixer.config import AnchorConfig, ProfileConfig, TrainConfig
from awrq_mixer.serving.predictor import Predictor
from benchmarks._mpc import stamp
from benchmarks._results import add_keep
from benchmarks._script import script
from marca_common.compute import set_threads
from marca_common.config import content_hash, load_config, replaced, to_dict
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from marca_measures.static_mixture import static_mixture
from recommender.build import build
from recommender.build_parts import LOG_FILE, Parts, load_people
from recommender.config import RecommenderConfig
from revenue_sim.allocation.one_budget import allocate

ROOT = Path("runs/benchmarks/movielens")
CONFIGS = Path("configs/awrq_mixer")
BUDGETS = (0.1, 0.2, 0.35, 0.6, 0.85)  # of what the dearest action costs
HISTORY = "[user_value, taste, history]"
PLUS = ["stack.side_columns=[clicks]", f"stack.history={HISTORY}"]
REMEMBERS = ["plus.surrogate=clicks", f"plus.history={HISTORY}"]
LEARNERS: dict[str, tuple[str, list[str]]] = {
    "glm": ("demo.yaml", ["learner=glm"]),
    "qmix": ("demo.yaml", ["learner=qmix"]),
    "awrq_mixer": ("demo.yaml", []),
    "regression": ("demo.yaml", ["learner=regression"]),
    "regression_clicks": ("demo.yaml", ["learner=regression", "plus.surrogate=clicks"]),
    "lightgbm_clicks": ("demo.yaml", ["learner=lightgbm", "plus.surrogate=clicks"]),
    "awrq_residual_clicks": ("demo.yaml", ["learner=awrq_residual", "plus.surrogate=clicks"]),
    "neural_process": ("neural_process.yaml", REMEMBERS),
    "lightgbm_history": ("latent_classes.yaml", ["learner=lightgbm_history", *REMEMBERS]),
    "low_rank": ("low_rank.yaml", REMEMBERS),
    "latent_classes": ("latent_classes.yaml", REMEMBERS),
    "awrq_plus": ("awrq_plus.yaml", PLUS),
}
QUICK = ("glm", "regression_clicks")
REFERENCES = ("static", "priced_blind", "tiers", "told_levels", "static_told", "logged_likes", "ceiling")
DRAWS = 2000


@dataclass(frozen=True)
class Real:
    """One build: V visits, A joint actions that stand for D distinct ones: where a channel is closed its length is void."""

    seed: int
    folder: Path
    spec: RequestSpec
    states: pd.DataFrame  # (V, state columns)
    user: np.ndarray  # (V,)
    logged: np.ndarray  # (V, D) revenue by the half that the log drew from
    judged: np.ndarray  # (V, D)
    cost: np.ndarray  # (V, D) core-ms, both services
    distinct: np.ndarray  # joint action → distinct one, (A,)

    @classmethod
    def of(cls, seed: int, sets: list[str]) -> Real:
        """Build the cascade of a seed, or take the finished build."""
        config = load_config(RecommenderConfig, "configs/recommender/movielens.yaml", [f"seed={seed}", *sets])
        folder = ROOT / f"seed_{seed}_{content_hash(to_dict(config))[:8]}"
        if not (folder / "summary.json").exists():
            build(config, folder)
        parts = Parts(config, folder, load_people(config))
        logged, judged = (np.asarray(one, np.float64) for one in parts.values)
        cost = parts.cost_of_visits().sum(axis=2)
        states = parts.states.astype(str)
        return cls(
            seed, folder, config.spec, states, parts.people.visits.user, logged, judged, cost, parts.space.distinct
        )

    def merged(self, values: np.ndarray) -> np.ndarray:
        """Values (…, A) of joint actions → (…, D): the mean of those that are the same."""
        order = np.argsort(self.distinct, kind="stable")
        starts = np.searchsorted(self.distinct[order], np.arange(self.cost.shape[1]))
        sums = np.add.reduceat(np.asarray(values, np.float64)[..., order], starts, axis=-1)
        return np.asarray(sums / np.bincount(self.distinct))


def learned(real: Real, name: str) -> np.ndarray:
    """Anchored Q (V, D) of a learner that saw the build's log."""
    log, (config, overrides) = str(real.folder / LOG_FILE), LEARNERS[name]
    known = [f"seed={real.seed}", f"requests={log}", f"spec={json.dumps(real.spec.model_dump(mode='json'))}"]
    train = load_config(TrainConfig, CONFIGS / config, [*known, *overrides])
    out = real.folder / "learners" / f"{name}_{content_hash(to_dict(train))[:8]}"
    if not (out / "anchored/anchored.pt").exists():
        if not (out / "values/summary.json").exists():
            awrq_mixer.train.train(train, out / "values")
        profile = {"checkpoint": str(out / "values/best.pt"), "profile": str(_profile(real)), "requests": log}
        awrq_mixer.anchor.anchor(
            replaced(load_config(AnchorConfig, CONFIGS / "anchor.yaml", []), profile), out / "anchored"
        )
    model = Predictor.load(out / "anchored/anchored.pt")
    states, ids, _ = real.spec.distinct_states(real.states)
    return np.asarray(real.merged(model.values(states))[ids])


def _profile(real: Real) -> Path:
    folder = real.folder / "profile_of_training_rows"
    if not (folder / "profile.csv").exists():
        sets = ["surrogate=null", "test=0.2"]  # clicks know no money; the rows that learners learn from
        config = load_config(ProfileConfig, CONFIGS / "profile.yaml", sets)
        known = {"requests": str(real.folder / LOG_FILE), "spec": real.spec}
        awrq_mixer.profile.profile(replaced(config, known), folder)
    return folder / "profile.csv"


def profile_of(real: Real) -> np.ndarray:
    """What each distinct action earns on average, from the log (D,)."""
    return real.merged(read_profile(_profile(real), real.spec))


def choices(real: Real, names: list[str]) -> tuple[dict[str, list[np.ndarray]], dict[str, np.ndarray]]:
    """Judged revenue of every visit (V,) by strategy and budget, and each learner's Q (V, D)."""
    log = real.spec.read(real.folder / LOG_FILE)
    profile = profile_of(real)
    tier = log.groupby("user_value", observed=True)[real.spec.reward].mean()
    level = tier.reindex(real.states["user_value"]).to_numpy(np.float64) / log[real.spec.reward].mean()
    values = {name: learned(real, name) for name in names}
    priced = values | {
        "priced_blind": np.tile(profile, (len(level), 1)),
        "tiers": level[:, None] * profile,  # the simplest thing that looks at who asks
        "told_levels": real.judged.mean(axis=1, keepdims=True) * profile,
        "logged_likes": real.logged,
        "ceiling": real.judged,
    }
    worth: dict[str, list[np.ndarray]] = {name: [] for name in (*names, *REFERENCES)}
    rows, means = np.arange(len(level)), {"static": profile, "static_told": real.judged.mean(axis=0)}
    for budget in _budgets(real):
        for name, q in priced.items():
            chosen = allocate(q, real.cost, budget * len(q), threads=1).choice
            worth[name].append(real.judged[rows, chosen])
        for name, mean in means.items():
            mixture = static_mixture(mean, real.cost.mean(axis=0), budget)
            worth[name].append(real.judged[:, mixture.actions] @ mixture.weights)
    return worth, values


def _budgets(real: Real) -> np.ndarray:
    return np.asarray(np.array(BUDGETS) * real.cost.mean(axis=0).max())


def table_of(reals: list[Real], worth: list[dict[str, list[np.ndarray]]]) -> pd.DataFrame:
    """``budget, strategy, value, ci_low, ci_high, lead, lead_low, lead_high, over_blind…, share_of_ceiling``; leads over static, in percent."""
    users = int(max(real.user.max() for real in reals)) + 1
    drawn = np.stack(
        [np.bincount(numpy_generator(0, "movielens", str(k)).integers(users, size=users), minlength=users) for k in range(DRAWS)]
    )  # fmt: skip
    visits = np.sum([np.bincount(real.user, minlength=users) for real in reals], axis=0)

    def means(name: str, b: int) -> tuple[float, np.ndarray]:
        total = np.sum(
            [np.bincount(real.user, one[name][b], minlength=users) for real, one in zip(reals, worth)], axis=0
        )
        return float(total.sum() / visits.sum()), (drawn @ total) / (drawn @ visits)

    rows = []
    for b, budget in enumerate(BUDGETS):
        (static, static_draws), (blind, blind_draws) = means("static", b), means("priced_blind", b)
        ceiling = means("ceiling", b)[0]
        for name in worth[0]:
            value, draws = means(name, b)
            low, high = np.percentile(draws, [2.5, 97.5])
            row = {"budget": budget, "strategy": name, "value": value, "ci_low": low, "ci_high": high}
            for key, base, base_draws in (("lead", static, static_draws), ("over_blind", blind, blind_draws)):
                ends = np.percentile(100 * (draws / base_draws - 1), [2.5, 97.5])
                row |= {key: 100 * (value / base - 1), f"{key}_low": ends[0], f"{key}_high": ends[1]}
            rows.append(row | {"share_of_ceiling": value / ceiling})
    return pd.DataFrame(rows)


def learners_table(
    reals: list[Real], worth: list[dict[str, list[np.ndarray]]], values: list[dict[str, np.ndarray]]
) -> pd.DataFrame:
    """Per learner, means over seeds with standard errors: lead over static by budget, order of visits and of actions."""
    rows = []
    for name in values[0]:
        leads = np.array(
            [[100 * (w[name][b].mean() / w["static"][b].mean() - 1) for b in range(len(BUDGETS))] for w in worth]
        )
        order = np.array(
            [
                (
                    spearmanr(q[name].mean(axis=1), real.judged.mean(axis=1))[0],
                    spearmanr(q[name].mean(axis=0), real.judged.mean(axis=0))[0],
                )
                for real, q in zip(reals, values)
            ]
        )
        found = {f"lead_{b + 1}": leads[:, b] for b in range(len(BUDGETS))} | {"lead": leads.mean(axis=1)}
        found |= {"spearman_visits": order[:, 0], "spearman_actions": order[:, 1]}
        row: dict[str, object] = {"learner": name, "seeds": len(reals)}
        for key, one in found.items():
            row |= {key: one.mean(), f"{key}_se": one.std(ddof=1) / len(one) ** 0.5 if len(one) > 1 else np.nan}
        rows.append(row)
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame, path: Path) -> None:
    """Revenue by budget, and the lead over the static mixture with intervals."""
    plot, (left, right) = new_figure(1, 2, width=9.6, height=4.0)
    shown = [
        one
        for one in ("awrq_plus", "regression_clicks", "awrq_mixer", "tiers", "priced_blind")
        if one in set(table["strategy"])
    ]
    for color, name in zip(COLORS, [*shown, "static"]):
        part = table[table["strategy"] == name]
        left.plot(part["budget"], part["value"], "o-", ms=4, color=color, label=name)
        if name != "static":
            place = part["budget"] + 0.008 * (shown.index(name) - len(shown) / 2)
            reach = np.stack([part["lead"] - part["lead_low"], part["lead_high"] - part["lead"]])
            right.errorbar(place, part["lead"], yerr=reach, fmt="o-", ms=4, lw=1, capsize=2, color=color)
    right.axhline(0, color="0.5", lw=0.8)
    left.set(
        xlabel="budget, share of the dearest action's cost",
        ylabel="money per request",
        title="Revenue on likes nobody saw",
    )
    right.set(xlabel="budget", ylabel="percent over the static mixture", title="Lead, 95 % intervals over users")
    plot.legend(loc="outside lower center", ncols=len(shown) + 1)
    save_figure(plot, path)


def main() -> None:
    """Build, train, judge, write movielens.csv, table1_movielens.csv and movielens.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder in a MovieLens format; default: MovieLens-100K out of a wheel")
    parser.add_argument("--seeds", type=int, default=5, help="evaluation seeds 100, 101, …")
    parser.add_argument("--first-seed", type=int, default=100, help="below 100: development")
    parser.add_argument("--set", action="append", default=[], help="overrides of the recommender's config")
    parser.add_argument("--quick", action="store_true", help="one seed, few visits and two learners")
    add_keep(parser)
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds: got {arguments.seeds}; expected at least 1")
    set_threads(1)
    sets = [*arguments.set, *([f"data.folder={json.dumps(arguments.data)}"] if arguments.data else [])]
    names, seeds = list(LEARNERS), range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    if arguments.quick:
        names, seeds, sets = list(QUICK), range(1), [*sets, "split.most_visits=500", "cost.rounds=2", "cost.visits=3"]
    reals = [Real.of(seed, sets) for seed in seeds]
    found = [choices(real, names) for real in reals]
    worth, values = [one[0] for one in found], [one[1] for one in found]
    table, learners = table_of(reals, worth), learners_table(reals, worth, values)
    suffix = "_quick" if arguments.quick else ""
    write_table(table.assign(**stamp(f"{seeds[0]}+")).round(5), arguments.results / f"movielens{suffix}.csv")
    write_table(learners.assign(**stamp(f"{seeds[0]}+")).round(4), arguments.results / f"table1_movielens{suffix}.csv")
    figure(table, arguments.results / f"movielens{suffix}.png")
    print(table.drop(columns=["ci_low", "ci_high"]).round(3).to_string(index=False))
    print(learners.round(3).to_string(index=False))


if __name__ == "__main__":
    script(main)
