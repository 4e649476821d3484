"""λ on a live system: ``python -m mpc_balancer.serve --config configs/mpc_balancer/serve.yaml``, or ``Balancer`` in your own loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.config import dump_yaml
from marca_common.files import write_text
from marca_common.tables import write_table
from mpc_balancer.serving.balancer import Balancer, groups_of, step_seconds
from mpc_balancer.serving.loop import serve_loop
from mpc_balancer.serving.replay import differing, replay
from mpc_balancer.serving.serve_config import ServeConfig
from mpc_balancer.serving.sinks import make_sink
from mpc_balancer.serving.sources import make_source
from mpc_balancer.system_model.model import SystemModel

__all__ = ["Balancer", "ServeConfig", "serve"]


@dataclass
class Served:
    """What happened until the source ended."""

    summary: dict[str, Any]


def serve(config: ServeConfig, out: str | Path) -> Served:
    """Read measurements, write λ, until the source ends; the same command goes on after a crash.

    ``out`` keeps state, decision log and metrics. With ``replay`` a decision log is decided again instead.
    """
    set_threads(1)
    if config.replay is not None:
        return _replayed(config, Path(out))
    model = None if config.model is None else SystemModel.load(config.model)
    source = make_source(config.source, step_seconds(model), groups_of(config, model))
    sink = make_sink(config.sink, config.units, Path(out))
    with Balancer(config, out, model) as balancer:
        write_text(balancer.out / "config.yaml", dump_yaml(config))
        serve_loop(balancer, source, sink)
        return Served(balancer.summary)


def _replayed(config: ServeConfig, out: Path) -> Served:
    frame = replay(config, str(config.replay))
    prices = [name for name in frame if name.startswith(("price_", "replayed_"))]
    write_table(frame[["group", "born", "step", "timestamp", "kind", "rung", *prices]], out / "replay.csv")
    return Served({"replayed_rows": len(frame), "differing_rows": differing(frame)})


if __name__ == "__main__":
    run_cli(serve, ServeConfig, default_config="configs/mpc_balancer/serve.yaml", default_out="runs/serve")
