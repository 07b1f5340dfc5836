"""Search for tickets: from a pre-trained model, and data if the method needs some, to ticket folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from winning_tickets.config import METHOD_NAMES, SCOPES, Pattern, ResolvedSearch, Runtime, SearchConfig
from winning_tickets.config.weights import PRETRAINED, parse_rewind, parse_start
from winning_tickets.data.segments import check_countable, parse_segments
from winning_tickets.data.tasks import TASKS
from winning_tickets.models.structure import count_units
from winning_tickets.pruning import imp, mask_training, movement, one_shot, structured
from winning_tickets.pruning.base import PreparedSearch, prepare_search
from winning_tickets.pruning.memory import check_memory
from winning_tickets.pruning.sharded import check_matrices, check_sharding
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory, execution_of, is_trusted, skipped_steps
from winning_tickets.runs.errors import UsageError, listed, unknown
from winning_tickets.runs.progress import tell
from winning_tickets.tickets.selection import count_true
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.terms import check_negatives

METHODS: dict[str, Callable[[PreparedSearch, RunDirectory, Runtime], None]] = {
    "random": one_shot.find_random_ticket,
    "magnitude": one_shot.find_magnitude_ticket,
    "wanda": one_shot.find_wanda_ticket,
    "mask-training": mask_training.find_trained_mask,
    "imp": imp.find_imp_ticket,
    "snip": one_shot.find_snip_ticket,
    "movement": movement.find_movement_ticket,
    "importance": structured.find_structured_ticket,
}
_TRAIN = {
    mask_training.find_trained_mask,
    imp.find_imp_ticket,
    movement.find_movement_ticket,
    structured.find_gate_ticket,
}
"""Methods that all ranks run together; the others run on rank 0."""
_TEXTS = "pydocs, wikitext-103, task:NAME, a text file or a folder."


def search(config: SearchConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False) -> Ticket:
    """Find a ticket of one sparsity and save it in `out`, which is then the ticket's folder.

    A finished search with the same settings is opened again; an unfinished one resumes.

    Args:
        config: settings of the search.
        out: a directory that is absent or empty, or holds this same run, which is resumed.
        runtime: device, precision and checkpoints.
        force: replace another run of this tool in `out`.

    Raises:
        UsageError: impossible settings, unknown names, missing model or corpus, a foreign `out`, several sparsities
            (`search_all` takes those).
        ContentError: the model or corpus is not usable.
        TrainingError: NaN loss or full disk while training.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.

    Example:
        >>> config = SearchConfig(model="bert-base-uncased", method="magnitude", sparsity=0.6)
        >>> search(config, "runs/omp").sparsity
        0.6
    """
    (ticket,) = _find_tickets(config, out, runtime, force, single=True).values()
    return ticket


def search_all(
    config: SearchConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False
) -> dict[Any, Ticket]:
    """Find the tickets of all sparsity levels in one search; mask training starts each from the scores of the last.

    Several tickets are saved as `out/sparsity-0.60/` and so on, a single one as `out` itself. Arguments and errors are
    those of `search`.

    Returns:
        The tickets by sparsity, ascending; structured ones by the folder of their level, such as `level-30`.
    """
    return _find_tickets(config, out, runtime, force, single=False)


@distributed.together()
def _find_tickets(
    config: SearchConfig, out: Path | str, runtime: Runtime | None, force: bool, single: bool
) -> dict[Any, Ticket]:
    check_search(config)
    if single and len(config.rungs) > 1:
        found = f"{len(config.rungs)} {'levels' if config.needs.structured else 'sparsities'}"
        raise UsageError(f"search finds one ticket and was given {found}; use search_all.")
    runtime = runtime or Runtime()
    if runtime.shard:
        check_sharding(config.resolved(), runtime)
    if not is_trusted():  # a model with code of its own cannot be outlined
        check_memory(config.resolved(), runtime)
    prepared = prepare_search(config, runtime)
    if (advice := config.advice_on_rounds) is not None:
        tell(advice, runtime.quiet)
    if runtime.shard:
        check_matrices(prepared.plm, prepared.shapes)
    settings = prepared.config.model_dump(mode="json")
    with RunDirectory.claim(Path(out), "search", prepared.run_id, settings, force=force) as run:
        finished = run.status == "done"
        if not finished:
            find = structured.find_gate_ticket if config.needs.gates else METHODS[config.method]
            if find in _TRAIN:
                find(prepared, run, runtime)
            else:
                distributed.on_main(lambda: find(prepared, run, runtime))
        tickets = {level: Ticket.from_pretrained(prepared.folder(run, level)) for level in prepared.config.rungs}
        if not finished:
            run.finish(summarize_search(tickets, prepared, run))
            if prepared.config.ranking == "global":
                _warn_of_empty_matrices(tickets[max(tickets)], runtime.quiet)
    return tickets


def _warn_of_empty_matrices(ticket: Ticket, quiet: bool) -> None:
    """Warn if a matrix is nearly empty, as can happen if the weights of all matrices are ranked together."""
    by_matrix = ticket.sparsity_by_matrix()
    least = (1 - ticket.sparsity) / 100
    empty = [name for name, sparsity in by_matrix.items() if 1 - sparsity < least]
    if empty:
        tell(
            f"Warning: the {ticket.sparsity:.0%} ticket keeps less than {least:.2%} of {len(empty)} of "
            f"{len(by_matrix)} matrices: {listed(empty)}. Rank in each matrix (--ranking matrix), or take the numbers "
            "of kept weights from another ticket (--like).",
            quiet,
        )


def summarize_search(tickets: dict[Any, Ticket], prepared: PreparedSearch, run: RunDirectory) -> dict[str, Any]:
    """Return the result that is stored and printed."""
    config = prepared.config
    common = {"verb": "search", "run_id": prepared.run_id, "method": config.method, "scope": config.scope}
    if len(tickets) == 1:
        (ticket,) = tickets.values()
        return common | _facts(ticket, prepared) | {"saved_at": list(config.save_at)}
    facts: list[dict[str, Any]] = []
    previous: Ticket | None = None
    for level, ticket in tickets.items():
        inside = None if previous is None else kept_inside(ticket, previous)
        folder = prepared.folder(run, level)
        about = {"folder": folder.name, "kept_inside_previous": inside} | skipped_steps(folder) | execution_of(folder)
        facts.append(_facts(ticket, prepared) | about)
        previous = ticket
    continued = config.needs.mask_training and not config.needs.structured
    return common | {
        "rungs": facts,
        "nested": all(one["kept_inside_previous"] in (None, 1.0) for one in facts),
        # Every structured ticket has a training of its own, whose steps are among its facts.
        "steps": None if config.needs.structured else facts[-1]["steps"],
        "steps_of_separate_searches": config.steps * len(tickets) if continued else None,
        "saved_at": list(config.save_at),
    }


def kept_inside(inner: Ticket, outer: Ticket) -> float:
    """Return the fraction of the weights kept by `inner` that `outer` keeps too; 1 if they are nested."""
    both = sum(count_true(mask & outer.masks[name]) for name, mask in inner.masks.items())
    return both / max(1, inner.total - inner.pruned)


def _facts(ticket: Ticket, prepared: PreparedSearch) -> dict[str, Any]:
    units = {} if ticket.structure is None else {"units": count_units(ticket.gates, ticket.structure)}
    return units | {
        "ticket_id": ticket.id,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "pruned_share_of_all_parameters": ticket.pruned / prepared.all_parameters,
        "steps": ticket.info.step,
    }


def check_search(config: SearchConfig) -> None:
    """Refuse settings that cannot work together, before anything is loaded; name all problems at once, one per line."""
    problems: list[str] = []

    def attempt(test: Callable[..., Any], *values: Any) -> Any:
        try:
            return test(*values)
        except UsageError as error:
            problems.extend(error.lines)
            return None

    needs = config.needs
    if config.method not in METHOD_NAMES:
        problems.append(str(unknown("method", config.method, METHOD_NAMES)))
    problems += config.unread()
    terms = attempt(lambda: config.terms) or {}
    if needs.sources:
        problems += _source_problems(config, terms)
    if config.kd_layers and config.method in ("mask-training", "imp") and terms and "kd" not in terms:
        problems.append(f"--kd-layers is about the kd term, which --objective {config.objective} does not have.")
    if config.scope is not None and config.scope not in SCOPES:
        problems.append(str(unknown("scope", config.scope, SCOPES)))
    if config.pattern is not None and needs.counts:
        attempt(_check_pattern, config, config.pattern)
    if config.like is not None and needs.counts:
        written = ("ranking", "pattern" if config.pattern is not None else "sparsity")  # a pattern sets the sparsity
        problems += [
            f"--{field} contradicts --like, which takes the counts of each matrix from a ticket; leave it out."
            for field in written
            if field in config.model_fields_set
        ]
    if config.weights_from != PRETRAINED and needs.other_weights:
        attempt(_check_weights, config.weights_from)
    if config.segments is not None:
        attempt(parse_segments, config.segments)
    if config.train_size is not None and ((terms and config.reads_corpus) or needs.corpus):
        attempt(check_countable, config.resolved().segments)
    if needs.corpus and config.corpus is None:
        problems.append(f"--method {config.method} needs --corpus: {_TEXTS}")
    if needs.structured:
        attempt(lambda: config.levels)
        problems += _unit_problems(config, terms)
    if needs.mask_training:
        filled = config.resolved()
        beyond = [step for step in config.save_at if not 1 <= step <= filled.total_steps]
        if beyond:
            problems.append(f"--save-at {beyond[0]} is outside the search of {filled.total_steps} steps.")
        problems += _memory_problems(config, filled, terms)
        if filled.clip != "none" and config.max_grad_norm == 0:
            problems.append("--max-grad-norm 0 would make all gradients zero; give a larger one, or --clip none.")
        if config.ranking == "row" and filled.reselect_steps > 1:
            problems.append(_no_thresholds("--ranking row", filled))
    if needs.mask_training or config.method == "imp":
        filled = config.resolved()
        if "attention" in terms and (filled.student_dropout or filled.teacher_dropout):
            problems.append(
                "The attention objective compares distributions, and dropout removes parts of them: give "
                "--student-dropout 0 and teacher_dropout: false in a --config file, or use --profile tuned."
            )
        if "contrastive" in terms:
            attempt(check_negatives, filled.segments, filled.batch_tokens)
            if distributed.world_size() > 1:
                problems.append(
                    "The contrastive objective compares all segments of a batch, and each of several processes has "
                    "some of them; search in one process, or with another objective."
                )
    if problems:
        raise UsageError(*dict.fromkeys(problems))


def _memory_problems(config: SearchConfig, filled: ResolvedSearch, terms: Mapping[str, float]) -> list[str]:
    """Return problems with the types of scores and moments, and with training one layer after the other."""
    problems = []
    short = {"--score-dtype": config.score_dtype, "--moment-dtype": config.moment_dtype}
    if filled.optimizer != "adamw":
        problems += [
            f"{option} {dtype} needs --optimizer adamw, and it is {filled.optimizer}."
            for option, dtype in short.items()
            if dtype != "float32"
        ]
    if not config.block_wise:
        return problems
    contradictions = {
        f"--objective {config.objective}, which needs the last layer; give kd": bool(terms) and set(terms) != {"kd"},
        "--kd-layers: each layer learns from its own output": bool(config.kd_layers),
        "several sparsities; give one": len(config.sparsities) > 1,
        "--ranking global, which compares all layers": config.ranking == "global",
        "--train-embeddings, which are no part of a layer": bool(filled.train_embeddings),
        "--score-init random; give activation, rank or plateau": filled.score_init == "random",
    }
    return problems + [f"--block-wise contradicts {what}." for what, found in contradictions.items() if found]


def _check_weights(text: str) -> None:
    try:
        parse_start(text)
    except UsageError as error:
        raise UsageError(f"--weights-from: {error}") from error


def _check_pattern(config: SearchConfig, text: str) -> None:
    """Refuse settings that contradict a pattern, which determines groups, counts and sparsity itself."""
    pattern, filled, problems = Pattern.parse(text), config.resolved(), []
    if config.sparsities != (pattern.sparsity,):
        found = ",".join(map(str, config.sparsities))
        problems.append(
            f"--sparsity {found} contradicts --pattern {text}, which removes {pattern.sparsity:.4g} of each group; "
            "leave --sparsity out."
        )
    if config.ranking != "matrix":
        problems.append(
            f"--ranking {config.ranking} contradicts --pattern {text}, whose groups are {pattern.of} consecutive "
            "weights; leave --ranking out."
        )
    if "embeddings" in filled.scope:
        problems.append(
            f"--scope {filled.scope} has word embeddings, and --pattern {text} is for matrices that multiply their "
            "input; use encoder or encoder+pooler."
        )
    if config.needs.mask_training and filled.reselect_steps > 1:
        problems.append(_no_thresholds(f"--pattern {text}", filled))
    if problems:
        raise UsageError(*problems)


def _no_thresholds(option: str, filled: ResolvedSearch) -> str:
    return (
        f"{option} selects at every step, and reselect_steps is {filled.reselect_steps} (profile "
        f"{filled.profile}); use another profile, or set reselect_steps: 1 in a --config file."
    )


def _unit_problems(config: SearchConfig, terms: Mapping[str, float]) -> list[str]:
    """Return problems with gates, or with the loss that importances are about."""
    problems = []
    if config.scope != "encoder":
        problems.append(f"--scope {config.scope} cannot be used with tickets of whole units, which prune the encoder.")
    if config.needs.gates:
        if config.profile != "tuned":
            problems.append(
                f"--profile {config.profile} is a recipe for masks of weights, and none of the papers trains gates; "
                "leave it out."
            )
        if config.score_init == "activation":
            problems.append("--score-init activation is about weights; for gates give rank, plateau or random.")
    elif len(terms) > 1:
        problems.append(f"Importance is about one loss, mlm, clm, kd or task, and the objective is {config.objective}.")
    elif "task" in terms and config.importance_from is None:
        problems.append(
            "Importance for a task needs a model fine-tuned on it: tickets transfer --save-model, then "
            "--importance-from RUN."
        )
    elif terms and "task" not in terms and config.importance_from is not None:
        problems.append(
            f"--objective {config.objective} contradicts --importance-from, which says what importances are about; "
            "give one of them."
        )
    elif terms and "task" not in terms and config.corpus is None:
        problems.append(
            f"Importance by {config.objective} needs --corpus: {_TEXTS[:-1]}. For that of a task give "
            "--importance-from RUN."
        )
    return problems


def _source_problems(config: SearchConfig, terms: Mapping[str, float]) -> list[str]:
    """Return problems with texts, tasks and rounds."""
    problems = []
    named = bool(config.tasks) or config.train_file is not None
    text = next((name for name in terms if name != "task"), None)
    if text is not None and config.corpus is None:
        problems.append(f"The objective {text} needs --corpus: {_TEXTS}")
    if "task" in terms and not named:
        problems.append(f"The objective task needs --task ({', '.join(TASKS)}; several with commas), or --train-file.")
    if terms and "task" not in terms and named:
        problems.append(
            f"The objective {config.objective} uses no task; write task, or {text}+task, or leave --task out."
        )
    problems += [str(unknown("task", name, TASKS)) for name in config.tasks if name not in TASKS]
    if config.method != "imp":
        return problems
    lengths = [f for f in ("round_steps", "round_epochs", "round_examples") if getattr(config, f) is not None]
    if len(lengths) > 1:
        options = " and ".join(map(config.option_of, lengths))
        problems.append(f"{options} contradict each other; give one of them.")
    if not lengths and text is not None:
        problems.append(
            "--method imp on text needs the length of a round: --round-steps, --round-epochs or --round-examples."
        )
    filled = config.resolved()
    if filled.prune_first and len(config.sparsities) == 1:
        why = "prune_first" if config.prune_first else f"--objective {config.objective}, which prunes first,"
        problems.append(
            f"{why} with one sparsity trains nothing; that is --method magnitude. Give several, such as 0.2,0.4,0.6."
        )
    try:
        policy = parse_rewind(filled.rewind)
    except UsageError as error:
        return [*problems, *error.lines]
    if policy.kind == "step" and config.round_steps is not None and policy.amount > config.round_steps:
        problems.append(f"--rewind {config.rewind} is after the first round, which has {config.round_steps} steps.")
    return problems
