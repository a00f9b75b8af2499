"""Input embeddings without the model: the same as its own table, for any names and shards of its files."""

from pathlib import Path

import pytest
import torch
from families import CAUSAL
from tiny import tiny_llama, tiny_t5, tiny_tokenizer
from transformers import AutoModelForCausalLM

from prompttransfer.models.embeddings import Embeddings

IDS = (3, 7, 7, 0, 20)


def saved(folder: Path, model: torch.nn.Module, **options: object) -> Path:
    model.save_pretrained(folder, **options)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def wanted(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.get_input_embeddings()(torch.tensor(IDS))


@pytest.mark.parametrize("family", CAUSAL)
def test_rows_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = saved(tmp_path, CAUSAL[family]())
    assert torch.equal(Embeddings.load(folder).embed(IDS), wanted(folder))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_in_bfloat16_and_in_several_files(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = saved(tmp_path, CAUSAL[family]().bfloat16(), max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    embeddings = Embeddings.load(folder)
    assert embeddings.table.dtype == torch.bfloat16 and embeddings.hidden_size == 16
    assert torch.equal(embeddings.embed(IDS), wanted(folder))
    assert embeddings.embed(()).shape == (0, 16)


def test_a_file_may_leave_out_the_start_of_a_name(tmp_path: Path) -> None:
    """As in GPT-2."""
    from safetensors.torch import load_file, save_file

    folder = saved(tmp_path, CAUSAL["gpt2"]())
    weights = load_file(folder / "model.safetensors")
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    assert renamed.keys() != weights.keys()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(Embeddings.load(folder).embed(IDS), weights["transformer.wte.weight"][list(IDS)])


def test_models_without_such_a_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="encoder-decoder"):
        Embeddings.load(saved(tmp_path / "t5", tiny_t5()))
    folder = saved(tmp_path / "llama", tiny_llama())
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no safetensors file has its input embeddings model\.embed_tokens\.weight"):
        Embeddings.load(folder)
    with pytest.raises(ValueError, match="no such folder"):
        Embeddings.load(tmp_path / "none")
