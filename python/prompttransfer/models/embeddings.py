"""A causal model's tokenizer and input embeddings, without its layers: enough to prepare what a server reads."""

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
    """What `Backbone` does with a text before its first layer.

    Attributes:
        name: of the model.
        table: (V, H), as stored.
        layer: the module that looks rows up, without weights; some families (Gemma) scale them there.
        max_length: text tokens kept of a row.
        fingerprint: unknown, since the weights are not read.
    """

    name: str
    tokens: Tokens
    table: Tensor
    layer: nn.Module
    max_length: int = 256
    fingerprint: str = ""

    @classmethod
    def load(cls, name: str | Path, *, max_length: int = 256) -> Embeddings:
        """Read the tokenizer and one tensor of a hub id or a local folder.

        Raises:
            ValueError: no such model, an encoder-decoder, or no safetensors file that holds its input embeddings.
            ConnectionError: it is not on this machine, and the hub does not answer.
        """
        config = read_configuration(str(name))
        if config.is_encoder_decoder:
            raise ValueError(
                f"model {str(name)!r} is an encoder-decoder; only causal models read embeddings on a server"
            )
        with init_empty_weights():  # buffers are real: the scale of the embeddings is one
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        layer = model.get_input_embeddings()
        layer.padding_idx = None  # only matters for gradients, and may lie beyond the rows that are looked up
        place = next(place for place, module in model.named_modules() if module is layer)
        table = _tensor(str(name), f"{place}.weight", tuple(layer.weight.shape))
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        return cls(str(name), Tokens(tokenizer, seq2seq=False), table, layer, max_length)

    @property
    def hidden_size(self) -> int:
        return self.table.shape[1]

    @torch.no_grad()
    def embed(self, ids: tuple[int, ...]) -> Tensor:
        """Token ids (N) as the first layer reads them, (N, H) float32."""
        rows = self.table[torch.tensor(ids, dtype=torch.int64)].float()
        embedded: Tensor = functional_call(self.layer, {"weight": rows}, (torch.arange(len(ids)),))
        return embedded


def _tensor(name: str, key: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of a model's files; a file may call it by less or more of its path than the model does."""
    for file in _files(name, key):
        with safe_open(file, framework="pt") as content:
            for stored in content.keys():  # noqa: SIM118
                if _same(stored, key) and tuple(content.get_slice(stored).get_shape()) == shape:
                    return content.get_tensor(stored)
    raise ValueError(f"model {name!r}: no safetensors file holds its input embeddings {key} {shape}")


def _files(name: str, key: str) -> list[str]:
    """The files that may hold a tensor; those of the hub are fetched if they are not here."""
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
