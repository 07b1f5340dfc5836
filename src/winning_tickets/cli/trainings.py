"""The commands whose options are the fields of settings: search, evaluate, fit-head, transfer, share, super."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from winning_tickets.cli import show
from winning_tickets.cli.options import verb
from winning_tickets.config import (
    EvaluateConfig,
    FitHeadConfig,
    Runtime,
    SearchConfig,
    ShareConfig,
    SuperConfig,
    TransferConfig,
)

Printed = tuple[dict[str, Any], str]  # a result, and the text that is printed without `--json`


@verb(
    "search",
    SearchConfig,
    "model",
    "winning_tickets.pruning.search:check_search",
    plan=lambda config: (config.resolved(), {}),
)
def search(config: SearchConfig, out: Path, runtime: Runtime, force: bool) -> Printed:
    """Find a ticket and save it in --out. With --method NAME, --help shows what that method reads.

    Example: tickets search builtin:minilm --method mask-training --objective kd --sparsity 0.6 --corpus pydocs
    --steps 60 --out my-ticket
    """
    from winning_tickets.pruning.search import search_all

    tickets = search_all(config, out, runtime, force)
    result = json.loads((out / "result.json").read_text(encoding="utf-8")) | {"out": str(out)}
    return result, show.search(result, list(map(str, tickets.values())))


@verb(
    "evaluate",
    EvaluateConfig,
    "target",
    "winning_tickets.analysis.evaluate:check_evaluate",
    metavar="MODEL_OR_TICKET",
    runtime=("device", "bf16", "quiet"),
    writes=False,
)
def evaluate(config: EvaluateConfig, runtime: Runtime) -> Printed:
    """Measure what a model or ticket preserves, without fine-tuning.

    Example: tickets evaluate my-ticket --objective kd --corpus pydocs --json
    """
    from winning_tickets.analysis.evaluate import evaluate as measure

    result = measure(config, runtime)
    return result, show.evaluation(result)


@verb("fit-head", FitHeadConfig, "model", "winning_tickets.finetuning.fit_head:check_fit_head")
def fit_head(config: FitHeadConfig, out: Path, runtime: Runtime, force: bool) -> Printed:
    """Give a model without MLM head a good one, and save an ordinary ForMaskedLM folder.

    Example: tickets fit-head builtin:minilm --corpus pydocs --steps 200 --out minilm-mlm
    """
    from winning_tickets.finetuning.fit_head import fit_head as fit

    result = fit(config, out, runtime, force) | {"out": str(out)}
    return result, show.fitted_head(result)


@verb(
    "transfer",
    TransferConfig,
    "target",
    "winning_tickets.finetuning.setup:check_transfer",
    metavar="MODEL_OR_TICKET_OR_RUN",
)
def transfer(config: TransferConfig, out: Path, runtime: Runtime, force: bool) -> Printed:
    """Fine-tune a model or ticket on a task, once for each seed, and store the metrics.

    Example: tickets transfer my-ticket --task pydocs --seeds 0,1 --out my-transfer --json

    Example: tickets transfer my-transfer --train-file F --validation-file F --train-size 10% --out adapted
    """
    from winning_tickets.finetuning.transfer import transfer as fine_tune

    result = fine_tune(config, out, runtime, force)
    return result, show.transfer(result)


@verb("share", ShareConfig, "", "winning_tickets.finetuning.sharing_setup:check_sharing", defaults={"tasks": ()})
def share(config: ShareConfig, out: Path, runtime: Runtime, force: bool) -> Printed:
    """Train one encoder for several tasks, each with its ticket; without tickets that is MT-DNN.

    Example: tickets share --model builtin:minilm --tasks rte,mrpc --tickets auto --data-dir glue --out shared

    Example: tickets share --tasks rte,mrpc --tickets rte-ticket,mrpc-ticket --data-dir glue --out shared --json
    """
    from winning_tickets.finetuning.sharing import share as share_model

    result = share_model(config, out, runtime, force)
    return result, show.sharing(result)


def _plan_of_super(config: SuperConfig) -> tuple[SuperConfig, dict[str, Any]]:
    from winning_tickets.finetuning.super_ticket import count_trainings

    return config.resolved(), {"trainings": count_trainings(config.resolved())}


@verb(
    "super",
    SuperConfig,
    "target",
    "winning_tickets.finetuning.super_ticket:check_super_ticket",
    inline="fine_tuning",
    without=("learning_rate", "batch_size"),
    defaults={"fine_tuning": {"seeds": (0, 1, 2)}},
    plan=_plan_of_super,
)
def super_ticket(config: SuperConfig, out: Path, runtime: Runtime, force: bool) -> Printed:
    """Find a task's super ticket: fine-tune tickets of every level and the full model, and name the best.

    Example: tickets super builtin:minilm --task rte --data-dir glue --seeds 0,1,2 --out rte-super
    """
    from winning_tickets.finetuning.super_ticket import super_ticket as find

    result = find(config.resolved(), out, runtime, force)
    return result, show.super_ticket(result)
