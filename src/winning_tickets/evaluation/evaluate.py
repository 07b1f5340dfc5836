"""Evaluation of a ticket without fine-tuning: losses of the pre-training objectives, zero-shot similarity."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from winning_tickets.config import EvaluateConfig, Runtime
from winning_tickets.config.objective import EVALUATION_NAMES, TEXT_NAMES
from winning_tickets.data.batches import MASKED_IDS, MASKED_POSITIONS, CorpusBatches, without_masks
from winning_tickets.data.corpora import load_corpus, load_text
from winning_tickets.data.encode import encoded_whole
from winning_tickets.data.tokenizing import encoded_columns
from winning_tickets.data.unknown_words import FIRST, check_words
from winning_tickets.evaluation.harness import check_tasks, run_tasks
from winning_tickets.models.device import choose_device
from winning_tickets.models.heads import ensure_padding
from winning_tickets.models.lm_head import head_without_decoder, load_mlm_head, untie_decoder
from winning_tickets.models.loading import (
    FEW_ZEROS,
    PLM,
    Head,
    base_hash,
    is_onnx,
    share_of_zeros,
    weight_hashes,
)
from winning_tickets.models.modeling_compact import COMPACT
from winning_tickets.models.onnx_runtime import load_onnx
from winning_tickets.models.tokenizers import read_together_
from winning_tickets.models.twin import make_twin
from winning_tickets.runs.directory import RunDirectory, remote_code_facts
from winning_tickets.runs.errors import ContentError, UsageError, unknown
from winning_tickets.runs.identity import run_id
from winning_tickets.runs.progress import progress
from winning_tickets.runs.provenance import versions
from winning_tickets.tickets.masking import MaskedWeights, modes
from winning_tickets.tickets.target import Target
from winning_tickets.training.fine_tuned import Origin, origin_of
from winning_tickets.training.objectives import terms as objective_terms
from winning_tickets.training.objectives.base import TermSettings
from winning_tickets.training.objectives.pretraining import PretrainingObjective, check_attention_maps
from winning_tickets.training.objectives.terms import (
    ALL_TERMS,
    TERMS,
    lm_head_of,
    needs_lm_head,
    needs_of,
    needs_teacher,
)
from winning_tickets.training.saved_model import find_model
from winning_tickets.training.source import FineTunedSource, OnnxSource, TicketSource, find_source

_SCORES = (
    *("mlm_accuracy", "clm_accuracy", "greedy_agreement", "perplexity", "word_perplexity"),
    *("similarity_pearson", "similarity_spearman"),
)

_WINDOW = 2048  # tokens per window, as for the perplexity in papers on pruning of decoders

_LONGEST_SENTENCE = 256  # tokens of a text whose states are pooled

_SAME_COSINE = 1e-6
"""Float32 cosines that differ by no more differ only by rounding, so their correlation would be noise."""


def evaluate(
    config: EvaluateConfig, runtime: Runtime | None = None, out: Path | str | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Measure the losses of a model or a ticket, or its zero-shot similarity; see `api.verbs.evaluate`.

    KD loss: 1 - cosine of hidden states, averaged over layers and unpadded tokens (TAMT eq. 6), unless the fields that
    begin with `kd_` say otherwise. MLM loss: cross entropy at masked positions with the dense decoder.
    Attention, contrastive and logits losses: see docs/explanation/objectives.md. Similarity: cosine of mean-pooled
    states against gold scores. Tasks of the EleutherAI evaluation harness: `tasks` has their scores.
    """
    runtime = runtime or Runtime()
    check_evaluate(config)
    if out is None:
        return _evaluated(config, runtime)
    # A result that is kept is never taken for that of another call: weights and text may have changed since then.
    identity = run_id(config, f"evaluate-{Path(config.target).name}")
    with RunDirectory.claim(out, "evaluate", identity, config.model_dump(mode="json"), force=force) as run:
        if run.status == "done":
            raise UsageError(f"--out {out} holds this evaluation already; --force measures again.")
        result = {"verb": "evaluate", "run_id": identity} | _evaluated(config, runtime)
        run.finish(result)
    return result


def _evaluated(config: EvaluateConfig, runtime: Runtime) -> dict[str, Any]:
    # Load the model and apply its ticket, or find the dense model to compare with.
    device = choose_device(runtime.device)
    target, origin = _find(config)
    terms = _terms(config)
    plm = load_onnx(target.model) if is_onnx(target.model) else _load(target, config)
    if "last_hidden_state" not in getattr(plm.model, "outputs", ("last_hidden_state",)):
        raise UsageError(f"{plm.name} is an ONNX export with a head; similarity needs the states of an encoder.")
    # The hash is of the dense weights, before a ticket is applied.
    base = None if is_onnx(target.model) else base_hash(weight_hashes(plm.encoder))
    zeros = 0.0 if target.ticket is not None or is_onnx(target.model) else share_of_zeros(plm)
    head, teacher = _put_on(target, plm, config, device)
    if target.ticket is None and needs_teacher(terms) and (dense := _dense_of(plm, origin, config, zeros)) is not None:
        teacher, base = dense.model.to(device).eval(), base_hash(weight_hashes(dense.encoder))
    # Measure; objectives that were not given keep None.
    keys = (*(f"{name}_loss" for name in TERMS), *_SCORES, "tokens")
    result: dict[str, Any] = dict.fromkeys(keys)
    with modes(plm.model, training=False), torch.no_grad():
        if terms:
            result |= _on_corpus(config, plm, teacher, device, runtime=runtime)
        if "perplexity" in config.objectives:
            result |= _perplexity(config, plm, device, runtime)
        if "similarity" in config.objectives:
            result |= similarity(config, plm, device, runtime)
        if config.harness_tasks:
            result |= run_tasks(config, plm)
    _check_finite(result, config.target)
    ticket = target.ticket
    result |= {
        "target": config.target,
        "model": target.model,
        "sparsity": (origin.sparsity or (zeros if zeros > FEW_ZEROS else 0.0)) if ticket is None else ticket.sparsity,
        "ticket_id": origin.ticket_id if ticket is None else ticket.id,
        "base": origin.model if ticket is None else target.model,
        "base_hash": base,
        "method": None if ticket is None else ticket.info.method,
        "search_objective": None if ticket is None else ticket.info.config.get("objective"),
        "mlm_head": head if _predicts(config) else None,
        "kd_distance": config.kd_loss if "kd" in config.objectives else None,
        "kd_padding": config.kd_padding if "kd" in config.objectives else None,
        "kd_masked_tokens": config.kd_masked_tokens if "kd" in config.objectives else None,
        "temperature": config.temperature if "contrastive" in terms else None,
        "batch_tokens": config.batch_tokens if "contrastive" in terms else None,  # it decides how many negatives
        "versions": versions(),
    }
    return result | remote_code_facts()


def _check_finite(result: Mapping[str, Any], target: str) -> None:
    """Refuse a measurement that is not finite."""
    for name, value in result.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ContentError(
                f"The {name} of {target} is {value}, as the outputs of the model are not finite: its weights are too "
                "large or damaged. If you trained it, do so again with a lower --learning-rate."
            )


def _find(config: EvaluateConfig) -> tuple[Target, Origin]:
    """Return the target, and for a model without a ticket, the model that it was made from."""
    source, name = find_source(config.target), config.target
    if isinstance(source, TicketSource):
        return Target.find(name, config.base, config.revision, config.layers), Origin()
    if config.base is not None and not needs_teacher(_terms(config)):
        raise UsageError(
            f"--base names the dense model that losses such as kd compare with, which --objective "
            f"{','.join(config.objectives)} does not read; leave it out."
        )
    if isinstance(source, OnnxSource):
        source.refuse(**config.model_dump(include={"base", "revision", "layers"}))
        if config.objectives != ("similarity",):
            raise UsageError(
                f"{name} is an ONNX export, of which --objective similarity can be measured; the losses need hidden "
                "states, so measure those of what it was made from."
            )
        return Target(name, None, source.where, None, None), origin_of(Path(source.where))
    where = Path(source.where)
    if isinstance(source, FineTunedSource):
        where = find_model(where)
        name = str(where)
    origin = origin_of(where)
    if config.base is not None:
        own = replace(origin, model=config.base, revision=None)
        origin = own if config.base != name else Origin()
    return Target.find(name, None, config.revision, config.layers), origin


def head_for(config: EvaluateConfig) -> Head:
    """Return the head that the objectives need."""
    predicts_next = "perplexity" in config.objectives or config.harness_tasks
    return lm_head_of([*_terms(config), *(("clm",) if predicts_next else ())])


def _load(target: Target, config: EvaluateConfig) -> PLM:
    """Load a model with the head and the kind of attention that the objectives need."""
    terms = _terms(config)
    needs_maps = "attentions" in needs_of(terms)
    plm = target.load(
        head_for(config),
        require_mlm_head=reads_head_of_base(config),
        attention="eager" if needs_maps else None,
    )
    if needs_maps:
        check_attention_maps(plm.model)
    return plm


def reads_head_of_base(config: EvaluateConfig) -> bool:
    """Return whether the head of the dense model has to be trained; its logits never come from the ticket's head."""
    return _predicts(config) and (config.mlm_head != "ticket" or "logits" in _terms(config))


def _predicts(config: EvaluateConfig) -> bool:
    return needs_lm_head(_terms(config)) or "perplexity" in config.objectives or bool(config.harness_tasks)


def _dense_of(plm: PLM, origin: Origin, config: EvaluateConfig, zeros: float) -> PLM | None:
    """Return the dense model that weights without a ticket were made from; None for a dense model, its own teacher."""
    if origin.model is not None:
        dense = _load(Target(config.target, None, origin.model, origin.revision, origin.layers), config)
        _check_same_shape(plm, dense)
        read_together_(plm.tokenizer, dense.tokenizer)
        return dense
    is_compact = hasattr(plm.model.config, COMPACT)
    if is_compact or zeros > FEW_ZEROS:
        found = "smaller matrices" if is_compact else f"{zeros:.0%} zeros in its matrices"
        raise UsageError(
            f"{config.target} has {found}, and no ticket or export says which dense model it was made from, which "
            f"--objective {','.join(_terms(config))} compares it with; name that with --base."
        )
    return None


def _check_same_shape(plm: PLM, dense: PLM) -> None:
    for field in ("model_type", "num_hidden_layers", "hidden_size", "vocab_size"):
        ours, theirs = (getattr(one.model.config, field, None) for one in (plm, dense))
        if ours != theirs:
            raise UsageError(
                f"{dense.name} has {field} {theirs} and {plm.name} has {ours}, so they cannot be compared; name the "
                "dense model that it was made from with --base."
            )


def _terms(config: EvaluateConfig) -> list[str]:
    """Return the objectives that are measured on a corpus."""
    return [name for name in ALL_TERMS if name in config.objectives]


def check_evaluate(config: EvaluateConfig) -> None:
    """Refuse an impossible configuration before anything is loaded."""
    for name in config.objectives:
        if name not in EVALUATION_NAMES:
            raise unknown("objective", name, EVALUATION_NAMES)
    check_tasks(config)
    terms = _terms(config)
    on_text = [*terms, *(name for name in config.objectives if name == "perplexity")]
    if on_text and config.corpus is None:
        raise UsageError(
            f"--objective {on_text[0]} needs --corpus: pydocs, wikitext-103, task:NAME, a text file or a folder."
        )
    if config.kd_masked_tokens and needs_lm_head(terms):
        raise UsageError("--kd-masked-tokens cannot be used with --objective mlm or logits; measure them apart.")
    if "contrastive" in terms:
        objective_terms.check_negatives(config.segments, config.batch_tokens)
    if "similarity" in config.objectives and (config.task is None) == (config.pairs_file is None):
        raise UsageError("--objective similarity needs scored pairs: give either --task stsb or --pairs-file.")


class Windows:
    """Batches of windows over a text `(n,)`; the last tokens of each window are predicted, each token of the text once.

    All windows have `length` tokens, except for the last window, and each begins `stride` tokens after the one before.
    """

    def __init__(self, tokens: Tensor, length: int, stride: int, batch_tokens: int) -> None:
        self._tokens = tokens
        rows, done = max(1, batch_tokens // length), 0
        # Begin, first predicted token and end of each window; windows of the same form share a batch.
        self._batches: list[list[tuple[int, int, int]]] = []
        for start in range(0, max(1, len(tokens) - length + stride), stride):
            end = min(start + length, len(tokens))
            form, done = (max(done, start + 1) - start, end - start), end
            last = self._batches[-1] if self._batches else []
            if last and len(last) < rows and (last[0][1] - last[0][0], last[0][2] - last[0][0]) == form:
                last.append((start, start + form[0], end))
            elif form[0] < form[1]:
                self._batches.append([(start, start + form[0], end)])

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        spans = self._batches[index]
        ids = torch.stack([self._tokens[start:end] for start, _, end in spans]).long()
        places = torch.arange(ids.numel()).view(ids.shape)[:, spans[0][1] - spans[0][0] - 1 : -1]
        return {
            "input_ids": ids,
            MASKED_POSITIONS: places.flatten(),
            MASKED_IDS: torch.cat([self._tokens[first:end] for _, first, end in spans]).long(),
        }


def _perplexity(config: EvaluateConfig, plm: PLM, device: torch.device, runtime: Runtime) -> dict[str, Any]:
    """Return the perplexity of a text per token and per word; per word, the total loss is divided by the words."""
    text = load_text(str(config.corpus), config.split, config.data_dir)
    tokens = torch.from_numpy(encoded_whole(plm.tokenizer, text))
    check_words(tokens[: 2 * FIRST].tolist(), plm.tokenizer, f"the corpus {config.corpus} ({config.split})")
    longest = plm.tokenizer.model_max_length
    length = config.max_length or min(longest, _WINDOW)
    stride = config.stride or length
    if not 2 <= length <= longest or stride > length:
        raise UsageError(
            f"Windows of {length} tokens every {stride} are impossible: {plm.name} reads 2 to {longest} tokens, and "
            "--stride is at most --max-length."
        )
    words = sum(1 for _ in re.finditer(r"\S+", text))  # a list of all words would take fifty times the text
    share = words / max(1, len(tokens))
    tokens = tokens[: config.max_tokens]
    if len(tokens) < 2 or not words:
        raise ContentError(
            f"The corpus {config.corpus} has {words} words, and {len(tokens)} of its tokens are read; perplexity needs "
            "one word and two tokens or more."
        )
    windows = Windows(tokens, length, stride, max(length, config.batch_tokens))
    found = average_terms(plm, None, windows, ["clm"], device=device, runtime=runtime)
    return {
        "perplexity": exponential(found["clm_loss"]),
        "word_perplexity": exponential(found["clm_loss"] / share),
        "perplexity_tokens": found["tokens"],
        "max_length": length,
        "stride": stride,
        "corpus": config.corpus,
        "split": config.split,
    }


def exponential(loss: float) -> float | None:
    """Return the perplexity of a loss; None if it is too large for a number, as of long words without spaces."""
    try:
        return math.exp(loss)
    except OverflowError:
        return None


def _put_on(target: Target, plm: PLM, config: EvaluateConfig, device: torch.device) -> tuple[str, Any]:
    """Apply the ticket to the model; return the origin of the MLM head, and the dense model if a term needs it."""
    ticket, terms = target.ticket, _terms(config)
    predicts = _predicts(config)
    if ticket is not None:
        ticket.check(plm.encoder, allow_other_weights=config.allow_other_weights)
    plm.model.to(device)
    masks = {} if ticket is None else ticket.all_masks(plm.encoder)
    masked = MaskedWeights(plm.encoder, list(masks))
    if predicts:
        untie_decoder(plm, masked.dense_weights.get(plm.architecture.word_embeddings))
    # The dense model keeps the base's own head, whatever head the ticket has.
    teacher = None
    if needs_teacher(terms):
        copied = head_without_decoder(plm) if predicts else ()
        teacher = make_twin(plm.model, masked.dense_weights, copied)
    masked.write(masks)
    if predicts and config.mlm_head != "base":
        if ticket is not None and ticket.mlm_head is not None:
            load_mlm_head(plm, ticket.mlm_head)
            return "ticket", teacher
        if config.mlm_head == "ticket":
            raise UsageError(f"{config.target} has no trained head for --mlm-head ticket; use --mlm-head base.")
    return "base", teacher


def _on_corpus(
    config: EvaluateConfig, plm: PLM, teacher: Any, device: torch.device, *, runtime: Runtime
) -> dict[str, Any]:
    corpus = load_corpus(str(config.corpus), config.split, config.data_dir)
    names = _terms(config)
    masks = needs_lm_head(names) and not plm.architecture.causal
    if masks:
        objective_terms.check_mlm_tokenizer(plm.tokenizer, plm.name)
    batches = CorpusBatches.read(
        corpus,
        plm.tokenizer,
        end=plm.end_of_text,
        segments=config.segments,
        batch_tokens=config.batch_tokens,
        n_batches=None,
        seed=config.seed,
        shuffle=False,
        mlm_probability=0.15 if masks else None,
        max_tokens=config.max_tokens,
        masked_tokens=config.kd_masked_tokens,
    )
    settings = TermSettings(config.kd_loss, config.kd_padding == "counted", config.temperature)
    measured = average_terms(plm, teacher, batches, names, device=device, runtime=runtime, settings=settings)
    about = {"corpus": config.corpus, "split": corpus.split, "corpus_hash": corpus.fingerprint}
    return measured | about | {"segments": config.segments}


def average_terms(
    plm: PLM,
    teacher: Any,
    batches: CorpusBatches | Windows,
    names: Sequence[str],
    *,
    device: torch.device,
    runtime: Runtime,
    settings: TermSettings | None = None,
) -> dict[str, Any]:
    """Average the terms of the objectives over all batches, each weighted by its count."""
    text = next((name for name in TEXT_NAMES if name in names), None)
    measured = (*names, *(() if text is None else ("accuracy",)))
    dtype = torch.float32 if device.type == "mps" else torch.float64  # which MPS lacks
    totals = {name: torch.zeros((), dtype=dtype, device=device) for name in measured}
    counts = dict.fromkeys(measured, 0)
    # Terms that predict masked tokens are measured on masked text, all others on clean text, in one forward pass each.
    objectives = {
        corrupted: PretrainingObjective(dict.fromkeys(chosen, 1.0), plm.architecture, teacher, settings)
        for corrupted in (False, True)
        if (chosen := [n for n in measured if (needs_lm_head([n]) and not plm.architecture.causal) == corrupted])
    }
    with progress("evaluating", len(batches), quiet=runtime.quiet) as advance:
        for index in range(len(batches)):
            batch = batches[index]
            for corrupted, objective in objectives.items():
                view = batch if corrupted or plm.architecture.causal else without_masks(batch)
                for name, count in objective.counts(view).items():
                    counts[name] += int(count)
                with torch.autocast(device.type, torch.bfloat16, enabled=runtime.bf16):
                    sums = objective(plm.model, {key: value.to(device) for key, value in view.items()})
                for name, value in sums.items():
                    totals[name] += value
            advance(index + 1, "")
    keys = {name: f"{name}_loss" for name in TERMS} | {"accuracy": f"{text}_accuracy", "agreement": "greedy_agreement"}
    means = {keys[name]: float(totals[name]) / counts[name] for name in measured}
    counts = {name: counts[name] for name in names}
    tokens = next(
        (counts[name] for name in ("kd", "attention", "mlm", "clm", "logits", "agreement") if name in counts), None
    )
    return means | {"tokens": tokens, "tokens_by_objective": counts}


def similarity(config: EvaluateConfig, plm: PLM, device: torch.device, runtime: Runtime) -> dict[str, Any]:
    """Correlate cosines of mean-pooled states with the gold scores of a task or of a file of pairs."""
    from scipy.stats import pearsonr, spearmanr

    pairs, gold, source = scored_pairs(config)
    first, second = (embed(plm, texts, device, config.batch_tokens, runtime=runtime) for texts in pairs)
    cosine = torch.nn.functional.cosine_similarity(first, second).numpy()
    if np.ptp(cosine) <= _SAME_COSINE or np.ptp(gold) == 0:
        pearson, spearman = 0.0, 0.0
    else:
        pearson, spearman = float(pearsonr(cosine, gold).statistic), float(spearmanr(cosine, gold).statistic)
    return {"similarity_pearson": pearson, "similarity_spearman": spearman, "pairs": len(gold), "pairs_from": source}


def scored_pairs(config: EvaluateConfig) -> tuple[tuple[list[str], list[str]], np.ndarray[Any, Any], str]:
    """Return text pairs with gold scores: the validation split of a regression task, or a csv/tsv/jsonl file."""
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


def embed(plm: PLM, texts: list[str], device: torch.device, batch_tokens: int, *, runtime: Runtime) -> Tensor:
    """Return mean-pooled last hidden states of texts, `(len(texts), hidden)` in float32 on the CPU."""
    ensure_padding(plm)
    longest = min(_LONGEST_SENTENCE, plm.tokenizer.model_max_length)
    encoded = encoded_columns(plm.tokenizer, [texts], truncation=True, max_length=longest)["input_ids"]
    check_words(chain.from_iterable(encoded), plm.tokenizer, f"the texts for {plm.name}")
    order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
    result = torch.empty(len(texts), plm.model.config.hidden_size)
    start = 0
    with progress("embedding", len(texts), quiet=runtime.quiet) as advance:
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
