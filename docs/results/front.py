"""What the front page and the README of the repository say with numbers of `intervals.json`; `tables.py` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from intervals import ABOVE_CHANCE, SAMPLES, read
from table_functions import markdown

FIVE_DENSE, FIVE_TWICE = "five tasks, rates of the dense model: ", "five tasks, rate 2e-4: "
TWO = "MNLI and CoLA, rate 2e-4: "
BASE = "base, three tasks: TAMT-KD minus"
OTHERS = ("encoder of 10,000 steps: TAMT-KD minus OMP", "encoder of 1,000 steps: TAMT-KD minus IMP")

# Groups of rows of the figure: what is compared, on what, and the name of the interval.
ROWS: dict[str, list[tuple[str, str, str]]] = {
    "Mask training by MLM minus": [
        ("iterative pruning by MLM", "MNLI and CoLA", f"{TWO}TAMT-MLM minus IMP, {SAMPLES}"),
        ("magnitude pruning", "MNLI alone", f"{TWO}TAMT-MLM minus OMP, mnli"),
        ("magnitude pruning", "CoLA alone", f"{TWO}TAMT-MLM minus OMP, cola"),
    ],
    "Mask training by KD minus": [
        ("mask training by MLM", "MNLI and CoLA", f"{TWO}TAMT-KD minus TAMT-MLM, {SAMPLES}"),
    ],
    "Both differ: mask training by KD minus iterative pruning by MLM": [
        ("rates of the dense model", "5 tasks", f"{FIVE_DENSE}TAMT-KD minus IMP, {SAMPLES}"),
        ("rate 2e-4", "5 tasks", f"{FIVE_TWICE}TAMT-KD minus IMP, {SAMPLES}"),
        ("encoder of 1,000 steps", "4 tasks", f"{OTHERS[1]}, {SAMPLES}"),
    ],
    "Both differ: mask training by KD minus magnitude pruning": [
        ("rates of the dense model", "5 tasks", f"{FIVE_DENSE}TAMT-KD minus OMP, {SAMPLES}"),
        ("rate 2e-4", "5 tasks", f"{FIVE_TWICE}TAMT-KD minus OMP, {SAMPLES}"),
        ("encoder of 10,000 steps", "4 tasks", f"{OTHERS[0]}, {SAMPLES}"),
    ],
    "Size of BERT-base: mask training by KD minus": [
        ("iterative pruning by KD", "3 tasks", f"{BASE} IMP-KD, {SAMPLES}"),
        ("iterative pruning by KD", "CoLA alone", "base, cola: TAMT-KD minus IMP-KD"),
        ("iterative pruning by KD", "MRPC alone", "base, mrpc: TAMT-KD minus IMP-KD"),
        ("iterative pruning by KD", "STS-B alone", "base, stsb: TAMT-KD minus IMP-KD"),
        ("magnitude pruning", "MRPC alone", "base, mrpc: TAMT-KD minus OMP"),
        ("magnitude pruning", "STS-B alone", "base, stsb: TAMT-KD minus OMP"),
    ],
    "Baselines: iterative pruning minus magnitude pruning": [
        ("rates of the dense model", "5 tasks", f"{FIVE_DENSE}IMP minus OMP, {SAMPLES}"),
        ("rate 2e-4", "5 tasks", f"{FIVE_TWICE}IMP minus OMP, {SAMPLES}"),
    ],
}
SHARING = "sharing, bfloat16, 1e-4: Ticket-Share minus MT-DNN"
# Further differences of these pages, for the correction for their number.
MORE = (
    "base, cola: TAMT-KD minus OMP",
    *(f"base, {task}: TAMT-KD minus Rand" for task in ABOVE_CHANCE),
    "universal: MLM minus the task itself, mnli",
    f"super tickets minus the full model, {SAMPLES}",
    f"{SHARING}, {SAMPLES}",
)


def found() -> dict[str, dict[str, Any]]:
    """Return the content of intervals.json."""
    content: dict[str, dict[str, Any]] = read("intervals.json")
    return content


def effect(name: str, scale: float = 100, places: int = 1, sign: str = "+") -> str:
    """Return an estimate with its interval."""
    one = found()[name]
    return f"{scale * one['estimate']:{sign}.{places}f} {interval(name, scale, places, sign)}"


def interval(name: str, scale: float = 100, places: int = 1, sign: str = "+") -> str:
    """Return an interval."""
    low, high = (f"{scale * end:{sign}.{places}f}" for end in found()[name]["interval"])
    return f"[{low}, {high}]"


def kept(rates: str, sample: str = SAMPLES) -> str:
    """Return the share of the dense mean that tickets of mask training by KD keep at 70 %."""
    return effect(f"five tasks, {rates}: TAMT-KD at 70%, share of the dense mean, {sample}", 1, 3, "")


def answers() -> str:
    """The five answers of the front page."""
    kd_imp = [effect(f"{rates}TAMT-KD minus IMP, {SAMPLES}") for rates in (FIVE_DENSE, FIVE_TWICE)]
    perplexity = [effect(f"decoders, perplexity at 70%: {pair}", 1) for pair in ("kd minus magnitude", "clm minus imp")]
    over_seeds = "five tasks, rates of the dense model: TAMT-KD at 70%, share of the dense mean, seeds as samples"
    same = effect(f"{TWO}TAMT-MLM minus IMP, {SAMPLES}")
    constant = "five tasks: one answer for all examples, share of the dense mean"
    small = [effect(f"shrink, fine-tuned on {task}: small minus dense") for task in ("sst2", "mrpc-pairs")]
    rows = [
        [
            "1. Does mask training keep more of the model *before* fine-tuning?",
            f"Perplexity of a [decoder](decoders/README.md): {perplexity[0]} beside magnitude (KD), {perplexity[1]} "
            "beside iterative pruning with the same objective",
            "1 x 3",
            "**shown**",
        ],
        [
            "2. Is mask training by KD better than iterative pruning by MLM *after* fine-tuning?",
            f"[Points](tickets_win/README.md): {kd_imp[0]} at the rates of the dense model, {kd_imp[1]} at 2e-4",
            "5 x 3",
            "**shown**",
        ],
        [
            "3. Is mask training better than iterative pruning with the *same* objective?",
            f"[Points](tickets_win/README.md#all-methods-on-mnli-and-cola): {same}, MLM, on MNLI and CoLA; "
            f"{effect(f'{BASE} IMP-KD, {SAMPLES}')}, KD, [at base size](base/README.md) (for these tasks "
            f"{interval(f'{BASE} IMP-KD, seeds as samples')})",
            "2 x 3; 3 x 3",
            "**not shown**",
        ],
        [
            "4. Do 70 % sparse tickets keep 95 % of the dense mean?",
            f"{kept('rates of the dense model')} at the rates of the dense model (for these tasks "
            f"{interval(over_seeds, 1, 3, '')}); {kept('rate 2e-4')} at 2e-4; one answer for all examples has "
            f"{found()[constant]['estimate']:.2f}",
            "5 x 3",
            "**contradicted** for these tasks; at 2e-4 **not shown**",
        ],
        [
            "5. Does a fine-tuned model made about twice as fast lose at most one point?",
            f"[SST-2](shrink/README.md#fine-tuned-models): {small[0]} at 2.3 times; MRPC: {small[1]} at 2.0 times",
            "1 x 3",
            "**shown** on SST-2, **not shown** on MRPC",
        ],
    ]
    return markdown(["question", "effect", "tasks x seeds", "answer"], rows)


def failures() -> str:
    """What does not hold."""
    r = found()[f"{TWO}correlation of kd_loss and the mean"]
    between = interval(f"{TWO}correlation of kd_loss and the mean", 1, 2)
    sharing = f"{effect(f'{SHARING}, seeds as samples')} for these four, {interval(f'{SHARING}, {SAMPLES}')} for others"
    rows = [
        [
            "Masks trained by MLM are better than magnitude",
            f"MNLI: {effect(f'{TWO}TAMT-MLM minus OMP, mnli')}",
            "contradicted",
        ],
        [
            "[Tickets of MLM fit every task](universal/README.md) as well as its own ticket (50 %)",
            f"MNLI: {effect('universal: MLM minus the task itself, mnli')}",
            "contradicted",
        ],
        [
            "[Super tickets](super_tickets/README.md) are better than the full model",
            f"four tasks: {effect(f'super tickets minus the full model, {SAMPLES}')}",
            "not shown",
        ],
        [
            "A lower KD loss means a higher score",
            f"between methods r = {r['estimate']:.2f} {between}; within a method {r['within_methods']:+.2f}",
            "not shown",
        ],
        ["[Ticket-Share](sharing/README.md) is better than MT-DNN on any tasks", sharing, "not shown"],
    ]
    return markdown(["claim", "effect", "answer"], rows)


def multiplicity() -> str:
    """How many comparisons there are, and how many remain after Holm's correction."""
    names = [name for rows in ROWS.values() for _, _, name in rows] + list(MORE)
    p_values = [found()[name]["p"] for name in names]
    first = f"{FIVE_DENSE}TAMT-KD minus IMP, {SAMPLES}"
    random = [f"base, {task}: TAMT-KD minus Rand" for task in ABOVE_CHANCE]
    remaining = {names[at] for at in holm(p_values)}
    if remaining != {first, *random}:
        raise ValueError(f"The sentence below is about other differences than {remaining}.")
    largest = max(found()[name]["p"] for name in random)
    small, p = sum(one < 0.05 for one in p_values), found()[first]["p"]
    text = (
        f"The figure, the table of what does not hold and the page of the base size have {len(names)} differences of "
        f"scores, {small} of them with p < 0.05. Holm's correction leaves four: mask training by KD minus iterative "
        f"pruning by MLM at the rates of the dense model, p = {p:.4f}, and minus random pruning on three tasks at base "
        f"size, p at most {largest:.4f}."
    )
    return fill(text, 120) + "\n"


def holm(p_values: Sequence[float], level: float = 0.05) -> list[int]:
    """Return the positions of the p-values that Holm's correction leaves."""
    remaining = []
    for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[at] > level / (len(p_values) - rank):
            break
        remaining.append(at)
    return remaining


def headline() -> str:
    """The three sentences of the README of the repository."""
    first, second = (effect(f"{rates}TAMT-KD minus IMP, {SAMPLES}") for rates in (FIVE_DENSE, FIVE_TWICE))
    imp, omp = effect(f"{TWO}TAMT-MLM minus IMP, {SAMPLES}"), effect(f"{TWO}TAMT-MLM minus OMP, mnli")
    base = effect(f"{BASE} IMP-KD, {SAMPLES}")
    rates = "rates of the dense model"
    these = interval(f"five tasks, {rates}: TAMT-KD at 70%, share of the dense mean, seeds as samples", 1, 3, "")
    sentences = (
        f"At 70 % sparsity on five tasks, mask training by KD minus iterative pruning by MLM is {first} points at the "
        f"fine-tuning rates of the dense model, and {second} at 2e-4, tried afterwards on the same dev sets.",
        "**This compares objectives as much as methods**: with the same objective, mask training minus iterative "
        f"pruning is {imp} points by MLM on two of these tasks and {base} by KD on three with MPNet-base, which "
        f"is no verdict; mask training by MLM minus magnitude pruning is {omp} on MNLI.",
        f"Of the dense mean the ticket keeps {kept(rates)} at the first rates (for these five tasks {these}, which "
        f"contradicts the claim of 95 %) and {kept('rate 2e-4')} at the second.",
    )
    return "".join(fill(f"- {sentence}", 120, subsequent_indent="  ") + "\n" for sentence in sentences)
