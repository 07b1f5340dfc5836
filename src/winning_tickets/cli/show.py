"""Results as text, which the command line prints without `--json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from winning_tickets.config.objective import MEASURED
from winning_tickets.runs.errors import listed


def search(result: dict[str, Any], tickets: list[str]) -> str:
    """Describe one ticket, or those of several sparsity levels."""
    if "rungs" not in result:
        share = result["pruned_share_of_all_parameters"]
        return f"{tickets[0]}\n{share:.1%} of all encoder parameters are pruned; saved in {result['out']}"
    lines = [
        f"{result['out']}/{rung['folder']}: {ticket}" for rung, ticket in zip(result["rungs"], tickets, strict=True)
    ]
    if result["steps"] is not None:
        apart = result["steps_of_separate_searches"]
        lines.append(f"{result['steps']} steps" + ("" if apart is None else f"; separate searches would take {apart}"))
    inside = [rung["kept_inside_previous"] for rung in result["rungs"][1:]]
    lines.append(
        "nested: each ticket keeps only weights that the ticket before it keeps"
        if result["nested"]
        else f"not nested: at least {min(inside):.1%} of the weights of a sparsity level are kept at the level below"
    )
    return "\n".join(lines)


def fitted_head(result: dict[str, Any]) -> str:
    """Show the quality of the head before and after the fit."""
    lines = [
        f"  {name}: MLM loss {quality['mlm_loss']:.4f}, perplexity {_perplexity(quality['perplexity'])}, "
        f"accuracy {quality['mlm_accuracy']:.1%}"
        for name, quality in (("untrained", result["start"]), ("fitted", result["final"]))
    ]
    if result["final"]["mlm_loss"] > 0.99 * result["start"]["mlm_loss"]:
        lines.append("Warning: the head is hardly better than an untrained one; give more --steps.")
    return "\n".join([f"{result['out']}: {result['model']} with an MLM head after {result['steps']} steps", *lines])


_TOO_LARGE = "too large for a number"


def _perplexity(value: float | None) -> str:
    return _TOO_LARGE if value is None else f"{value:.1f}"


def evaluation(result: dict[str, Any]) -> str:
    """List the values that `evaluate` measured."""
    lines = [f"{result['target']} ({result['sparsity']:.1%} pruned)"]
    lines += [f"  {key}: {result[key]:.4f}" for key in MEASURED if result[key] is not None]
    if "perplexity_tokens" in result:
        infinite = (key for key in ("perplexity", "word_perplexity") if result[key] is None)
        lines += [f"  {key}: {_TOO_LARGE}" for key in infinite]
    for task, scores in result.get("tasks", {}).items():
        shown = (f"{key} {value:.4f}" for key, value in scores.items() if "stderr" not in key)
        lines.append(f"  {task}: {', '.join(shown)}, over {result['task_examples'].get(task, 0):,} examples")
    compared = any(result[f"{name}_loss"] is not None for name in ("kd", "attention", "contrastive", "logits"))
    if compared and result["base"] is not None:
        lines.append(f"  compared with {result['base']}")
    elif compared:
        lines.append("  compared with itself, as it is a dense model; --base names another one")
    if result["tokens"] is not None:
        lines.append(f"  over {result['tokens']:,} tokens of {result['corpus']} ({result['segments']})")
    return "\n".join(lines)


def transfer(result: dict[str, Any], out: Path) -> str:
    """Show final and best metrics x100, and losses as they are, with standard deviations and the number of seeds."""
    lines = [f"{result['task']}, {_seeds(result, out)}"]
    lines += _scores(result)
    if result.get("selection_examples"):
        counts = ", ".join(f"{count:,}" for count in result["validation_examples"].values())
        others = ", ".join(f"{count:,}" for count in result["selection_examples"].values())
        lines.append(f"  scores are of {counts} dev examples; the best evaluation was chosen on {others} others")
    lines += _candidates(result)
    if result.get("train_windows") is not None:
        lines.append(f"  trained on {result['train_examples']:,} questions, {result['train_windows']:,} windows")
    if result.get("start_from", "pretrained") != "pretrained":
        lines.append(f"  started from: {result['start_from']}")
    if result.get("head") is not None:
        lines.append(f"  fine-tuned before on {result['from_task']}; head: {result['head']}")
    unlabelled = result["unlabelled_examples"]
    if any(unlabelled.values()):
        counts = ", ".join(f"{count} of {split}" for split, count in unlabelled.items())
        lines.append(f"  rows without a label, left out: {counts}")
    for split, classes in result.get("classes", {}).items() if len(result.get("labels", ())) > 2 else ():
        lines += _classes(split, classes, result["confusion"][split])
    lines += [f"Warning: {warning}" for warning in result.get("warnings", ())]
    return "\n".join(lines)


def _seeds(result: dict[str, Any], out: Path) -> str:
    """Return the number of seeds, and the folder of the run."""
    count = len(result["seeds"])
    return f"{count} {'seed' if count == 1 else 'seeds'}; saved in {out}"


def _scores(result: dict[str, Any], task: str = "") -> list[str]:
    """Return a line for each metric, with the score of one answer for all examples where it is known."""
    lines = []
    for name, kinds in result["metrics"].items():
        chance = (result.get("constant") or {}).get(name)
        above = "" if chance is None else f" (one answer for all examples: {100 * chance:.1f})"
        lines.append(f"  {task}{name}: {final_and_best(kinds, loss=name.endswith('loss'))}{above}")
    return lines


def _candidates(result: dict[str, Any]) -> list[str]:
    """Return a line for each candidate: its score on the part that it was chosen on, and those on the rest."""
    if not result.get("candidates"):
        return []
    fields = [name for name in ("learning_rate", "epochs", "dropout") if name in result["chosen"]]
    chosen = [result["chosen"][name] for name in fields]
    lines = [f"  chosen: {', '.join(f'{name} {value}' for name, value in zip(fields, chosen, strict=True))}"]
    for one in result["candidates"]:
        own = [one[name] for name in fields]
        scores = "diverged"
        if "final" in one:
            scores = f"{_mean_and_std(one['final_selection'])} where it was chosen; rest: {final_and_best(one)}"
        mark = "*" if own == chosen else " "
        lines.append(
            f"  {mark} {', '.join(f'{name} {value}' for name, value in zip(fields, own, strict=True))}: {scores}"
        )
    return lines


_SHOWN_CLASSES = 12  # largest number of classes of a confusion table on a terminal


def _classes(split: str, classes: dict[str, Any], confusion: list[list[int]]) -> list[str]:
    """Return lines with the scores of each class x100, and the confusion table if it is small enough to be read."""
    width = max(len("class"), *map(len, classes))
    small = len(classes) <= _SHOWN_CLASSES
    cells = [str(count) for row in confusion for count in row] if small else []
    cell = max([3, *map(len, cells), *(len(str(place)) for place in range(len(classes) + 1))])
    head = f"  {split}, final: {'class':<{width}}  precision  recall     f1  examples"
    pad = " " * (head.index("class") - 4)
    lines = [head + ("  predicted as 1, 2 ..." if small else "")]
    for number, ((name, scores), row) in enumerate(zip(classes.items(), confusion, strict=True), 1):
        line = f"{pad}{number:>3} {name:<{width}}  "
        line += f"{100 * scores['precision']:9.1f}  {100 * scores['recall']:6.1f}  {100 * scores['f1']:5.1f}  "
        line += f"{scores['examples']:8,}"
        lines.append(line + ("  " + " ".join(f"{count:>{cell}}" for count in row) if small else ""))
    return lines


def super_ticket(result: dict[str, Any], out: Path) -> str:
    """Show the scores x100 of every level and selection on the rest of the dev set, and the super ticket."""
    from winning_tickets.report.comparisons import describe_effect, describe_values
    from winning_tickets.report.tables import signed_percent

    lines = [f"{result['task']}, {result['metric']} on the rest of the dev set, {_seeds(result, out)}"]
    lines.append(f"  full model: {_mean_and_std(result['full']['rest'])}")
    for selection, levels in result["selections"].items():
        for level, facts in levels.items():
            left = f"{100 * facts['weight_remaining']:.1f} % of the weights"
            lines.append(f"  {selection} {level} %, {left}: {_mean_and_std(facts['rest'])}")
    best = result["super_ticket"]
    test = best["against"]["full"]["rest"]
    gain = f"against the full model {describe_effect(test['mean'], test, signed_percent)}"
    if result["full"]["degenerate"] or best["degenerate"]:
        gain = "its gain over the full model means nothing"
    elif len(set(test["learning_rates"].values())) > 1:
        rates = {"full model" if name == "other" else name: [rate] for name, rate in test["learning_rates"].items()}
        gain += f"; each with its best learning rate: {describe_values(rates)}"
    lines.append(f"super ticket: level {best['level']:g} %, in {best['folder']}; {gain}")
    lines += [f"Warning: {warning}" for warning in result.get("warnings", ())]
    return "\n".join(lines)


def sharing(result: dict[str, Any], out: Path) -> str:
    """Show the scores of each task x100, their averages and the share of kept weights; also those after fine-tuning."""
    lines = [f"{len(result['tasks'])} tasks on {result['model']}, {_seeds(result, out)}"]
    for name, task in result["tasks"].items():
        lines += _scores(task, f"{name} ")
        if task["ticket_id"] is not None:
            lines[-1] += f"; ticket keeps {task['weight_remaining']:.1%} of the encoder"
    lines += _two_averages(result)
    if result["tickets"] != "none":
        lines.append(f"weight remaining: {result['weight_remaining']:.1%} of the encoder is kept by at least one task")
    if "fine_tuned" in result:
        lines.append("fine-tuned on each task alone:")
        for name, task in result["fine_tuned"]["tasks"].items():
            lines += _scores(task, f"{name} ")
        lines += _two_averages(result["fine_tuned"])
    flat = [name for name, task in result["tasks"].items() if task["degenerate"]]
    if flat:
        lines.append(
            f"Warning: on {', '.join(flat)} the final model of a seed is no better than one answer for all examples. "
            "Train longer (--epochs, --steps), or try another --learning-rate."
        )
    return "\n".join(lines)


def _two_averages(result: dict[str, Any]) -> list[str]:
    found = result["averages"] or {}
    return [f"  {rule}: {final_and_best(kinds)}" for rule, kinds in found.items()]


def final_and_best(kinds: dict[str, Any], *, loss: bool = False) -> str:
    """Return the final and the best score as `final 71.2 ± 0.8, best 72.0 ± 0.5`."""
    if kinds["final"]["mean"] is None:  # the data lack the split
        return "not measured"
    return ", ".join(f"{kind} {_mean_and_std(kinds[kind], loss=loss)}" for kind in ("final", "best"))


def _mean_and_std(scores: dict[str, Any], *, loss: bool = False) -> str:
    """Return `71.2 ± 0.8` for a score, x100, or `1.234 ± 0.005` for a loss."""
    mean, std = scores["mean"], scores["std"]
    if loss:
        return f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def comparison(result: dict[str, Any], out: Path | None = None) -> str:
    """Show the overlap of two tickets in one line, and that of more as a matrix, with the chance level."""
    from winning_tickets.report.result import comparison_table

    if len(names := result["labels"]) > 2:
        text = comparison_table(result).text()
    else:
        kept, pruned = result["kept_jaccard"][0][1], result["pruned_jaccard"][0][1]
        chance = result["chance_kept"][0][1]
        text = f"{names[0]} | {names[1]}: kept {kept:.4f} (chance {chance:.4f}), pruned {pruned:.4f}"
    return text if out is None else f"{text}\nSaved in {out}"


def title_of(result: dict[str, Any]) -> str:
    """Return the title of the picture of a ticket."""
    return f"{result['method']}, {100 * result['sparsity']:.3g} % sparsity, {result['base']['name']}"


def description(result: dict[str, Any]) -> str:
    """Describe a ticket."""
    lines = [
        f"{result['method']} ticket {result['id']} of {result['base']['name']}",
        f"  sparsity: {result['sparsity']:.6f} ({result['pruned']:,} of {result['total']:,}, scope {result['scope']})",
    ]
    if result["pattern"]:
        lines.append(f"  pattern: {result['pattern']} along the input dimension")
    if result["shared_layers"]:
        lines.append("  all layers share these weights: a weight that is pruned is pruned in every layer")
    units = result["units"] or {}
    lines += [f"  {unit}: {count['pruned']:,} of {count['total']:,} pruned" for unit, count in units.items()]
    by_matrix = {name: f"{value:.4f}" for name, value in result["by_matrix"].items()}
    if len(by_matrix) > 1 and len(set(by_matrix.values())) == 1:
        lines.append(f"  each of the {len(by_matrix)} matrices: {next(iter(by_matrix.values()))}")
    else:
        lines += [f"  {name}: {value}" for name, value in by_matrix.items()]
    for name, empty in result["empty"].items():
        if any(empty.values()):
            lines.append(f"  {name}: {empty['rows']:,} rows and {empty['columns']:,} columns keep no weight")
    if result["tickets_inside"]:
        lines.append(f"  tickets inside: {', '.join(result['tickets_inside'])}")
    if "figure" in result:
        lines.append(f"  masks drawn in {result['figure']}")
    return "\n".join(lines)


def predictions(result: dict[str, Any]) -> str:
    """Show each text with its label and probability, its score, its labels, the label of each word, or the answer."""
    return "\n".join(f"{_predicted(item)}\t{' | '.join(item['text'])}" for item in result["predictions"])


def predicted_file(result: dict[str, Any]) -> str:
    """Show the number of rows, in all and of each class."""
    counts = ", ".join(f"{name} {count:,}" for name, count in result["counts"].items())
    return f"{result['rows']:,} rows of {result['input']} labeled in {result['out']}" + (
        f": {counts}" if counts else ""
    )


def _predicted(item: dict[str, Any]) -> str:
    if "answer" in item:
        return str(item["answer"]) or "(no answer)"
    if "words" in item:
        pairs = zip(item["words"], item["labels"], strict=True)
        return " ".join(f"{word}/{'(cut off)' if label is None else label}" for word, label in pairs)
    if "labels" in item:
        return ", ".join(f"{name} ({item['scores'][name]:.3f})" for name in item["labels"]) or "(no label)"
    return f"{item['score']:.3f}" if "score" in item else f"{item['label']} ({max(item['scores'].values()):.3f})"


def derived(result: dict[str, Any]) -> str:
    """Describe a ticket that was made from others."""
    return (
        f"{result['method']} ticket {result['ticket_id']} of {', '.join(result['parents'])}\n"
        f"  sparsity: {result['sparsity']:.6f} ({result['pruned']:,} of {result['total']:,}); saved in {result['out']}"
    )


def exported(result: dict[str, Any]) -> str:
    """Describe an export, with a note on its use."""
    return f"{result['format']} export written to {result['out']}\n{result['note']}"


def submission(result: dict[str, Any]) -> str:
    """List the files that were written, and those that the server also requires."""
    lines = [f"  {name}: {file['rows']:,} predictions of {file['run']}" for name, file in result["files"].items()]
    if result["missing"]:
        lines.append(f"The GLUE server wants these too: {', '.join(result['missing'])}")
    lines += result["notes"]
    return "\n".join([f"GLUE submission in {result['out']}:", *lines])


def imported(result: dict[str, Any]) -> str:
    """Describe the ticket of a mask file."""
    return (
        f"{result['out']}: ticket {result['ticket_id']} of {result['model']}, names as in {result['convention']}\n"
        f"  sparsity: {result['sparsity']:.6f} ({result['pruned']:,} of {result['total']:,}, scope {result['scope']})"
    )


def measurement(result: dict[str, Any]) -> str:
    """Show sizes, then for each batch size and length the time, next to that of the dense model."""
    parameters, size = result["parameters"], result["bytes_on_disk"]
    of = "ONNX file"
    if parameters["encoder"] is not None:
        of = f"encoder of {parameters['encoder']:,} parameters, {parameters['non_zero']:,} not zero"
    lines = [
        f"{result['target']}: {of}"
        + ("" if result["dense"] is None else f" (dense: {result['dense']['parameters']['encoder']:,})")
        + ("" if size is None else f"; weights of {size / 1e6:.1f} MB")
    ]
    for shape in result["shapes"]:
        latency = shape["latency_seconds"]
        line = f"  {shape['batch']} x {shape['length']} tokens: {_milliseconds(latency)}, "
        line += f"{shape['texts_per_second']['median']:.1f} texts/s"
        line += "" if shape["flops"] is None else f", {shape['flops'] / 1e9:.2f} GFLOPs"
        if "speedup" in shape:
            speed = shape["speedup"]
            line += f"; dense {_milliseconds(shape['dense_latency_seconds'])}: {speed['median']:.2f} times as fast "
            line += f"[{speed['lower_quartile']:.2f}, {speed['upper_quartile']:.2f}]"
            line += "" if shape["flops_ratio"] is None else f", {shape['flops_ratio']:.2f} by FLOPs"
        lines.append(line)
    where = f"{result['device']}, {result['threads']} thread(s)"
    lines.append(f"Medians [quartiles] of {result['repeats']} passes on {where}")
    if "int8" in result:
        cosine = result["int8"]["cosine"]
        lines.append(f"int8: cosine to the float model's outputs {cosine['mean']:.4f}, lowest {cosine['lowest']:.4f}")
    return "\n".join([*lines, result["expectation"], *(f"Warning: {text}" for text in result.get("warnings", ()))])


def _milliseconds(latency: dict[str, float]) -> str:
    median, low, high = (1000 * latency[key] for key in ("median", "lower_quartile", "upper_quartile"))
    return f"{median:.1f} ms [{low:.1f}, {high:.1f}]"


def cache(result: dict[str, Any]) -> str:
    """List the entries of the cache and their sizes."""
    lines = [f"{result['root']}: {len(result['entries'])} entries"]
    lines += [f"  {entry['key']}: {entry.get('bytes', 0) / 1e6:.1f} MB" for entry in result["entries"]]
    return "\n".join(lines)


def verification(result: dict[str, Any]) -> str:
    """List the findings, then the numbers of files that were hashed, and of those that could only be opened."""
    lines = [f"{one['kind']}: {one['path']}: {one['detail']}" for one in result["findings"]]
    seen = f"{result['files_hashed']} files hashed ({result['bytes_hashed'] / 1e6:.1f} MB)"
    seen += f", {result['files_opened']} without hashes opened"
    if result["runs"]:
        seen += f"; {result['runs']} runs of stores"
    for key, meaning in (("running", "running, left alone"), ("unsealed", "done, never hashed")):
        if ids := result[key]:
            lines.append(f"{meaning}: {listed(ids, 5)}")
    verdict = "nothing is wrong" if result["ok"] else f"{len(result['findings'])} findings"
    return "\n".join([*lines, f"{verdict}; {seen}"])
