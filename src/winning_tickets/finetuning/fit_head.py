"""Training of an MLM head on an encoder that has none, saved as an ordinary ForMaskedLM folder."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from winning_tickets.config import EvaluateConfig, FitHeadConfig, Runtime
from winning_tickets.data.batches import CorpusBatches, count_tokens
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.segments import parse_segments
from winning_tickets.data.token_cache import TokenStream
from winning_tickets.evaluation.evaluate import average_terms, evaluate, exponential
from winning_tickets.models.device import choose_device
from winning_tickets.models.loading import PLM, base_hash, load_plm, outside_encoder, set_dropout, weight_hashes
from winning_tickets.pruning.mask_training import freeze_all_but
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import HEAD_MARKER, RunDirectory
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError, problems_of, refuse
from winning_tickets.runs.files import build_directory
from winning_tickets.runs.identity import run_id
from winning_tickets.runs.progress import progress
from winning_tickets.runs.provenance import versions
from winning_tickets.tickets.cards import model_facts, results_of, write_card
from winning_tickets.tickets.masking import modes
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.terms import check_mlm_tokenizer
from winning_tickets.training.optimizers import decay_groups
from winning_tickets.training.saved_model import save_folder
from winning_tickets.training.trainer import (
    Callback,
    Checkpoints,
    StepLog,
    TicketTrainer,
    run_training,
    trainer_arguments,
)

COUNTED_AT_ONCE = 2**22  # number of tokens of the corpus on disk that are in memory at a time


@distributed.together()
def fit_head(
    config: FitHeadConfig, out: Path | str, runtime: Runtime | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Train an MLM head on an encoder that has none, and save both in `out`; see `api.verbs.fit_head`.

    Without `train_encoder` the encoder stays the same bit for bit, so tickets of the given model fit the saved model,
    and vice versa.
    """
    runtime = runtime or Runtime()
    check_fit_head(config)
    # The saved model is measured. The trained model is freed when `_fit` returns, because two models need more memory.
    with ExitStack() as stack:
        run, result = _fit(config, Path(out), runtime, force=force, stack=stack)
        if run.status != "done":
            final = distributed.on_main(lambda: evaluate(_evaluation(config, str(run.path)), runtime))
            measured = {"measured_tokens": final["tokens"], "measured_segments": final["segments"]}
            result |= {"final": _quality(final), **measured}
            facts = model_facts("mlm-head", config.model, None, model_class="ForMaskedLM") | {"data": config.corpus}
            distributed.on_main(lambda: write_card(run.path, facts, results_of(final)))
            run.finish(result)
    return result


def check_fit_head(config: FitHeadConfig) -> None:
    """Refuse settings that contradict each other, with all problems at once, before anything is loaded."""
    problems = []
    if config.corpus is None:
        problems.append("fit-head needs --corpus: pydocs, wikitext-103, task:NAME, a text file or a folder.")
    if config.warmup > config.steps:
        problems.append(f"--warmup-steps {config.warmup} is more than the {config.steps} steps of the run.")
    refuse(problems + problems_of(lambda: parse_segments(config.segments)))


def _with_fresh_head(config: FitHeadConfig) -> PLM:
    """Return the model with a head initialized from the seed; the global random generators stay unchanged."""
    with torch.random.fork_rng(devices=[]):  # the model is created on the CPU
        torch.default_generator.manual_seed(config.seed)
        plm = load_plm(config.model, head="mlm", revision=config.revision, layers=config.layers)
    check_headless(plm)
    check_mlm_tokenizer(plm.tokenizer, plm.name)
    return plm


def check_headless(plm: PLM) -> None:
    """Refuse a model that has a trained MLM head."""
    if plm.has_mlm_head:
        word = shlex.quote(plm.name)
        raise UsageError(f"{plm.name} has a trained MLM head; see tickets evaluate {word} --objective mlm.")


def start_from_unigrams(plm: PLM, stream: TokenStream) -> None:
    """Set the decoder's bias to the log frequencies of the corpus, so that these need not be learned first."""
    bias = plm.model.get_submodule(plm.architecture.lm_decoder).bias
    if bias is None:  # ModernBERT may be configured without it
        return
    counts = np.ones(bias.numel())  # add-one smoothing: the logarithm of zero would be infinite
    for start in range(0, stream.n_tokens, COUNTED_AT_ONCE):
        counts += np.bincount(stream.tokens[start : start + COUNTED_AT_ONCE], minlength=counts.size)
    with torch.no_grad():
        bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))


def _fit(
    config: FitHeadConfig, out: Path, runtime: Runtime, *, force: bool, stack: ExitStack
) -> tuple[RunDirectory, dict[str, Any]]:
    """Train and save the model; return its run, entered in `stack`, and the result so far (complete if it was done)."""
    device = choose_device(runtime.device)
    corpus = load_corpus(str(config.corpus), "train", config.data_dir)
    plm = _with_fresh_head(config)
    # Both kinds of batches may refuse the settings, so they are made before --out is created.
    batches = CorpusBatches.read(
        corpus,
        plm.tokenizer,
        segments=config.segments,
        batch_tokens=config.batch_tokens,
        n_batches=config.steps,
        seed=config.seed,
        shuffle=True,
        mlm_probability=config.mlm_probability,
    )
    validation = _validation(config, plm)
    # The run id contains the encoder's weights and the corpus.
    base = base_hash(weight_hashes(plm.encoder))
    identity = run_id(config, f"fit-head-{Path(config.model).name}", base=base, corpus=corpus.fingerprint)
    settings = config.model_dump(mode="json")
    run = stack.enter_context(RunDirectory.claim(out, "fit-head", identity, settings, force=force, marker=HEAD_MARKER))
    if run.status == "done":
        return run, run.result()
    # The quality before and after training is measured on the same text.
    start_from_unigrams(plm, batches.stream)
    plm.model.to(device)

    def measure() -> dict[str, float | None]:
        with modes(plm.model, training=False), torch.no_grad():
            return _quality(average_terms(plm, None, validation, ["mlm"], device=device, runtime=runtime))

    start = distributed.on_main(measure)
    _train(config, plm, batches, run, runtime=runtime, measure=measure)
    distributed.on_main(lambda: _save(plm, run))
    return run, {
        "verb": "fit-head",
        "run_id": identity,
        "model": config.model,
        "corpus": config.corpus,
        "steps": config.steps,
        "tokens_seen": sum(int(count_tokens(batches[step])) for step in range(len(batches))),
        "train_encoder": config.train_encoder,
        "trained_parameters": sum(p.numel() for p in plm.model.parameters() if p.requires_grad),
        "start": start,
        "base_hash": base_hash(weight_hashes(plm.encoder)),
        "versions": versions(),
    }


class _Evaluations(Callback):
    """Logs the quality on the validation part at regular steps; the quality after the last step is the result."""

    def __init__(self, every: int, measure: Callable[[], dict[str, float | None]], run: RunDirectory) -> None:
        self._every, self._measure, self._run = every, measure, run

    def on_step_end(self, trainer: TicketTrainer) -> None:
        if trainer.step % self._every == 0 and trainer.step < trainer.max_steps:
            self._run.log({"step": trainer.step, "validation": distributed.on_main(self._measure)})


def _train(
    config: FitHeadConfig,
    plm: PLM,
    batches: CorpusBatches,
    run: RunDirectory,
    *,
    runtime: Runtime,
    measure: Callable[[], dict[str, float | None]],
) -> None:
    # No dropout: a frozen encoder must give the hidden states that it gives later, and a trained encoder sees too
    # little text to overfit.
    set_dropout(plm.model, 0.0)
    # The head and the encoder have learning rates of their own; without `train_encoder` the encoder is frozen.
    head = list(outside_encoder(plm.model).values())
    encoder = [parameter for name, parameter in plm.encoder.named_parameters() if "pooler." not in name]
    freeze_all_but(plm.model, head + (encoder if config.train_encoder else []))
    groups = [group | {"lr": config.learning_rate} for group in decay_groups(head, config.weight_decay)]
    if config.train_encoder:
        rate = {"lr": config.encoder_learning_rate}
        groups += [group | rate for group in decay_groups(encoder, config.weight_decay)]
    with progress("fitting an MLM head", config.steps, quiet=runtime.quiet) as advance:
        evaluations = [] if config.eval_steps is None else [_Evaluations(config.eval_steps, measure, run)]
        trainer = TicketTrainer(
            model=plm.model,
            objective=PretrainingObjective({"mlm": 1.0}, plm.architecture),
            build_optimizer=lambda _: torch.optim.AdamW(groups, fused=True),
            args=trainer_arguments(
                run.scratch,
                runtime,
                max_steps=config.steps,
                learning_rate=config.learning_rate,
                warmup_steps=config.warmup,
                max_grad_norm=1.0,
                seed=config.seed,
            ),
            batches=batches,
            callbacks=[StepLog(run, advance), *evaluations, Checkpoints(runtime)],
        )
        run_training(trainer, run)


def _evaluation(config: FitHeadConfig, target: str) -> EvaluateConfig:
    segments = "packed:128" if config.segments.startswith("mixed") else config.segments
    return EvaluateConfig(
        target=target,
        objectives=("mlm",),
        corpus=config.corpus,
        data_dir=config.data_dir,
        segments=segments,
        max_tokens=config.measured_tokens,
    )


def _validation(config: FitHeadConfig, plm: PLM) -> CorpusBatches:
    """Return the text on which `tickets evaluate` will measure the saved model."""
    asked = _evaluation(config, config.model)
    corpus = load_corpus(str(asked.corpus), "validation", asked.data_dir)
    return CorpusBatches.read(
        corpus,
        plm.tokenizer,
        segments=asked.segments,
        batch_tokens=asked.batch_tokens,
        n_batches=None,
        seed=asked.seed,
        shuffle=False,
        mlm_probability=0.15,
        max_tokens=asked.max_tokens,
    )


def _quality(measured: dict[str, Any]) -> dict[str, float | None]:
    loss = float(measured["mlm_loss"])
    if not math.isfinite(loss):
        raise TrainingError(
            f"The MLM loss on the validation part is {loss}; lower --learning-rate, or use another model if it was not "
            "trained yet."
        )
    return {"mlm_loss": loss, "perplexity": exponential(loss), "mlm_accuracy": float(measured["mlm_accuracy"])}


def _save(plm: PLM, run: RunDirectory) -> None:
    """Save the model, check it, and move it into the run's folder; `config.json`, which marks a model, comes last."""
    staging = run.scratch / "model"
    shutil.rmtree(staging, ignore_errors=True)  # left by an earlier attempt that was killed while it saved
    build_directory(staging, lambda folder: save_folder(plm.model, plm.tokenizer, folder, _pooler(plm)))
    again = load_plm(str(staging), head="mlm", require_mlm_head=True).model.state_dict()
    lost = [name for name, value in plm.model.state_dict().items() if not torch.equal(value.cpu(), again[name])]
    if lost:
        raise ContentError(f"The weights in {staging} are not those that were trained, for example {lost[0]}.")
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(run.path / path.name)


def _pooler(plm: PLM) -> dict[str, torch.Tensor]:
    """Return the checkpoint's own pooler, which ForMaskedLM lacks, so that a task head that uses it can load it."""
    if plm.architecture.pooler is None:
        return {}
    plain = load_plm(plm.name, revision=plm.revision, layers=plm.layers, with_tokenizer=False)
    if not plain.has_pooler:
        return {}
    prefix = plm.model.base_model_prefix
    parameters = plain.encoder.named_parameters()
    return {f"{prefix}.{name}": value.detach() for name, value in parameters if name.startswith("pooler.")}
