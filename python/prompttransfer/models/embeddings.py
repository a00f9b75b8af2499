"""A causal model's tokenizer and input embeddings, without its layers: enough to prepare the input of a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import cached_file

from prompttransfer.files.json_file import read_json
from prompttransfer.models.loading import read_configuration
from prompttransfer.models.tokens import Tokens

_WEIGHTS, _SHARDS = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Embeddings:
    """Tokenize and embed texts as `Backbone` does before its first layer.

    Attributes:
        name: name of the model.
        table: embedding table (V, H), in its stored type.
        layer: the module that looks up rows, without weights. Some families (Gemma) scale the embeddings in it.
        max_length: text tokens to keep per row.
        fingerprint: empty, because the weights are not read.
    """

    name: str
    tokens: Tokens
    table: Tensor
    layer: nn.Module
    max_length: int = 256
    fingerprint: str = ""

    @classmethod
    def load(cls, name: str | Path, *, max_length: int = 256) -> Embeddings:
        """Load the tokenizer and the embedding table of a hub ID or a local folder.

        Raises:
            ValueError: there is no such model, it is an encoder-decoder, or no safetensors file has its embeddings.
            ConnectionError: the model is not on this machine, and the hub does not answer.
        """
        config = read_configuration(str(name))
        if config.is_encoder_decoder:
            raise ValueError(
                f"model {str(name)!r} is an encoder-decoder; servers read embeddings for causal models only"
            )
        with init_empty_weights():  # keeps buffers, such as the scale of the embeddings
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        layer = model.get_input_embeddings()
        layer.padding_idx = None  # matters for gradients only, and may exceed the rows of the lookup
        place = next(place for place, module in model.named_modules() if module is layer)
        table = _tensor(str(name), f"{place}.weight", tuple(layer.weight.shape))
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        return cls(str(name), Tokens(tokenizer, seq2seq=False), table, layer, max_length)

    @property
    def hidden_size(self) -> int:
        return self.table.shape[1]

    @torch.no_grad()
    def embed(self, ids: tuple[int, ...]) -> Tensor:
        """Embed token ids (N) as the first layer reads them, (N, H) float32."""
        rows = self.table[torch.tensor(ids, dtype=torch.int64)].float()
        embedded: Tensor = functional_call(self.layer, {"weight": rows}, (torch.arange(len(ids)),))
        return embedded


def _tensor(name: str, key: str, shape: tuple[int, ...]) -> Tensor:
    """Read a tensor from a model's files. Its name may have fewer or more path components than in the model."""
    for file in _files(name, key):
        with safe_open(file, framework="pt") as content:
            for stored in content.keys():  # noqa: SIM118
                if _same(stored, key) and tuple(content.get_slice(stored).get_shape()) == shape:
                    return content.get_tensor(stored)
    raise ValueError(f"model {name!r}: no safetensors file has its input embeddings {key} {shape}")


def _files(name: str, key: str) -> list[str]:
    """Files that may have a tensor. Files of the hub are downloaded if necessary."""
    options = {"_raise_exceptions_for_missing_entries": False}
    single = cached_file(name, _WEIGHTS, **options)
    if single is not None:
        return [single]
    index = cached_file(name, _SHARDS, **options)
    shards = read_json(Path(index))["weight_map"] if index is not None else {}
    names = sorted({file for stored, file in shards.items() if _same(stored, key)})
    return [file for file in (cached_file(name, each, **options) for each in names) if file is not None]


def _same(stored: str, key: str) -> bool:
    return f".{stored}".endswith(f".{key}") or f".{key}".endswith(f".{stored}")
