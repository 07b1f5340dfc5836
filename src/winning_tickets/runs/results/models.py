"""Results of evaluations without fine-tuning, and of models made small."""

from __future__ import annotations

from typing import Any

from winning_tickets.runs.results.base import Count, Share, Stored, StoredResult, always, told

_LOSS = "[losses](../explanation/objectives.md); null unless asked for"


class EvaluateResult(StoredResult):
    """Losses and other measures of a model before fine-tuning."""

    verbs = ("evaluate",)

    kd_loss: float | None = told(_LOSS)
    mlm_loss: float | None = told(_LOSS)
    mlm_accuracy: Share | None = told("at masked tokens")
    clm_loss: float | None = told(_LOSS)
    clm_accuracy: Share | None = told("of predicted tokens")
    attention_loss: float | None = told(_LOSS)
    contrastive_loss: float | None = told(_LOSS)
    logits_loss: float | None = told(_LOSS)
    greedy_agreement: Share | None = told(
        "share of the predicted tokens at which the dense model predicts the same one"
    )
    perplexity: float | None = told(
        "[perplexity](../how_to/prune_a_decoder.md#perplexity); null if it is too large for a number, as for text "
        "with hardly any spaces"
    )
    word_perplexity: float | None = told("the same for each word")
    perplexity_tokens: Count | None = told("the tokens that were predicted")
    max_length: Count | None = told("of the windows of perplexity")
    stride: Count | None = told("of the windows of perplexity")
    similarity_pearson: float | None = told("with scored pairs")
    similarity_spearman: float | None = told("with scored pairs")
    pairs: Count | None = told("their number")
    pairs_from: str | None = told("as given")
    tokens: Count | None = told("scored ones; null if `contrastive` is alone")
    tokens_by_objective: dict[str, Count | None] | None = told("of `contrastive` segments")
    corpus: str | None = told("as given")
    split: str | None = told("of the corpus")
    corpus_hash: str | None = told("of its text")
    segments: str | None = told("how it was cut")
    target: str | None = told("as given")
    model: str | None = told("the evaluated model")
    sparsity: Share | None = told("of the ticket, or of a pruned model")
    ticket_id: str | None = told("null without a ticket")
    base: str | None = told(
        "the dense model that the losses compare with: that of the ticket or export, or `--base`; null for a dense "
        "model, which is compared with itself"
    )
    base_hash: str | None = told("of its weights")
    method: str | None = told("search of the ticket, null for a dense model")
    search_objective: str | None = told("the same")
    mlm_head: str | None = told("`base` or `ticket`")
    kd_distance: str | None = told("`cosine` or `mse`")
    kd_padding: str | None = told("`ignored` or `counted`")
    kd_masked_tokens: float | str | None = told("share of the tokens that were masked in each segment")
    temperature: float | None = told("of the contrastive loss")
    batch_tokens: Count | None = told(
        "of the contrastive loss, where it determines the number of segments in a comparison"
    )
    tasks: dict[str, dict[str, Any]] | None = told("with `--tasks`: scores by task and metric")
    task_examples: dict[str, Any] | None = told("with `--tasks`: numbers of examples")
    num_fewshot: Count | None = told("with `--tasks`: examples in the prompt; null: the task's own")
    harness: str | None = told("with `--tasks`: version of the harness")


class Spread(Stored):
    """Repeated measurements."""

    median: float = always("of the repetitions")
    lower_quartile: float = always("of the repetitions")
    upper_quartile: float = always("of the repetitions")


class Measured(Stored):
    """Size, speed and quality of a model or of a file made of it."""

    latency_seconds: Spread | None = told("median and quartiles")
    texts_per_second: Spread | None = told("median and quartiles")
    speedup: Spread | None = told("over the dense model, median and quartiles")
    quality: dict[str, float | str | None] | None = told(
        "`kd_loss` and `embedding_distance` on held-out text; with scored pairs `similarity_pearson`, "
        "`similarity_spearman`; the metrics of a fine-tuned model's task"
    )


class ShrinkModel(Measured):
    """The dense model, or one that was made smaller."""

    parameters: Count | None = told("of the encoder")
    flops: Count | None = told("of the encoder")
    remote_code: bool | None = told("whether the model needs code of its own")
    name: str | None = told("of a small model")
    folder: str | None = told("inside `out`")
    budget: float | None = told("share of the dense cost")
    predicted_cost: float | None = told("by the table of costs")
    ticket_id: str | None = told("of its structure")
    vocabulary: Count | None = told("number of words")
    layers: list[dict[str, Any]] | None = told("number, heads and neurons of each remaining one")
    recovery: dict[str, Any] | None = told(
        "`steps`, `best_step`, `seconds`, held-out losses `before` and `after` with their weighted `sum`"
    )
    onnx: Measured | None = told("with `--formats` of this or an earlier call: the same, in turns with the dense model")
    int8: Measured | None = told("the same")


class ShrinkResult(StoredResult):
    """Models made smaller, beside the dense one."""

    verbs = ("shrink",)

    model: str = always("the dense model")
    losses: dict[str, float] | None = told("the terms of the recovery with their weights")
    budget: str | None = told("what it is about: `latency`, `flops` or `size`")
    batch: Count | None = told("texts of a measured pass")
    length: Count | None = told("tokens of these")
    seed: int | None = told("as given")
    dense: ShrinkModel = always("the dense model")
    models: list[ShrinkModel] = always("the small ones")
    threads: Count | None = told("of the measurement")
    repeats: Count | None = told("of each pass")
    failed_formats: dict[str, dict[str, str]] | None = told(
        "only if a format failed: for each model the formats with their errors"
    )
    note: str | None = told("only if a model needs remote code: the ways out")
