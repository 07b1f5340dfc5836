"""The plan of each verb for `--dry-run`: what will run, and what could not be checked before the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from winning_tickets.cli.plan import Plan, PlannedModel, check_given, model_of
from winning_tickets.config import (
    EvaluateConfig,
    ExportConfig,
    FitHeadConfig,
    MeasureConfig,
    Runtime,
    SearchConfig,
    Settings,
    ShareConfig,
    ShrinkConfig,
    SuperConfig,
    TransferConfig,
)
from winning_tickets.config.mask_training import MaskTraining, ScoreTraining
from winning_tickets.config.objective import TEXT_NAMES
from winning_tickets.config.search import (
    CalibratedSearch,
    CountedSearch,
    ObjectiveSearch,
    TeacherSearch,
    TextSearch,
    TrainingSearch,
    WeightSearch,
)
from winning_tickets.config.settings import count_of
from winning_tickets.config.structured import ImportanceSearch
from winning_tickets.config.weight_training import ImpSearch, SourceSearch
from winning_tickets.data.records import Task
from winning_tickets.report.costs import TASK_SIZES, UNKNOWN_TASK, Cost, ModelSize, cost_of, size_of

if TYPE_CHECKING:
    from winning_tickets.config.transfer import ResolvedTransfer
    from winning_tickets.data.outlook import Outlook
    from winning_tickets.models.loading import Head


def plan_measure(config: MeasureConfig) -> dict[str, Any]:
    """Check the model and the numbers of a measurement; return what would be measured."""
    from winning_tickets.deploy.measure import check_lengths

    model = model_of(Plan(Settings()), config.target, config.base, config.revision, layers=config.layers, onnx=True)
    if model.plm is not None:
        check_lengths(model.plm, config.lengths)
    return config.model_dump(include={"target", "batches", "lengths", "threads", "repeats"})


def plan_export(config: ExportConfig) -> dict[str, Any]:
    """Check the settings of an export, and that there is something to export; return what would be exported."""
    from winning_tickets.deploy.export import check_export
    from winning_tickets.runs.hub import local, may_be_id
    from winning_tickets.training.saved_model import find_model
    from winning_tickets.training.source import FineTunedSource, TicketSource

    folder = local(config.target)
    on_the_hub = not Path(folder).is_dir() and ("/" not in folder or may_be_id(folder))
    source = check_export(config, on_the_hub=on_the_hub)
    if not on_the_hub and not isinstance(source, TicketSource | FineTunedSource):
        find_model(folder)  # which says what is missing
    return config.model_dump(include={"target", "format"})


def plan_search(config: SearchConfig, runtime: Runtime) -> Plan:
    """Plan a search: check its text and tasks, and count its steps and rounds."""
    from winning_tickets.pruning.memory import planned_memory
    from winning_tickets.pruning.search import check_execution
    from winning_tickets.tickets.ticket import Ticket
    from winning_tickets.training.objectives.terms import lm_head_of, needs_lm_head

    settings = config.resolved()
    check_execution(config, runtime)
    off = _switched_off(settings)
    plan = Plan(settings, facts=planned_memory(settings, runtime), reads=lambda name: name not in off)
    terms = [name for name in settings.terms if name != "task"]
    model = model_of(
        plan,
        settings.model,
        revision=settings.revision,
        layers=settings.layers,
        head=lm_head_of(terms),
        require_mlm_head=needs_lm_head(terms),
    )
    if isinstance(settings, CountedSearch):
        check_given(plan, "--like", settings.like, Ticket.from_pretrained)
    plan.add("model", model.words)
    objective = f", objective {settings.objective}" if isinstance(settings, ObjectiveSearch) and settings.terms else ""
    plan.add("method", settings.method + objective)
    plan.numbers["method"] = settings.method
    if isinstance(settings, WeightSearch):
        plan.add("sparsity", _levels(settings), sparsities=list(settings.sparsities))
    if isinstance(settings, TextSearch) and settings.reads_corpus:
        _check_corpus(plan, settings.corpus, "train", settings.data_dir)
        model.check_segments(settings.segments, settings.batch_tokens)
        plan.add("corpus", f"{settings.corpus}, segments {settings.segments}, {settings.batch_tokens:,} tokens a batch")
        plan.numbers |= {"segments": settings.segments, "batch_tokens": settings.batch_tokens}
    cost = cost_of(settings, model.size)
    if isinstance(settings, SourceSearch):
        _add_training(plan, settings, round(cost.steps), model)
    elif isinstance(settings, ScoreTraining):
        _add_score_training(plan, settings)
        plan.add("learning_rate", _rate(settings.learning_rate, model), learning_rate=settings.learning_rate)
    elif isinstance(settings, ImportanceSearch) and settings.terms:
        if settings.importance_from is None:
            steps = settings.steps
            plan.add("steps", f"{steps:,} batches over which gradients are summed", total_steps=steps)
    elif isinstance(settings, CalibratedSearch):
        plan.add("calibration_batches", f"{settings.calibration_batches} (no training)", total_steps=0)
    else:
        plan.add("steps", "none: the weights alone decide", total_steps=0)
    plan.estimate(cost, model.size, bf16=runtime.bf16)
    return plan


def _switched_off(settings: SearchConfig) -> set[str]:
    """Return the fields that a method reads only with others, or that the table names in other rows."""
    terms, found = settings.terms, {"objective", "scope"}
    if isinstance(settings, TextSearch) and not settings.reads_corpus:
        found |= {"segments", "batch_tokens"}
    if not str(getattr(settings, "segments", None)).startswith("sections"):
        found.add("short_sequence_probability")
    if "mlm" not in terms:
        found.add("mlm_probability")
    needed: dict[str, bool] = {}
    if isinstance(settings, TeacherSearch):
        needed |= {
            "temperature": "contrastive" in terms,
            "logits_temperature": "logits" in terms,
            "kd_padding": "kd" in terms,
        }
    if isinstance(settings, ScoreTraining):
        needed |= {
            "head_learning_rate": "mlm" in terms,
            "kd_masked_tokens": "mlm" not in terms,
            "calibration_batches": settings.score_init == "activation",
            "alpha": settings.score_init in ("plateau", "random"),
            "max_grad_norm": settings.clip != "none",
        }
    if isinstance(settings, SourceSearch):
        needed |= {
            "mixing": len(settings.tasks) + bool(settings.text_terms) > 1,
            "label_column": settings.train_file is not None,
            "group_by_length": "task" in terms,
        }
    return found | {name for name, is_read in needed.items() if not is_read}


def _levels(settings: WeightSearch) -> str:
    levels = ", ".join(f"{100 * one:g} %" for one in settings.sparsities)
    return f"{levels} of {settings.scope}" + (", one ticket each" if len(settings.sparsities) > 1 else "")


def _add_score_training(plan: Plan, settings: ScoreTraining) -> None:
    """Add the steps of the training of masks, or of the gates of each level."""
    steps, more = settings.total_steps, ""
    if isinstance(settings, MaskTraining) and len(settings.sparsities) > 1:
        more = f" ({settings.first_steps}, then {settings.steps_of_a_rung} for each further level)"
    elif not isinstance(settings, MaskTraining):
        steps *= len(settings.rungs)
    plan.add("steps", f"{steps:,}{more}", total_steps=steps)


def _add_training(plan: Plan, settings: SourceSearch, estimated: int, model: PlannedModel) -> None:
    """Add the tasks, the steps and the learning rate of a method that learns from text and tasks."""
    from winning_tickets.pruning.sources import TEXT_LEARNING_RATE

    tasks = _tasks_of_search(plan, settings)
    if isinstance(settings, ImpSearch):
        _add_rounds(plan, settings, estimated)
    else:
        moves = isinstance(settings, TrainingSearch)
        what = "optimizer steps" if moves else "batches over which gradients are summed"
        plan.add("steps", f"{settings.source_steps:,} {what}", total_steps=settings.source_steps)
    if isinstance(settings, TrainingSearch):
        rate = settings.learning_rate or TEXT_LEARNING_RATE
        if settings.learning_rate is None and tasks and not settings.text_terms:
            steps = plan.numbers.get("round_steps", settings.source_steps)
            rate = tasks[0].peak_rate(settings.profile, model.size.width, steps)
        plan.add("learning_rate", _rate(rate, model), learning_rate=rate)


def _tasks_of_search(plan: Plan, settings: SourceSearch) -> list[Task]:
    from winning_tickets.data.outlook import outlook_of_files, outlook_of_task

    if "task" not in settings.terms:
        return []
    found = {name: outlook_of_task(name, settings.data_dir) for name in settings.tasks}
    if settings.train_file is not None:
        file, columns, label = settings.train_file, settings.text_columns, settings.label_column
        found[file] = outlook_of_files(file, file, columns, label, kind=settings.kind)
    for name, outlook in found.items():
        plan.unchecked += outlook.unchecked
        count = "an unknown number of" if outlook.train is None else f"{outlook.train:,}"
        plan.add(f"task {name}" if len(found) > 1 else "task", f"{name}, {count} training examples")
    return [outlook.task or Task(name, (), (), ()) for name, outlook in found.items()]


def _add_rounds(plan: Plan, settings: ImpSearch, estimated: int) -> None:
    """Add the rounds of iterative pruning; their length follows from the data where it is not given in steps."""
    rounds = len(settings.sparsities) - bool(settings.prune_first)
    known = settings.round_steps is not None
    steps = settings.round_steps or max(1, round(estimated / max(1, rounds)))
    total, about = rounds * steps, "" if known else "about "
    words = f"{rounds} of {about}{steps:,} steps each, {about}{total:,} in all; rewinds to {settings.rewind}"
    if rounds == 1:
        words = f"1 of {about}{steps:,} steps"
    plan.add("rounds", words, rounds=rounds, round_steps=steps, total_steps=total, steps_are_estimated=not known)
    if (advice := settings.advice_on_rounds) is not None:
        plan.remarks.append(advice)


def _rate(rate: float, model: PlannedModel) -> str:
    return f"{rate:.3g} at its peak" + (" (if the width of the model was guessed right)" if model.plm is None else "")


def plan_transfer(config: TransferConfig, runtime: Runtime) -> Plan:
    """Plan a fine-tuning: check the task's data, and compute steps and learning rate."""
    from winning_tickets.training.saved_model import find_model

    plan = Plan(config, config.resolved(), reads=lambda name: _is_read(config, name))
    head: Head = cast("Head", config.task) if config.task in TEXT_NAMES else "none"
    model = model_of(plan, config.target, config.base, config.revision, layers=config.layers, head=head)
    check_given(plan, "--teacher", config.teacher, find_model)
    plan.add("target", model.words)
    plan.estimate(_add_fine_tuning(plan, config, model), model.size, bf16=runtime.bf16)
    return plan


def _is_read(config: TransferConfig, name: str) -> bool:
    """Return whether a fine-tuning reads a setting, which others may switch off."""
    if name in ("train_file", "validation_file", "text_columns", "label_column", "metric", "kind", "drop_unlabelled"):
        return config.task is None
    needed = {"mnli_dev": config.task == "mnli", "select_on_seed": bool(config.select_on)}
    needed |= dict.fromkeys(("teacher_weight", "teacher_states"), config.teacher is not None)
    return needed.get(name, True)


def _add_fine_tuning(plan: Plan, config: TransferConfig, model: PlannedModel) -> Cost:
    """Add the rows of fine-tuning on one task, and return what it costs."""
    from winning_tickets.data.outlook import Outlook
    from winning_tickets.data.tasks import TEXT_TASKS
    from winning_tickets.training.task_data import inspect_data

    settings = config.resolved()
    if config.task in TEXT_TASKS:
        outlook = Outlook(TEXT_TASKS[str(config.task)])
        _check_corpus(plan, config.corpus, "train", config.data_dir)
        plan.add("corpus", str(config.corpus))
    else:
        outlook = inspect_data(config)
    plan.unchecked += outlook.unchecked
    plan.remarks += outlook.remarks
    task = outlook.task or Task("", (), (), ())
    _add_data(plan, config, outlook)
    batch, length = config.batch_size or task.batch_size, model.cut(config.max_length, task)
    plan.add("batch_size", f"{batch} examples of at most {length} tokens", batch_size=batch, max_length=length)
    timed = []
    for one in (candidate.resolved() for candidate in config.candidates().values()):
        steps, epochs = _steps(plan, one, outlook, task, batch=batch, model=model.size)
        rate = one.learning_rate or task.peak_rate(config.profile, model.size.width, steps, model.sparsity)
        timed.append((one.model_copy(update={"steps": steps, "epochs": None}), f"{steps:,}{epochs}", rate))
    steps_of, rates = [one.steps for one, *_ in timed], list(dict.fromkeys(rate for *_, rate in timed))
    words = " or ".join(dict.fromkeys(words for _, words, _ in timed))
    plan.add("steps", words, steps=max(steps for steps in steps_of if steps))
    words = " or ".join(_rate(rate, model) for rate in rates)
    plan.add("learning_rate", f"{words}, then linearly to zero", learning_rate=rates[0] if len(rates) == 1 else rates)
    if config.chosen_fields:
        chosen = " and ".join(field.replace("_", " ") for field in config.chosen_fields)
        part = f"{config.select_on:.0%} of the dev set, by the mean over the seeds, and scores are those of the rest"
        plan.add("candidates", f"{len(timed)}, of which {chosen} are chosen on {part}", candidates=len(timed))
    seeds = ",".join(map(str, config.seeds))
    plan.add("seeds", f"{seeds} ({len(config.seeds)} runs)" if len(config.seeds) > 1 else seeds)
    every = config.eval_steps or (None if config.patience else task.eval_steps)
    each = " and after each epoch" if settings.evaluate_each_epoch else ""
    plan.add("evaluations", f"every {every} steps{each}" if every else "after each epoch", eval_steps=every)
    known = TASK_SIZES.get(str(config.task), UNKNOWN_TASK)
    sizes = {"train": outlook.train, "validation": outlook.validation}
    data = known._replace(**{part: count for part, count in sizes.items() if count})
    return Cost().plus(*(cost_of(one, model.size, data) for one, *_ in timed))


def _add_data(plan: Plan, config: TransferConfig, outlook: Outlook) -> None:
    name = config.task or "your files"
    task = outlook.task
    words = [name if task is None or task.kind == "classification" else f"{name} ({task.kind})"]
    if outlook.train is not None:
        words.append(f"{outlook.train:,} training and {outlook.validation or 0:,} validation examples")
        plan.numbers |= {"train_examples": outlook.train, "validation_examples": outlook.validation}
    if config.task is None and task is not None:
        classes = f"{len(task.labels)} classes ({', '.join(task.labels[:4])}{' ...' if len(task.labels) > 4 else ''})"
        words += [classes] if task.labels else []
        words += [f"texts in {' and '.join(task.text_columns)}", f"metric {task.metrics[0]}"]
    plan.add("task", ", ".join(words))


def _steps(
    plan: Plan, config: ResolvedTransfer, outlook: Outlook, task: Task, *, batch: int, model: ModelSize
) -> tuple[int, str]:
    """Return the optimizer steps of a run, and how they follow from epochs, in words."""
    if config.steps is not None:
        return config.steps, ""
    epochs = config.epochs or task.epochs
    plan.numbers |= {"epochs": epochs}
    if outlook.train is not None and task.kind != "span":
        size = config.train_size or task.train_size
        examples = outlook.train if size is None else count_of(size, outlook.train)
        per_epoch = math.ceil(examples / batch)
        return math.ceil(epochs * per_epoch), f" ({epochs:g} epochs of {per_epoch:,})"
    known = str(config.task) in TASK_SIZES or config.corpus is not None
    plan.numbers |= {"steps_are_estimated": True}
    steps = max(1, round(cost_of(config, model).steps / len(config.seeds)))
    basis = "the usual size of its data" if known else "1,000 examples, as the size of the data is not known"
    return steps, f" or so ({epochs:g} epochs, by {basis})"


def plan_evaluate(config: EvaluateConfig, runtime: Runtime) -> Plan:
    """Plan an evaluation: check its text and pairs."""
    from winning_tickets.data.outlook import outlook_of_files, outlook_of_task
    from winning_tickets.evaluation.evaluate import head_for, reads_head_of_base

    plan = Plan(config)
    model = model_of(
        plan,
        config.target,
        config.base,
        config.revision,
        layers=config.layers,
        head=head_for(config),
        onnx=True,
        require_mlm_head=reads_head_of_base(config),
    )
    plan.add("target", model.words)
    plan.add("objectives", ", ".join(config.objectives))
    if config.corpus is not None:
        _check_corpus(plan, config.corpus, config.split, config.data_dir)
        if set(config.objectives) - {"perplexity", "similarity"}:
            model.check_segments(config.segments, config.batch_tokens)
        limit = "all" if config.max_tokens is None else f"at most {config.max_tokens:,}"
        plan.add("corpus", f"{config.corpus}, segments {config.segments}, {limit} tokens of the {config.split} part")
    if config.pairs_file is not None:
        pairs = outlook_of_files(config.pairs_file, config.pairs_file, None, "score", metric="pearson")
        plan.unchecked += pairs.unchecked
        plan.add("pairs_file", f"{config.pairs_file}" + ("" if pairs.train is None else f", {pairs.train:,} pairs"))
    elif config.task is not None:
        plan.unchecked += outlook_of_task(config.task, config.data_dir).unchecked
    plan.estimate(cost_of(config, model.size), model.size, bf16=runtime.bf16)
    return plan


def plan_fit_head(config: FitHeadConfig, runtime: Runtime) -> Plan:
    """Plan the training of an MLM head: check its text."""
    from winning_tickets.finetuning.fit_head import check_headless

    plan = Plan(config)
    model = model_of(plan, config.model, revision=config.revision, layers=config.layers, head="mlm")
    plan.add("model", model.words)
    _check_corpus(plan, config.corpus, "train", config.data_dir)
    if model.plm is not None:
        check_headless(model.plm)
    model.check_segments(config.segments, config.batch_tokens)
    words = f"{config.corpus}, segments {config.segments}, {config.batch_tokens:,} tokens a batch"
    plan.add("corpus", words, batch_tokens=config.batch_tokens)
    plan.add("steps", f"{config.steps:,}", steps=config.steps)
    plan.add("learning_rate", f"{config.learning_rate:g} at its peak", learning_rate=config.learning_rate)
    plan.estimate(cost_of(config, model.size), model.size, bf16=runtime.bf16)
    return plan


def plan_share(config: ShareConfig, runtime: Runtime) -> Plan:
    """Plan a sharing: check the data of each task."""
    from winning_tickets.training.task_data import inspect_data

    settings = config.resolved()
    plan = Plan(config, settings)
    size = size_of(str(config.model))
    if config.model is not None:
        model = model_of(plan, config.model, revision=config.revision, layers=config.layers)
        plan.add("model", model.words)
        size = model.size
    per_epoch, counted = 0, True
    for name in config.tasks:
        outlook = inspect_data(settings.alone(config.model or "", name, None))
        plan.unchecked += outlook.unchecked
        plan.remarks += outlook.remarks
        task = outlook.task or Task(name, (), (), ())
        count = f"{outlook.train:,} training examples" if outlook.train is not None else "of the usual size"
        plan.add(f"task {name}", f"{count}, batches of {config.batch_size or task.batch_size}")
        examples = outlook.train or TASK_SIZES.get(name, UNKNOWN_TASK).train
        counted &= outlook.train is not None
        if config.train_size is not None:
            examples = count_of(config.train_size, examples)
        per_epoch += math.ceil(examples / (config.batch_size or task.batch_size))
    steps = config.steps or math.ceil(settings.epochs * per_epoch)
    about = "" if counted or config.steps else "about "
    epochs = "" if config.steps else f" ({settings.epochs:g} epochs over all tasks)"
    plan.add("steps", f"{about}{steps:,}{epochs}", steps=steps, steps_are_estimated=bool(about))
    plan.add("seeds", ",".join(map(str, config.seeds)))
    plan.estimate(cost_of(config, size), size, bf16=runtime.bf16)
    return plan


def plan_super(config: SuperConfig, runtime: Runtime) -> Plan:
    """Plan the search for a super ticket: check its data, and count its many trainings."""
    from winning_tickets.finetuning.super_ticket import count_trainings

    settings = config.resolved()
    plan = Plan(settings, reads=lambda name: name != "fine_tuning")
    fine_tuning = config.fine_tuning
    model = model_of(plan, fine_tuning.target, revision=fine_tuning.revision, layers=fine_tuning.layers)
    plan.add("model", model.words)
    _add_fine_tuning(plan, fine_tuning, model)
    trainings = count_trainings(settings)
    plan.facts["trainings"] = trainings
    if fine_tuning.task in TASK_SIZES or "train_examples" in plan.numbers:
        timed = {"fine_tuning": fine_tuning.model_copy(update={"steps": plan.numbers["steps"], "epochs": None})}
        plan.estimate(cost_of(settings.model_copy(update=timed), model.size), model.size, bf16=runtime.bf16)
        plan.facts["minutes"] = plan.rows["minutes"]
    return plan


def plan_shrink(config: ShrinkConfig, runtime: Runtime) -> Plan:
    """Plan the shrinking of a model: check its texts, and compute what each budget leaves."""
    from winning_tickets.data.outlook import outlook_of_files, outlook_of_task
    from winning_tickets.data.user_files import load_texts
    from winning_tickets.finetuning.shrink import plan_shrink as arithmetic

    settings, facts = arithmetic(config)
    plan = Plan(settings, facts=facts)
    model = model_of(plan, config.model, revision=config.revision)
    plan.add("model", model.words)
    if config.corpus is not None:
        _check_corpus(plan, config.corpus, "train", config.data_dir)
        plan.add("corpus", config.corpus)
    if config.train_file is not None:
        (texts, *_) = load_texts(config.train_file, config.text_columns)
        plan.add("train_file", f"{config.train_file}, {len(texts):,} texts")
    if config.pairs_file is not None:
        plan.unchecked += outlook_of_files(
            config.pairs_file, config.pairs_file, None, "score", metric="pearson"
        ).unchecked
    if config.task is not None:
        plan.unchecked += outlook_of_task(config.task, config.data_dir).unchecked
    if settings.most_steps is None:
        plan.add("minutes", f"{settings.minutes:g} for the recovery of each model, after measurements")
    else:
        plan.estimate(cost_of(settings, model.size), model.size, bf16=runtime.bf16)
    return plan


def _check_corpus(plan: Plan, corpus: str | None, split: Any, data_dir: str | None) -> None:
    from winning_tickets.data.outlook import unchecked_corpus

    plan.unchecked += unchecked_corpus(corpus, split, data_dir)
