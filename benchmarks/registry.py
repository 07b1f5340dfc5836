"""The benchmarks that `all.py` runs, and the numbers of each result in the table: data, no logic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is measured.
        ratio: a key of the result's `ratios` called OURS_over_BESIDE; the milliseconds of both are shown too.
        share: dotted path of a ratio that is measured otherwise.
        ours: dotted path of a number, with `unit`; without a ratio this is compared with the bound.
        beside: dotted path of what it is compared with.
        unit: of both.
        asked: the bound.
        asked_of_gpu: the bound on a GPU, if it differs.
        at_least: the bound is a lower one.
    """

    name: str
    ratio: str | None = None
    share: str | None = None
    ours: str | None = None
    beside: str | None = None
    unit: str = "s"
    asked: float | None = None
    asked_of_gpu: float | None = None
    at_least: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A script with its arguments.

    Attributes:
        name: of the JSON file.
        script: file in this folder.
        full: arguments for the table.
        quick: arguments for a quick run.
        rows: of the table.
        takes_device: whether it can run on a GPU.
        on_gpu: further arguments on a GPU; the CPU's shapes would leave a GPU idle.
    """

    name: str
    script: str
    full: tuple[str, ...]
    quick: tuple[str, ...]
    rows: tuple[Row, ...]
    takes_device: bool = False
    on_gpu: tuple[str, ...] = ()


_GPU_STEP = ("--shape", "bert-base", "--length", "512", "--bf16", "--in-a-row", "8")
_TINY_STEP = ("--shape", "tiny", "--batch", "2", "--length", "16", "--rounds", "2", "--warm-up", "1", "--json")
_TINY_VERBS = (
    *("--rounds", "1", "--warm-up", "0", "--batch", "4", "--examples", "16", "--dev", "4", "--texts", "4"),
    *("--max-tokens", "1024", "--shape", "tiny", "--json"),
)
_FOUR = ("--only", "dense", "held", "trainer", "trainer_prune")
_FEW = ("--rounds", "2", "--warm-up", "1", "--json")

BENCHMARKS = (
    Benchmark(
        "mask_step",
        "mask_step",
        ("--rounds", "24", "--json"),
        _TINY_STEP,
        (
            Row("mask step, MLM, beside a dense step", ratio="mlm_mask_over_dense", asked=1.10, asked_of_gpu=1.05),
            Row("mask step, KD, beside a dense step", ratio="kd_mask_over_dense", asked=1.45),
            Row("masks in the graph beside a mask step, MLM", ratio="in_graph_over_mlm_mask", asked=2.2, at_least=True),
            Row("the same, the same matrices trained, fused AdamW", ratio="alike_over_mlm_mask"),
            Row("selection of all masks beside a mask step, KD", ratio="selection_over_kd_mask", asked=0.04),
            Row("model FLOPs a second beside one product: dense step", share="utilisation.dense"),
            Row("the same, mask step, MLM", share="utilisation.mlm_mask"),
            Row("the same, mask step, KD", share="utilisation.kd_mask"),
            Row("peak memory of mask steps, KD, beside dense", share="peak_ratios.kd_mask", asked=1.15),
            Row("peak memory of mask steps, MLM, beside dense", share="peak_ratios.mlm_mask"),
        ),
        takes_device=True,
        on_gpu=_GPU_STEP,
    ),
    Benchmark(
        "hold_step",
        "hold_step",
        ("--rounds", "40", "--json"),
        _TINY_STEP,
        (
            Row("fine-tuning with a ticket held, beside dense", ratio="held_over_dense", asked=1.04),
            Row("fine-tuning with torch.nn.utils.prune, beside dense", ratio="torch_prune_over_dense"),
            Row("fine-tuning, half of heads and FFNs held as zeros, beside dense", ratio="units_held_over_dense"),
            Row("fine-tuning, half of heads and FFNs removed, beside dense", ratio="removed_over_dense"),
            Row("step of iterative pruning beside plain MLM", ratio="imp_over_mlm", asked=1.05),
        ),
        takes_device=True,
        on_gpu=_GPU_STEP,
    ),
    Benchmark(
        "importance",
        "importance",
        ("--rounds", "10", "--json"),
        _TINY_STEP,
        (
            Row("importance of heads and FFNs beside its passes", ratio="importance_over_passes", asked=1.15),
            Row("importance of neurons too, beside its passes", ratio="neurons_over_passes"),
        ),
        takes_device=True,
        on_gpu=_GPU_STEP,
    ),
    Benchmark(
        "sharing_step",
        "sharing_step",
        ("--rounds", "12", "--json"),
        _TINY_STEP,
        (
            Row("step of tickets sharing beside multi-task", ratio="sharing_over_multi_task", asked=1.05),
            Row("step of tickets sharing, single weights", ratio="weights_over_multi_task"),
        ),
        takes_device=True,
        on_gpu=_GPU_STEP,
    ),
    Benchmark(
        "compact",
        "compact",
        ("--shape", "bert-base", "--rounds", "20", "--json"),
        _TINY_STEP,
        (
            Row("dense beside compact, half of heads and FFNs", ratio="dense_over_compact"),
            Row(
                "share of the promised speed-up",
                ratio="reached_of_promised",
                asked=0.85,
                at_least=True,
            ),
        ),
        takes_device=True,
    ),
    Benchmark(
        "attention_step",
        "attention_step",
        ("--bf16", "--rounds", "20", "--json"),
        ("--bf16", *_TINY_STEP),
        (Row("training step in bf16, attention as chosen, beside fused", ratio="chosen_over_fused", asked=1.0),),
        takes_device=True,
        on_gpu=_GPU_STEP,
    ),
    Benchmark(
        "padding_step",
        "padding_step",
        ("--rounds", "8", "--json"),
        _TINY_STEP,
        (Row("fine-tuning, padded to the longest, beside to 128", ratio="longest_over_max_length", asked=1.0),),
        takes_device=True,
    ),
    Benchmark(
        "grouping_step",
        "grouping_step",
        ("--rounds", "8", "--json"),
        _TINY_STEP,
        (
            Row(
                "batches of similar lengths beside random, SST-2",
                ratio="sst2_grouped_over_random",
                asked=0.75,
            ),
            Row(
                "batches of similar lengths beside random, MNLI",
                ratio="mnli_grouped_over_random",
                asked=0.75,
            ),
        ),
        takes_device=True,
    ),
    Benchmark(
        "selection",
        "select_top",
        ("--scores", "1e8", "--json"),
        ("--scores", "1e4", *_FEW),
        (
            Row("exact top of 10^8 scores beside torch.topk", ratio="ours_over_topk", asked=1.0),
            Row("exact top of 10^8 scores beside torch.kthvalue", ratio="ours_over_kthvalue", asked=1.0),
            Row("exact top, many ties, beside torch.topk", ratio="ours_ties_over_topk_ties", asked=1.0),
            Row("exact top, many ties, beside torch.kthvalue", ratio="ours_ties_over_kthvalue_ties", asked=1.0),
        ),
        takes_device=True,
    ),
    Benchmark(
        "semi_structured",
        "semi_structured",
        ("--json",),
        (*_TINY_STEP,),
        (Row("inference of a 2:4 ticket: dense beside sparse kernels, on a GPU", ratio="dense_over_sparse"),),
        takes_device=True,
        on_gpu=_GPU_STEP,
    ),
    Benchmark(
        "ticket_files",
        "ticket_files",
        ("--json",),
        ("--shape", "tiny", *_FEW),
        (
            Row(
                "ticket of BERT-base: save, beside compressed numpy arrays",
                ours="seconds_each.save",
                beside="seconds_each.savez",
                asked=0.5,
            ),
            Row("ticket of BERT-base: load", ours="seconds_each.load", beside="seconds_each.loadz", asked=0.5),
            Row(
                "ticket of BERT-base: check and apply, beside multiplying",
                ours="seconds_each.apply",
                beside="seconds_each.multiply",
                asked=0.5,
            ),
            Row(
                "ticket of BERT-base: size beside one bit a weight",
                share="bytes_over_packed",
                ours="bytes",
                unit="bytes",
                asked=1.01,
            ),
        ),
        takes_device=True,
    ),
    Benchmark(
        "tokenizing",
        "tokenizing",
        ("--megabytes", "100,1000", "--json"),
        ("--megabytes", "0.5,1", "--speed-megabytes", "0.1", *_FEW),
        (
            Row(
                "tokenizing into the cache beside one plain call",
                ratio="ours_over_plain",
                ours="tokens_a_second.ours",
                beside="tokens_a_second.plain",
                unit="tokens/s",
            ),
            Row(
                "peak memory of tokenizing 1 GB, beside 100 MB",
                share="peak_growth",
                ours="peak_megabytes",
                unit="MB",
                asked=1.1,
            ),
        ),
    ),
    Benchmark(
        "time_to_ticket",
        "time_to_ticket",
        ("--bf16", "--json"),
        ("--steps", "2", "--seeds", "1", "--max-tokens", "1000", "--json"),
        (
            Row(
                "CPU time of a search by KD beside the values of 0.1.0",
                share="ratios.tuned_over_2048",
                ours="means.tuned.cpu_seconds",
                beside="means.2048.cpu_seconds",
                asked=0.7,
            ),
        ),
    ),
    Benchmark(
        "search_memory",
        "search_memory",
        ("--json",),
        ("--shape", "tiny", "--steps", "1", "--batch-tokens", "64", "--length", "32", "--json"),
        (
            Row(
                "peak memory of a search, KD, BERT-base, beside dense",
                share="peak_ratios.kd_mask",
                ours="peak_megabytes.kd_mask",
                beside="peak_megabytes.dense",
                unit="MB",
            ),
            Row(
                "peak memory of a search, MLM, BERT-base, beside dense",
                share="peak_ratios.mlm_mask",
                ours="peak_megabytes.mlm_mask",
                beside="peak_megabytes.dense",
                unit="MB",
            ),
        ),
        takes_device=True,
    ),
    Benchmark(
        "start_time",
        "start_time",
        ("--json",),
        _FEW,
        (
            Row("import winning_tickets", ours="seconds_each.import", beside="seconds_each.python", asked=0.5),
            Row("tickets --help", ours="seconds_each.help", beside="seconds_each.python", asked=0.5),
        ),
    ),
    Benchmark(
        "refusals",
        "refusals",
        ("--json",),
        _FEW,
        (
            Row("slowest refusal of a mistake", ours="slowest.seconds", beside="seconds_each.libraries", asked=2.0),
            Row("refusal of a missing MLM head", ratio="no_mlm_head_over_libraries"),
        ),
    ),
    Benchmark(
        "study_plan",
        "study_plan",
        (),
        ("tamt-figure-3", "--rounds", "1"),
        (
            Row("planning the largest recipe", ours="seconds.plan.median", asked=5.0),
            Row("the command that plans it", ours="seconds.command_absent.median", asked=5.0),
        ),
    ),
    Benchmark(
        "report_open",
        "report_open",
        (),
        ("--runs", "40", "--formats", "md,csv"),
        (
            Row("report of 10,000 runs: made", ours="first_seconds", asked=10.0),
            Row("its page: opened in a browser", ours="browser_seconds", asked=10.0),
        ),
    ),
    Benchmark(
        "store_overhead",
        "store_overhead",
        (),
        ("--others", "5", "--megabytes", "0.1", "--rounds", "2"),
        (Row("what the store adds to a run of a minute", share="share_of_a_minute", ours="total_seconds", asked=0.01),),
    ),
    Benchmark(
        "store_listing",
        "store_listing",
        (),
        ("--runs", "20", "--rounds", "1"),
        (
            Row(
                "listing 20,000 runs: from the index, beside reading them",
                share="share_of_reading",
                ours="median.listed",
                beside="median.without_index",
                asked=0.1,
            ),
        ),
    ),
    Benchmark(
        "workers",
        "workers",
        (),
        ("--seeds", "1", "--steps", "2", "--rounds", "1"),
        (
            Row(
                "a grid of small runs: one worker beside two",
                ratio="one_over_several",
                ours="seconds.1",
                beside="seconds.2",
                asked=1.7,
                at_least=True,
            ),
        ),
    ),
    Benchmark(
        "side_by_side",
        "side_by_side",
        ("--bf16", "--threads", "1", "--json"),
        _TINY_VERBS,
        (
            Row("MiniLM: transfer beside the Trainer", ratio="dense_over_trainer", asked=1.03),
            Row("MiniLM, ticket held, beside the Trainer", ratio="held_over_trainer", asked=1.03),
            Row(
                "ticket held beside the Trainer with torch.nn.utils.prune", ratio="held_over_trainer_prune", asked=1.03
            ),
            Row("the Trainer with torch.nn.utils.prune, beside without", ratio="trainer_prune_over_trainer"),
            Row("both with similar lengths", ratio="dense_grouped_over_trainer_grouped", asked=1.0),
            Row("both with similar lengths, ticket held", ratio="held_grouped_over_trainer_grouped", asked=1.0),
            Row("evaluate (KD) beside a plain loop", ratio="evaluate_over_plain_evaluate", asked=1.03),
            Row("predict of an int8 export beside onnxruntime by hand", ratio="predict_over_plain_predict", asked=1.03),
        ),
    ),
    Benchmark(
        "side_by_side_base",
        "side_by_side",
        (
            *("--shape", "bert-base", "--bf16", "--threads", "1", "--examples", "64", "--rounds", "3", "--json"),
            *_FOUR,
        ),
        (*_TINY_VERBS, *_FOUR),
        (
            Row("BERT-base: transfer beside the Trainer", ratio="dense_over_trainer", asked=1.03),
            Row("BERT-base, ticket held", ratio="held_over_trainer", asked=1.03),
            Row("BERT-base, beside torch.nn.utils.prune", ratio="held_over_trainer_prune", asked=1.03),
        ),
    ),
    Benchmark(
        "transfer_memory",
        "side_by_side",
        ("--memory", "--shape", "bert-base", "--examples", "48", "--rounds", "3", "--json"),
        ("--memory", *_TINY_VERBS),
        (
            Row(
                "peak memory of transfer, BERT-base, beside the Trainer",
                share="peak_ratios.dense",
                ours="peak_megabytes.dense",
                beside="peak_megabytes.trainer",
                unit="MB",
                asked=1.1,
            ),
            Row(
                "peak memory, ticket held, beside the Trainer",
                share="peak_ratios.held",
                ours="peak_megabytes.held",
                beside="peak_megabytes.trainer",
                unit="MB",
                asked=1.1,
            ),
        ),
    ),
    Benchmark(
        "verb_profile",
        "verb_profile",
        ("--json",),
        ("--shape", "tiny", "--steps", "2", "--batch", "4", "--examples", "16", "--dev", "4", "--max-tokens", "1024"),
        tuple(
            Row(
                f"BERT-base, {verb}: passes beside their products",
                share=f"verbs.{verb}.passes_over_explained",
                ours=f"verbs.{verb}.stages.passes",
                beside=f"verbs.{verb}.explained",
            )
            for verb in ("search", "evaluate", "transfer", "super", "shrink", "measure", "predict")
        ),
    ),
)
