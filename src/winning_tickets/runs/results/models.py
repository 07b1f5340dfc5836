"""Results of evaluations without fine-tuning, and of models made small."""

from __future__ import annotations

from typing import Any

from winning_tickets.runs.results.base import Count, Share, Stored, StoredResult, optional, required

_LOSS = "[losses](../explanation/objectives.md); null unless asked for"


class EvaluateResult(StoredResult):
    """Losses and other measures of a model before fine-tuning."""

    verbs = ("evaluate",)

    kd_loss: float | None = optional(_LOSS)
    mlm_loss: float | None = optional(_LOSS)
    mlm_accuracy: Share | None = optional("at masked tokens")
    clm_loss: float | None = optional(_LOSS)
    clm_accuracy: Share | None = optional("of predicted tokens")
    attention_loss: float | None = optional(_LOSS)
    contrastive_loss: float | None = optional(_LOSS)
    logits_loss: float | None = optional(_LOSS)
    greedy_agreement: Share | None = optional(
        "share of the predicted tokens at which the dense model predicts the same one"
    )
    perplexity: float | None = optional(
        "[perplexity](../how_to/prune_a_decoder.md#perplexity); null if it is too large for a number, as for text "
        "with hardly any spaces"
    )
    word_perplexity: float | None = optional("the same for each word")
    perplexity_tokens: Count | None = optional("the tokens that were predicted")
    max_length: Count | None = optional("of the windows of perplexity")
    stride: Count | None = optional("of the windows of perplexity")
    similarity_pearson: float | None = optional("with scored pairs")
    similarity_spearman: float | None = optional("with scored pairs")
    pairs: Count | None = optional("their number")
    pairs_from: str | None = optional("as given")
    tokens: Count | None = optional("scored ones; null if `contrastive` is alone")
    tokens_by_objective: dict[str, Count | None] | None = optional("of `contrastive` segments")
    corpus: str | None = optional("as given")
    split: str | None = optional("of the corpus")
    corpus_hash: str | None = optional("of its text")
    segments: str | None = optional("how it was cut")
    target: str | None = optional("as given")
    model: str | None = optional("the evaluated model")
    sparsity: Share | None = optional("of the ticket, or of a pruned model")
    ticket_id: str | None = optional("null without a ticket")
    base: str | None = optional(
        "the dense model that the losses compare with: that of the ticket or export, or `--base`; null for a dense "
        "model, which is compared with itself"
    )
    base_hash: str | None = optional("of its weights")
    method: str | None = optional("search of the ticket, null for a dense model")
    search_objective: str | None = optional("the same")
    mlm_head: str | None = optional("`base` or `ticket`")
    kd_distance: str | None = optional("`cosine` or `mse`")
    kd_padding: str | None = optional("`ignored` or `counted`")
    kd_masked_tokens: float | str | None = optional("share of the tokens that were masked in each segment")
    temperature: float | None = optional("of the contrastive loss")
    batch_tokens: Count | None = optional(
        "of the contrastive loss, where it determines the number of segments in a comparison"
    )
    tasks: dict[str, dict[str, Any]] | None = optional("with `--tasks`: scores by task and metric")
    task_examples: dict[str, Any] | None = optional("with `--tasks`: numbers of examples")
    num_fewshot: Count | None = optional("with `--tasks`: examples in the prompt; null: the task's own")
    harness: str | None = optional("with `--tasks`: version of the harness")


class Spread(Stored):
    """Repeated measurements."""

    median: float = required("of the repetitions")
    lower_quartile: float = required("of the repetitions")
    upper_quartile: float = required("of the repetitions")


class Measured(Stored):
    """Size, speed and quality of a model or of a file made of it."""

    latency_seconds: Spread | None = optional("median and quartiles")
    texts_per_second: Spread | None = optional("median and quartiles")
    speedup: Spread | None = optional("over the dense model, median and quartiles")
    quality: dict[str, float | str | None] | None = optional(
        "`kd_loss` and `embedding_distance` on held-out text; with scored pairs `similarity_pearson`, "
        "`similarity_spearman`; the metrics of a fine-tuned model's task"
    )


class ShrinkModel(Measured):
    """The dense model, or one that was made smaller."""

    parameters: Count | None = optional("of the encoder")
    flops: Count | None = optional("of the encoder")
    remote_code: bool | None = optional("whether the model needs code of its own")
    name: str | None = optional("of a small model")
    folder: str | None = optional("inside `out`")
    budget: float | None = optional("share of the dense cost")
    predicted_cost: float | None = optional("by the table of costs")
    ticket_id: str | None = optional("of its structure")
    vocabulary: Count | None = optional("number of words")
    layers: list[dict[str, Any]] | None = optional("number, heads and neurons of each remaining one")
    recovery: dict[str, Any] | None = optional(
        "`steps`, `best_step`, `seconds`, held-out losses `before` and `after` with their weighted `sum`"
    )
    onnx: Measured | None = optional(
        "with `--formats` of this or an earlier call: the same, in turns with the dense model"
    )
    int8: Measured | None = optional("with `--formats` of this or an earlier call, in turns with the dense model")


class ShrinkResult(StoredResult):
    """Models made smaller, beside the dense one."""

    verbs = ("shrink",)

    model: str = required("the dense model")
    losses: dict[str, float] | None = optional("the terms of the recovery with their weights")
    budget: str | None = optional("what it is about: `latency`, `flops` or `size`")
    batch: Count | None = optional("texts of a measured pass")
    length: Count | None = optional("tokens of these")
    seed: int | None = optional("as given")
    dense: ShrinkModel = required("the dense model")
    models: list[ShrinkModel] = required("the small ones")
    threads: Count | None = optional("of the measurement")
    repeats: Count | None = optional("of each pass")
    failed_formats: dict[str, dict[str, str]] | None = optional(
        "only if a format failed: for each model the formats with their errors"
    )
    note: str | None = optional("only if a model needs remote code: the ways out")
