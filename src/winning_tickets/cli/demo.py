"""`tickets demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winning_tickets.cli.app import app, emit
from winning_tickets.config import Runtime
from winning_tickets.options import (
    Device,
    Json,
    Out,
    Quiet,
)


@app.command()
def demo(
    out: Out = Path("demo-out"),
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The main job on the built-in model, corpus and task: four tickets, one table, one report; a few minutes."""
    from winning_tickets.demo import DemoConfig, run_demo
    from winning_tickets.report.demo_report import table

    config = DemoConfig.small() if tiny else DemoConfig()
    result = run_demo(config, out, Runtime(device=device, quiet=quiet))
    emit(result, as_json, f"{table(result)}\n\nReport: {out / 'report.html'}")
