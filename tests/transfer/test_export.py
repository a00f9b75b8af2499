"""Prompt files, and adapters that PEFT itself loads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from prompttransfer.interchange import export_peft, read_prompt, write_prompt


def test_prompt_file_round_trip(tmp_path: Path) -> None:
    path, prompt = tmp_path / "new" / "p.safetensors", torch.randn(3, 8)
    write_prompt(path, prompt, {"task": "amazon", "score": "88.1"})
    read, metadata = read_prompt(path)
    assert torch.equal(read, prompt) and metadata == {"task": "amazon", "score": "88.1"}
    write_prompt(path, prompt.to(torch.bfloat16), {})
    assert read_prompt(path)[0].dtype == torch.float32
    assert [file.name for file in path.parent.iterdir()] == ["p.safetensors"]


def test_bad_prompt_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"p\.safetensors: no such prompt file"):
        read_prompt(tmp_path / "p.safetensors")
    (tmp_path / "p.safetensors").write_bytes(b"not one")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read_prompt(tmp_path / "p.safetensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="holds weight, want a tensor 'prompt'"):
        read_prompt(tmp_path / "w.safetensors")
    save_file({"prompt": torch.ones(2)}, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=r"has shape \(2,\), want \(L, H\)"):
        read_prompt(tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=r"finite \(L, H\) matrix"):
        write_prompt(tmp_path / "x.safetensors", torch.full((2, 2), torch.nan), {})
    assert not (tmp_path / "x.safetensors").exists()


def llama() -> LlamaForCausalLM:
    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).eval()


def t5() -> T5ForConditionalGeneration:
    sizes = {"vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()


@pytest.mark.parametrize("build", [llama, t5])
def test_peft_loads_the_adapter_and_computes_the_same(tmp_path: Path, build) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model, prompt, ids = build(), torch.randn(3, 8), torch.tensor([[4, 5, 6, 7]])
    embeds = torch.cat([prompt[None], model.get_input_embeddings()(ids)], dim=1)
    seq2seq = model.config.is_encoder_decoder
    extra = {"decoder_input_ids": torch.tensor([[0]])} if seq2seq else {}
    with torch.no_grad():
        expected = model(inputs_embeds=embeds, **extra).logits
    folder = export_peft(prompt, tmp_path / "adapter", base_model="tiny", seq2seq=seq2seq)
    adapted = peft.PeftModel.from_pretrained(model, folder).eval()
    assert torch.equal(adapted.get_prompt_embedding_to_save("default"), prompt)
    with torch.no_grad():
        logits = adapted(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits
    torch.testing.assert_close(logits, expected)


def test_export_does_not_overwrite(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="name a new folder"):
        export_peft(torch.ones(2, 4), tmp_path, base_model="tiny")
