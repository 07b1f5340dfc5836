"""Model cards: the README.md of a saved folder, generated from facts and results in its own metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from winning_tickets import __version__
from winning_tickets.config.builtin_models import BUILTIN, builtin
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs import hub, memory
from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.escapes import escaped, markdown_cell, markdown_code, python_literal
from winning_tickets.runs.files import is_number, read_object, write_text
from winning_tickets.runs.results import RESULT

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

CARD = "README.md"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
IN_MEMORY = "a model in memory"  # the name of a base model that was built in memory
FACTS = "winning_tickets"  # key of the metadata with the facts that the text is generated from
_PIPELINES = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}
"""Pipeline tags by the ending of the model's class; other models are for feature extraction."""

_TASK_TYPES = {"span": "question-answering", "tokens": "token-classification"}
_AUTO = "from transformers import {auto}\nmodel = {auto}.from_pretrained({name}{trust})"
_ONNX = (
    "import onnxruntime\nfrom huggingface_hub import hf_hub_download\n"
    'session = onnxruntime.InferenceSession(hf_hub_download({name}, "model.onnx"))'
)
_KINDS: dict[str, tuple[str, str]] = {
    "ticket": (
        "A ticket: one bit for each weight of {base} that may be pruned. The weights are those of the base model.",
        "from transformers import AutoModel\nfrom winning_tickets import Ticket\n"
        "model = Ticket.from_pretrained({name}).apply_(AutoModel.from_pretrained({load}))",
    ),
    "masked": ("{base} with the pruned weights at zero, as large and as fast as the dense model.", _AUTO),
    "compact": ("{base} without its pruned heads, neurons and FFNs: smaller and faster.", _AUTO),
    "encoder": ("The encoder of a model that was fine-tuned from {base}, without its head.", _AUTO),
    "fine-tuned": ("{base}, fine-tuned on {tasks} with the pruned weights held at zero.", _AUTO),
    "mlm-head": ("{base} with a trained head for masked language modeling.", _AUTO),
    "shared": (
        "One encoder for {tasks}, trained from {base}, with a head and a ticket for each task.",
        "from huggingface_hub import snapshot_download\nfrom winning_tickets import SharedModel\n"
        "model = SharedModel.open(snapshot_download({name})).load_task({task}).model",
    ),
    "onnx": ("{base}, pruned, as a file for ONNX Runtime.", _ONNX),
    "onnx-int8": ("{base}, pruned, as a file for ONNX Runtime, with its matrices as 8-bit integers.", _ONNX),
    "mask-pt": (
        "The masks of a ticket of {base}, as the released code of the papers stores them.",
        "import torch\nfrom huggingface_hub import hf_hub_download\n"
        'masks = torch.load(hf_hub_download({name}, "mask.pt"), weights_only=True)',
    ),
}
"""For each kind of folder: what it is, and code that loads it."""

_PAPERS = {
    "mask-training": (
        "Liu, Yuanxin and Meng, Fandong and Lin, Zheng and Fu, Peng and Cao, Yanan and Wang, Weiping and Zhou, Jie",
        "Learning to Win Lottery Tickets in {BERT} Transfer via Task-agnostic Mask Training",
        "NAACL",
        2022,
    ),
    "imp": (
        "Chen, Tianlong and Frankle, Jonathan and Chang, Shiyu and Liu, Sijia and Zhang, Yang and Wang, Zhangyang and "
        "Carbin, Michael",
        "The Lottery Ticket Hypothesis for Pre-trained {BERT} Networks",
        "NeurIPS",
        2020,
    ),
    "importance": (
        "Liang, Chen and Zuo, Simiao and Chen, Minshuo and Jiang, Haoming and Liu, Xiaodong and He, Pengcheng and "
        "Zhao, Tuo and Chen, Weizhu",
        "Super Tickets in Pre-Trained Language Models: From Model Compression to Improving Generalization",
        "ACL",
        2021,
    ),
    "wanda": (
        "Sun, Mingjie and Liu, Zhuang and Bair, Anna and Kolter, J. Zico",
        "A Simple and Effective Pruning Approach for Large Language Models",
        "ICLR",
        2024,
    ),
    "movement": (
        "Sanh, Victor and Wolf, Thomas and Rush, Alexander M.",
        "Movement Pruning: Adaptive Sparsity by Fine-Tuning",
        "NeurIPS",
        2020,
    ),
    "snip": (
        "Lee, Namhoon and Ajanthan, Thalaiyasingam and Torr, Philip H. S.",
        "{SNIP}: Single-shot Network Pruning based on Connection Sensitivity",
        "ICLR",
        2019,
    ),
}
"""For each method: authors, title, conference and year of its paper."""


def published_name(name: str) -> str | None:
    """Return the hub id of a model's weights; None for a folder."""
    if name.startswith(BUILTIN):
        return builtin(name).hub
    is_id = _HUB_ID.fullmatch(name) is not None and not name.startswith(".")
    return name if is_id and not Path(name).is_dir() else None


def license_of(name: str, revision: str | None = None, *, ask: bool = False) -> str | None:
    """Return the license that a model's card states, or None; the hub is contacted only if `ask`."""
    from huggingface_hub import ModelCard, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    if name.startswith(BUILTIN):
        return builtin(name).license
    path = Path(name).expanduser() / "README.md"
    if published_name(name) is not None:
        found = try_to_load_from_cache(name, path.name, revision=revision)
        if not isinstance(found, str) and ask:
            absent = (RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError)
            with hub.hub_errors(f"Could not read the license of {name}"), suppress(*absent):
                found = hf_hub_download(name, path.name, revision=revision)
        path = Path(found) if isinstance(found, str) else path
    try:
        stated = ModelCard.load(path, ignore_metadata_errors=True).data.get("license") if path.is_file() else None
    except (OSError, ValueError, yaml.YAMLError):
        return None  # this README.md is not a model card
    return stated if isinstance(stated, str) and len(stated) < 100 else None


def base_facts(name: str, revision: str | None = None, layers: int | None = None) -> dict[str, Any]:
    """Return facts about a base model; for one in a local folder, only the folder's name and not its path."""
    published = published_name(name)
    return {
        "base": published or (IN_MEMORY if name.startswith(memory.PREFIX) else Path(name).name),
        "on_hub": published is not None,
        "revision": revision,
        "layers": layers,
        "license": license_of(name, revision),
    }


def ticket_facts(ticket: Any) -> dict[str, Any]:
    """Return facts about a `Ticket`."""
    info, base, config = ticket.info, ticket.base, ticket.info.config
    matrices: dict[str, list[float]] = {}
    for name, share in ticket.sparsity_by_matrix().items():
        matrices.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(share)
    tasks = config.get("tasks")  # settings of a user's own method may have any type
    named = (config.get("corpus"), *(tasks if isinstance(tasks, list | tuple) else [tasks]), config.get("task"))
    data = [_public(str(one)) for one in named if one]
    return base_facts(base.name, base.revision, base.layers) | {
        "kind": "ticket",
        "ticket": ticket.id,
        "method": info.method,
        "objective": config.get("objective") if info.method not in ("random", "magnitude") else None,
        "data": ", ".join(dict.fromkeys(data)) or None,
        "scope": info.scope,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "steps": info.step,
        "seed": info.seed,
        "parents": list(info.parents),
        "by_matrix": {name: sum(shares) / len(shares) for name, shares in matrices.items()},
    }


def model_facts(
    kind: str, base: str, ticket: Any, tasks: Iterable[str] = (), *, model_class: str = ""
) -> dict[str, Any]:
    """Return facts about a saved model: its kind (a key of `_KINDS`), base model, ticket (if any), tasks and class."""
    known = base_facts(base) if ticket is None else ticket_facts(ticket)
    return known | {"kind": kind, "tasks": list(tasks), "model_class": model_class}


def _public(name: str) -> str:
    """Return the name of a corpus or file without the folders of this machine."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def results_of(result: Mapping[str, Any]) -> list[EvalResult]:
    """Return the scores in a stored result of `transfer` or `share`, or the values that `evaluate` measured."""
    if isinstance(result.get("tasks"), Mapping):
        return [one for name, own in result["tasks"].items() for one in _scores(str(name), {**result, **own})]
    if "task" in result and ("metrics" in result or "final" in result):
        return _scores(str(result["task"]), result)
    return _preserved(result)


def _scores(task: str, result: Mapping[str, Any]) -> list[EvalResult]:
    """Return the final scores on a task; with several seeds, their means."""
    from huggingface_hub import EvalResult

    known, seeds = TASKS.get(task), len(result.get("seeds", ()))
    data, config = (known and known.hub) or (_public(task), None)
    about = {"task_type": _TASK_TYPES.get(known.kind if known else "", "text-classification"), "dataset_config": config}
    about |= {"dataset_type": data, "dataset_name": task, "dataset_split": "validation"}
    found = []
    for metric, value in (result.get("metrics") or result["final"]).items():
        mean, std = (value["final"]["mean"], value["final"]["std"]) if isinstance(value, Mapping) else (value, None)
        if is_number(mean):
            name = metric if seeds < 2 else f"{metric}, mean of {seeds} seeds"
            name += "" if std is None else f", standard deviation {std:.4f}"
            found.append(EvalResult(metric_type=metric, metric_name=name, metric_value=mean, **about))
    return found


def _preserved(result: Mapping[str, Any]) -> list[EvalResult]:
    """Return the values that `evaluate` measured."""
    from huggingface_hub import EvalResult

    found = []
    for measure, value in result.items():
        if _is_preserved(measure) and is_number(value):
            pairs, kind = measure.startswith("similarity"), "fill-mask" if measure.startswith("mlm") else ""
            data = _public(str(result.get("pairs_from" if pairs else "corpus") or "text"))
            split = None if pairs else result.get("split")
            kind = kind or ("sentence-similarity" if pairs else "feature-extraction")
            found.append(EvalResult(kind, data, data, measure, value, dataset_split=split))
    return found


def _is_preserved(measure: str) -> bool:
    return measure.endswith("_loss") or measure.startswith(("mlm_", "similarity_"))


def read_results(paths: Iterable[Path | str], facts: Mapping[str, Any]) -> list[EvalResult]:
    """Read results from folders of transfers or files of `evaluate --json`; refuse results of other tickets."""
    found = []
    for path in map(Path, paths):
        result = read_object(path / RESULT if path.is_dir() else path, "result")
        ids = {one["ticket_id"] for one in (result, *_parts(result)) if "ticket_id" in one}
        if facts.get("kind") != "ticket":
            ids -= {None}  # a run that starts from an export does not name the ticket of the export
        if ids and facts.get("ticket") not in ids:
            whose = ", ".join(sorted("a run without a ticket" if one is None else f"the ticket {one}" for one in ids))
            raise ContentError(
                f"{path} has results of {whose}, and this is {facts.get('ticket') or 'a dense model'}; give results of "
                "runs whose target is the same ticket."
            )
        own = results_of(result)
        if not own:
            raise ContentError(f"{path} has no scores; give a transfer, or the output of tickets evaluate --json.")
        found += own
    return found


def _parts(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tasks = result.get("tasks")
    return list(tasks.values()) if isinstance(tasks, Mapping) else []


def make_card(facts: Mapping[str, Any], results: Iterable[EvalResult] = (), name: str | None = None) -> str:
    """Return the text of a folder's card; `name` is its repository on the hub."""
    from huggingface_hub import ModelCardData

    given = {key: value for key, value in facts.items() if value not in (None, [], {}, ())}
    facts = {"version": __version__, **escaped(given)}
    kind, base, results = facts["kind"], facts["base"], list(results)
    what, usage = _KINDS[kind]
    options = [f", revision={python_literal(facts['revision'])}"] if "revision" in facts else []
    options += [f", num_hidden_layers={python_literal(facts['layers'])}"] if "layers" in facts else []
    ending = next((one for one in _PIPELINES if str(facts.get("model_class", "")).endswith(one)), "")
    words = {"base": markdown_cell(base), "tasks": markdown_cell(", ".join(facts.get("tasks", ())) or "a task")}
    code = {
        "name": python_literal(name or "DIR"),
        "load": "".join([python_literal(base), *options]),
        "task": python_literal(next(iter(facts.get("tasks", ())), "")),
        "auto": f"AutoModel{ending}",
        "trust": ", trust_remote_code=True" if facts.get("remote_code") else "",
    }
    is_model, title = usage == _AUTO, f"{kind} of {words['base']}"
    data = ModelCardData(
        base_model=facts["base"] if facts.get("on_hub") else None,
        base_model_relation="finetune" if facts.get("on_hub") else None,
        library_name="transformers" if is_model else None if usage == _ONNX else "winning-tickets",
        license=facts.get("license"),
        pipeline_tag=_PIPELINES.get(ending, "feature-extraction") if is_model else None,
        tags=list(dict.fromkeys(("winning-tickets", "pruning", "lottery-ticket", kind, facts.get("method") or kind))),
        model_name=name or ("DIR" if results else None),
        eval_results=results or None,
        **{FACTS: facts},
    )
    return _template().render(
        card_data=front_matter(data.to_dict()),
        title=f"{title[:1].upper()}{title[1:]}",
        what=what.format(**words),
        rows=[(key, text) for key, text in _rows(facts).items() if text],
        by_matrix=facts.get("by_matrix"),
        preserved=[one for one in results if _is_preserved(one.metric_type)],
        scores=[one for one in results if not _is_preserved(one.metric_type)],
        usage=usage.format(**code),
        license=_license_text(facts),
        citation=_citation(facts.get("method")),
    )


@cache
def _template() -> jinja2.Template:
    text = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(keep_trailing_newline=True)  # noqa: S701 - Markdown, quoted by the filters
    environment.filters.update(code=markdown_code, cell=markdown_cell)
    return environment.from_string(text)


class _Quoting(yaml.SafeDumper):
    """Writes text that is not plain in double quotes."""


_Quoting.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if "<" in text or not text.isprintable() else None
    ),
)


def front_matter(metadata: Mapping[str, Any]) -> str:
    """Return metadata as YAML that means nothing to a reader of HTML."""
    written: str = yaml.dump(escaped(metadata), Dumper=_Quoting, sort_keys=False, allow_unicode=True)
    return written.strip().replace("<", r"\x3c")


def _rows(facts: Mapping[str, Any]) -> dict[str, str]:
    base, link = facts["base"], facts.get("on_hub") and _HUB_ID.fullmatch(facts["base"])
    where = "" if base == IN_MEMORY else ", a local folder"
    about = "".join(f", {key} {facts[key]}" for key in ("revision", "layers") if key in facts)
    shown = markdown_cell(base)
    known = f"[{shown}](https://huggingface.co/{base})" if link else shown + where
    rows = {
        "method": ", ".join(str(facts[key]) for key in ("method", "objective") if key in facts),
        "corpus or task": facts.get("data") or ", ".join(facts.get("tasks", ())),
        "sparsity": f"{100 * facts['sparsity']:.2f} %" if "sparsity" in facts else "",
        "scope": facts.get("scope", ""),
        "steps": str(facts.get("steps", "")),
        "seed": str(facts.get("seed", "")),
        "ticket": facts.get("ticket", ""),
        "made with": f"winning-tickets {facts['version']}",
    }
    if "total" in facts:
        rows["sparsity"] += f", {facts['pruned']:,} of {facts['total']:,} weights"
    return {"base model": known + markdown_cell(about)} | {key: markdown_cell(text) for key, text in rows.items()}


def _license_text(facts: Mapping[str, Any]) -> str:
    if "license" in facts:
        return f"The base model has the license {markdown_code(facts['license'])}, which goes for what derives from it."
    return "The license of the base model is not known here; it goes for what derives from it."


def _citation(method: str | None) -> str:
    software = "@software{winning_tickets,\n  title = {winning-tickets},\n  version = {%s}\n}" % __version__  # noqa: UP031 - braces are those of BibTeX
    if method not in _PAPERS:
        return software
    authors, title, venue, year = _PAPERS[method]
    key = re.sub(r"\W", "", authors.partition(",")[0]).lower() + str(year)
    fields = {"author": authors, "title": title, "booktitle": venue, "year": str(year)}
    inner = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"{software}\n\n@inproceedings{{{key},\n{inner}\n}}"


def write_card(folder: Path, facts: Mapping[str, Any], results: Iterable[EvalResult] = ()) -> None:
    """Write the card of a folder, unless somebody has written another README.md there."""
    text, path = make_card(facts, results), folder / CARD
    if not path.is_file() or _is_ours(read_card(folder)):
        write_text(path, text)


def read_card(folder: Path) -> ModelCard | None:
    """Read the card of a folder; None without one."""
    from huggingface_hub import ModelCard

    if not (folder / CARD).is_file():
        return None
    try:
        return ModelCard.load(folder / CARD, ignore_metadata_errors=True)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ContentError(f"{folder / CARD} is not a model card ({str(error).splitlines()[0]}).") from error


def _is_ours(card: ModelCard | None) -> bool:
    """Return whether the text is exactly what is generated from its metadata, so that nobody has edited it."""
    from huggingface_hub import ModelCard

    if card is None:
        return False
    facts = card.data.get(FACTS)
    try:
        own = ModelCard(make_card(facts, card.data.eval_results or (), card.data.get("model_name")))
    except (TypeError, KeyError, AttributeError, ValueError):
        return False
    return str(own).strip() == str(card).strip()


def publish(
    folder: Path,
    files: Iterable[str],
    repo: str,
    *,
    facts: Mapping[str, Any] | None = None,
    results: Iterable[Path | str] = (),
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> dict[str, Any]:
    """Push files of a folder to a repository of the hub, with the folder's card; see `deploy.publish.push`."""
    repo = hub.check_access(repo, token)
    card = _published_card(folder, repo, results, facts)
    content: dict[str, Path | bytes] = {name: folder / name for name in files if name != CARD}
    content[CARD] = card.encode("utf-8")
    return hub.push(
        repo,
        content,
        message or f"Push with winning-tickets {__version__}",
        private=private,
        token=token,
        revision=revision,
    )


def _published_card(folder: Path, repo: str, results: Iterable[Path | str], facts: Mapping[str, Any] | None) -> str:
    """Return the card of a folder for a repository, with further results; the text of an edited card is kept."""
    card = read_card(folder)
    known = (card.data.get(FACTS) if card is not None else None) or facts
    if card is None and known is None:
        raise ContentError(f"{folder} has no {CARD}; write one, or save the model again.")
    known = dict(known or {})
    earlier = (card.data.eval_results or ()) if card is not None else ()
    # A later result replaces an earlier one of the same metric and data.
    both = [*earlier, *read_results(results, known)]
    every = list({(one.unique_identifier, one.metric_type): one for one in both}.values())
    if card is not None and not _is_ours(card):
        card.data.eval_results, card.data.model_name = every or None, card.data.get("model_name") or repo
        return str(card)
    if known.get("on_hub") and "license" not in known:
        known["license"] = license_of(known["base"], known.get("revision"), ask=True)
    return make_card(known, every, repo)
