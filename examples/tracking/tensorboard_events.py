"""Show training runs in TensorBoard: ``python -m examples.tracking.tensorboard_events --set runs=runs/demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import Field

from marca_common.cli import run_cli
from marca_common.config import Config
from marca_common.errors import UserError
from marca_common.run_folder import RunFolder

TIMES = ("step", "epoch")  # columns that count the progress of training


class TensorBoardConfig(Config):
    """What ``python -m examples.tracking.tensorboard_events`` needs."""

    runs: str = Field(description="folder with run folders in it, at any depth; each has a metrics.csv")


@dataclass(frozen=True)
class Written:
    """What was written: scalars by run."""

    scalars: dict[str, int]


def write_events(config: TensorBoardConfig, out: str | Path) -> Written:
    """Write every training curve below a folder as TensorBoard events, one TensorBoard run per run folder.

    Then: ``tensorboard --logdir DIR``. Raises UserError where the extra is not installed, and where there is no training curve.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "tensorboard: not installed; expected the extra `tracking`: pip install -e .[tracking]"
        ) from None
    root = Path(config.runs)
    curves = {str(path.parent.relative_to(root)): curve_of(path) for path in sorted(root.rglob("metrics.csv"))}
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    if not curves:
        raise UserError(f"{config.runs}: got no metrics.csv with a column {' or '.join(TIMES)}; expected run folders")
    with RunFolder(out, config) as run:
        for name, curve in curves.items():
            with SummaryWriter(str(run.path / "events" / name)) as writer:
                for column in curve.columns:
                    for time, value in curve[column].dropna().items():
                        writer.add_scalar(column, float(value), int(time))
        scalars = {name: int(curve.count().sum()) for name, curve in curves.items()}
        run.write_summary({"scalars": scalars})
    return Written(scalars)


def curve_of(path: Path) -> pd.DataFrame:
    """Numeric columns of a metrics.csv by its step or epoch; no rows where it has neither."""
    table = pd.read_csv(path)
    time = next((name for name in TIMES if name in table), None)
    if time is None:
        return pd.DataFrame()
    return table.set_index(time).select_dtypes("number")


if __name__ == "__main__":
    run_cli(
        write_events,
        TensorBoardConfig,
        default_config="configs/tracking/tensorboard.yaml",
        default_out="runs/tensorboard",
    )
