"""Settings of the service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from marca_common.config import Config


class ServiceConfig(Config):
    """`python -m recommender.serve`."""

    build: Path = Field(default=Path("runs/recommender"), description="run folder of a finished recommender.build")
    address: str = Field(default="127.0.0.1", description="where it listens")
    port: int = Field(default=8090, ge=0, le=65535, description="0: a free one is chosen, and said")
    most_waiting: int = Field(default=256, ge=1, description="requests in work before new ones are refused (HTTP 503)")
    start_timeout_s: float = Field(default=120.0, gt=0, le=600, description="seconds until the cascade must be ready")
