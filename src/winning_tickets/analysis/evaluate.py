"""Evaluation of a ticket without fine-tuning: losses of the pre-training objectives, zero-shot similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from winning_tickets.config import EvaluateConfig, Runtime
from winning_tickets.data.batches import CorpusBatches, without_masks
from winning_tickets.data.corpora import load_corpus
from winning_tickets.models.loading import (
    PLM,
    base_hash,
    choose_device,
    head_without_decoder,
    load_mlm_head,
    untie_decoder,
    weight_hashes,
)
from winning_tickets.models.twin import make_twin
from winning_tickets.runs.errors import UsageError, unknown
from winning_tickets.runs.progress import progress
from winning_tickets.runs.provenance import versions
from winning_tickets.tickets.masking import MaskedWeights, modes
from winning_tickets.tickets.target import Target
from winning_tickets.training.objectives import terms as objective_terms
from winning_tickets.training.objectives.base import TermSettings
from winning_tickets.training.objectives.pretraining import PretrainingObjective, check_attention_maps
from winning_tickets.training.objectives.terms import TERMS, needs_mlm_head, needs_of, needs_teacher

EVALUATIONS = (*TERMS, "similarity")

_SAME_COSINE = 1e-6
"""Cosines in float32 that differ by less differ by rounding, and so would their correlation."""


def evaluate(config: EvaluateConfig, runtime: Runtime | None = None) -> dict[str, Any]:
    """Measure the losses of a model or a ticket, or its zero-shot similarity.

    KD loss: 1 - cosine of hidden states, averaged over layers and unpadded tokens (TAMT eq. 6), or as the fields of
    the configuration that begin with `kd_` set it. MLM loss: cross entropy at masked positions with the dense decoder.
    Attention, contrastive and logits losses: see docs/explanation/objectives.md. Similarity: cosine of mean-pooled
    states against gold scores.

    Args:
        config: target, objectives and data.
        runtime: device and precision.

    Returns:
        `kd_loss`, `mlm_loss`, `mlm_accuracy`, `attention_loss`, `contrastive_loss`, `logits_loss`,
        `similarity_pearson`, `similarity_spearman` (None where not measured), `tokens` (scored tokens) and the settings
        of the measurement.

    Raises:
        UsageError: unknown objective, missing corpus or task, no MLM head, no attention maps, no room for two segments
            in a batch of the contrastive loss.
        ContentError: a damaged ticket, one for other weights, an unusable corpus.
    """
    runtime = runtime or Runtime()
    check_evaluate(config)
    # Load the model with the head and the kind of attention that the objectives need.
    device = choose_device(runtime.device)
    target = Target.find(config.target, config.base, config.revision, config.layers)
    terms = _terms(config)
    needs_mlm, needs_maps = needs_mlm_head(terms), "attentions" in needs_of(terms)
    plm = target.load(
        "mlm" if needs_mlm else "none",
        # The dense model's logits always come from the base's own head.
        require_mlm_head=needs_mlm and (config.mlm_head != "ticket" or "logits" in terms),
        attention="eager" if needs_maps else None,
    )
    if needs_maps:
        check_attention_maps(plm.model)
    base = base_hash(weight_hashes(plm.encoder))  # of the dense weights, before the ticket is put on
    head, teacher = _put_on(target, plm, config, device)
    # Measure; objectives that were not given keep None.
    keys = (*(f"{name}_loss" for name in TERMS), "mlm_accuracy", "similarity_pearson", "similarity_spearman", "tokens")
    result: dict[str, Any] = dict.fromkeys(keys)
    with modes(plm.model, training=False), torch.no_grad():
        if terms:
            result |= _on_corpus(config, plm, teacher, device, runtime)
        if "similarity" in config.objectives:
            result |= similarity(config, plm, device, runtime)
    ticket = target.ticket
    return result | {
        "target": config.target,
        "model": target.model,
        "sparsity": 0.0 if ticket is None else ticket.sparsity,
        "ticket_id": None if ticket is None else ticket.id,
        "base_hash": base,
        "method": None if ticket is None else ticket.info.method,
        "search_objective": None if ticket is None else ticket.info.config.get("objective"),
        "mlm_head": head if needs_mlm else None,
        "kd_distance": config.kd_loss if "kd" in config.objectives else None,
        "kd_padding": config.kd_padding if "kd" in config.objectives else None,
        "kd_masked_tokens": config.kd_masked_tokens if "kd" in config.objectives else None,
        "temperature": config.temperature if "contrastive" in terms else None,
        "batch_tokens": config.batch_tokens if "contrastive" in terms else None,  # it decides how many negatives
        "versions": versions(),
    }


def _terms(config: EvaluateConfig) -> list[str]:
    """The objectives that are terms of pre-training objectives."""
    return [name for name in TERMS if name in config.objectives]


def check_evaluate(config: EvaluateConfig) -> None:
    """Refuse an impossible configuration before anything is loaded."""
    for name in config.objectives:
        if name not in EVALUATIONS:
            raise unknown("objective", name, EVALUATIONS)
    terms = _terms(config)
    if terms and config.corpus is None:
        raise UsageError(
            f"--objective {terms[0]} needs --corpus: pydocs, wikitext-103, task:NAME, a text file or a folder."
        )
    if config.kd_masked_tokens and needs_mlm_head(terms):
        raise UsageError("--kd-masked-tokens cannot be used with --objective mlm or logits; measure them apart.")
    if "contrastive" in terms:
        objective_terms.check_negatives(config.segments, config.batch_tokens)
    if "similarity" in config.objectives and (config.task is None) == (config.pairs_file is None):
        raise UsageError("--objective similarity needs scored pairs: give either --task stsb or --pairs-file.")


def _put_on(target: Target, plm: PLM, config: EvaluateConfig, device: torch.device) -> tuple[str, Any]:
    """Put the ticket on the model; return the origin of the MLM head, and the dense model where a term needs it."""
    ticket, terms = target.ticket, _terms(config)
    if ticket is not None:
        ticket.check(plm.encoder, config.allow_other_weights)
    plm.model.to(device)
    masks = {} if ticket is None else ticket.all_masks(plm.encoder)
    masked = MaskedWeights(plm.encoder, list(masks))
    if needs_mlm_head(terms):
        untie_decoder(plm, masked.dense_weights.get(plm.architecture.word_embeddings))
    # The dense model keeps the base's own head, whichever the ticket brings.
    teacher = None
    if needs_teacher(terms):
        copied = head_without_decoder(plm) if needs_mlm_head(terms) else ()
        teacher = make_twin(plm.model, masked.dense_weights, copied)
    masked.write(masks)
    if needs_mlm_head(terms) and config.mlm_head != "base":
        if ticket is not None and ticket.mlm_head is not None:
            load_mlm_head(plm, ticket.mlm_head)
            return "ticket", teacher
        if config.mlm_head == "ticket":
            raise UsageError(f"{config.target} has no trained head for --mlm-head ticket; use --mlm-head base.")
    return "base", teacher


def _on_corpus(
    config: EvaluateConfig, plm: PLM, teacher: Any, device: torch.device, runtime: Runtime
) -> dict[str, Any]:
    corpus = load_corpus(str(config.corpus), "validation", config.data_dir)
    names = _terms(config)
    if needs_mlm_head(names):
        objective_terms.check_mlm_tokenizer(plm.tokenizer, plm.name)
    batches = CorpusBatches.read(
        corpus,
        plm.tokenizer,
        segments=config.segments,
        batch_tokens=config.batch_tokens,
        n_batches=None,
        seed=config.seed,
        shuffle=False,
        mlm_probability=0.15 if needs_mlm_head(names) else None,
        max_tokens=config.max_tokens,
        masked_tokens=config.kd_masked_tokens,
    )
    settings = TermSettings(config.kd_loss, config.kd_padding == "counted", config.temperature)
    measured = average_terms(plm, teacher, batches, names, device, runtime, settings)
    about = {"corpus": config.corpus, "split": corpus.split, "corpus_hash": corpus.fingerprint}
    return measured | about | {"segments": config.segments}


def average_terms(
    plm: PLM,
    teacher: Any,
    batches: CorpusBatches,
    names: Sequence[str],
    device: torch.device,
    runtime: Runtime,
    settings: TermSettings | None = None,
) -> dict[str, Any]:
    """Average the terms of the objectives over all batches, each weighted by its count."""
    totals = {name: torch.zeros((), dtype=torch.float64, device=device) for name in (*names, "correct")}
    counts = dict.fromkeys(names, 0)
    # MLM and logits are measured on the corrupted text, the others on the clean text, in a forward pass each.
    objectives = {
        corrupted: PretrainingObjective(dict.fromkeys(chosen, 1.0), plm.architecture, teacher, settings)
        for corrupted in (False, True)
        if (chosen := [name for name in names if needs_mlm_head([name]) == corrupted])
    }
    with progress("evaluating", len(batches), runtime.quiet) as advance:
        for index in range(len(batches)):
            batch = batches[index]
            for corrupted, objective in objectives.items():
                view = batch if corrupted else without_masks(batch)
                for name, count in objective.counts(view).items():
                    counts[name] += int(count)
                with torch.autocast(device.type, torch.bfloat16, enabled=runtime.bf16):
                    sums, correct = objective.measure(plm.model, {key: value.to(device) for key, value in view.items()})
                for name, value in sums.items():
                    totals[name] += value
                totals["correct"] += 0 if correct is None else correct
            advance(index + 1, "")
    means = {f"{name}_loss": float(totals[name]) / counts[name] for name in names}
    if "mlm" in names:
        means["mlm_accuracy"] = float(totals["correct"]) / counts["mlm"]
    tokens = next((counts[name] for name in ("kd", "attention", "mlm", "logits") if name in counts), None)
    return means | {"tokens": tokens, "tokens_by_objective": counts}


def similarity(config: EvaluateConfig, plm: PLM, device: torch.device, runtime: Runtime) -> dict[str, Any]:
    """Correlations of cosines of mean-pooled states with the gold scores of a task or of a file of pairs."""
    from scipy.stats import pearsonr, spearmanr

    pairs, gold, source = scored_pairs(config)
    first, second = (embed(plm, texts, device, config.batch_tokens, runtime) for texts in pairs)
    cosine = torch.nn.functional.cosine_similarity(first, second).numpy()
    if np.ptp(cosine) <= _SAME_COSINE or np.ptp(gold) == 0:
        pearson, spearman = 0.0, 0.0
    else:
        pearson, spearman = float(pearsonr(cosine, gold).statistic), float(spearmanr(cosine, gold).statistic)
    return {"similarity_pearson": pearson, "similarity_spearman": spearman, "pairs": len(gold), "pairs_from": source}


def scored_pairs(config: EvaluateConfig) -> tuple[tuple[list[str], list[str]], np.ndarray[Any, Any], str]:
    """Text pairs with gold scores: the validation split of a regression task, or a csv/tsv/jsonl file."""
    from winning_tickets.data.loading import load_task
    from winning_tickets.data.user_files import load_files

    if config.pairs_file is not None:
        data = load_files(config.pairs_file, config.pairs_file, None, label_column="score", metric="pearson")
        source = "pairs file"
    else:
        data = load_task(str(config.task), config.data_dir)
        source = f"{config.task} {data.task.validation_splits[0]}"
    split = next(iter(data.validation.values()))
    if not data.task.is_regression or len(split.texts) != 2:
        raise UsageError(f"{data.task.name} has no scored text pairs for similarity; use stsb or --pairs-file.")
    return (split.texts[0], split.texts[1]), np.asarray(split.labels, dtype=float), source


def embed(plm: PLM, texts: list[str], device: torch.device, batch_tokens: int, runtime: Runtime) -> Tensor:
    """Mean-pooled last hidden states of texts, `(len(texts), hidden)` in float32 on the CPU."""
    longest = min(256, plm.tokenizer.model_max_length)
    encoded = plm.tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
    result = torch.empty(len(texts), plm.model.config.hidden_size)
    start = 0
    with progress("embedding", len(texts), runtime.quiet) as advance:
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(encoded[order[stop]]) <= batch_tokens:
                stop += 1
            chosen = order[start:stop]
            batch = plm.tokenizer.pad({"input_ids": [encoded[i] for i in chosen]}, return_tensors="pt").to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=runtime.bf16):
                states = plm.model.base_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
            kept = batch["attention_mask"].unsqueeze(-1).float()
            result[chosen] = ((states.float() * kept).sum(1) / kept.sum(1)).cpu()
            start = stop
            advance(stop, "")
    return result
