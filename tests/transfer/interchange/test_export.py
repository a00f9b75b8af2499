"""Prompt files, and adapters that PEFT itself loads and saves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from typer.testing import CliRunner

from prompttransfer import cli
from prompttransfer.interchange import (
    Card,
    Factors,
    export_files,
    export_multitask,
    export_peft,
    import_peft,
    read_card,
    read_factors,
    read_prompt,
    read_trained,
    write_prompt,
)

runner = CliRunner()
WIDTH = 8


def test_prompt_file_round_trip(tmp_path: Path) -> None:
    path, prompt = tmp_path / "new" / "p.safetensors", torch.randn(3, 8)
    write_prompt(path, prompt, {"task": "amazon", "score": "88.1"})
    read, metadata = read_prompt(path)
    assert torch.equal(read, prompt) and metadata == {"task": "amazon", "score": "88.1"}
    assert read_factors(path) is None
    write_prompt(path, prompt.to(torch.bfloat16), {})
    assert read_prompt(path)[0].dtype == torch.float32
    assert [file.name for file in path.parent.iterdir()] == ["p.safetensors"]


def test_factors_stand_beside_the_prompt_they_compose(tmp_path: Path) -> None:
    path, factors = tmp_path / "p.safetensors", Factors(torch.randn(3, 8), torch.randn(3, 2), torch.randn(2, 8))
    prompt = torch.from_numpy(factors.shared.numpy() * np.einsum("lr,rh->lh", factors.u.numpy(), factors.v.numpy()))
    write_prompt(path, prompt, {}, factors)
    assert all(map(torch.equal, read_factors(path), factors)) and torch.equal(read_prompt(path)[0], prompt)
    with pytest.raises(ValueError, match="is not the prompt"):
        write_prompt(path, prompt + 1, {}, factors)


def test_bad_prompt_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"p\.safetensors: no such prompt file"):
        read_prompt(tmp_path / "p.safetensors")
    (tmp_path / "p.safetensors").write_bytes(b"not one")
    with pytest.raises(ValueError, match=r"p\.safetensors: not a readable safetensors file"):
        read_prompt(tmp_path / "p.safetensors")
    save_file({"prompt": torch.ones(20, 20)}, tmp_path / "t.safetensors")
    (tmp_path / "t.safetensors").write_bytes((tmp_path / "t.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"t\.safetensors: .* or truncated"):
        read_prompt(tmp_path / "t.safetensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="holds weight, want a tensor 'prompt'"):
        read_prompt(tmp_path / "w.safetensors")
    save_file({"prompt": torch.ones(2)}, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=r"has shape \(2,\), want \(L, H\)"):
        read_prompt(tmp_path / "v.safetensors")
    save_file({"prompt": torch.full((2, 2), torch.inf)}, tmp_path / "i.safetensors")
    with pytest.raises(ValueError, match="infinite"):
        read_prompt(tmp_path / "i.safetensors")
    with pytest.raises(ValueError, match=r"finite \(L, H\) matrix"):
        write_prompt(tmp_path / "x.safetensors", torch.full((2, 2), torch.nan), {})
    assert not (tmp_path / "x.safetensors").exists()


def test_cards_are_strings_in_a_file_and_checked_when_read(tmp_path: Path) -> None:
    card = Card(
        model="m", task="t", score=88.5, seed=0, choices=("no", "ja, doch"), columns={"text": "review"}, cut="end"
    )
    write_prompt(tmp_path / "p.safetensors", torch.ones(1, 2), card.metadata() | {"format": "pt"})
    assert read_card(tmp_path / "p.safetensors") == card
    assert card.metadata()["choices"] == '["no", "ja, doch"]' and "licence" not in card.metadata()
    with pytest.raises(ValueError, match=r"q: score: .*number.* got 'good'"):
        Card.of({"score": "good"}, "q")
    with pytest.raises(ValueError, match=r"q: licnce: unknown setting; did you mean 'licence'"):
        Card.checked({"licnce": "MIT"}, "q")


def llama() -> LlamaForCausalLM:
    sizes = {"vocab_size": 32, "hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, initializer_range=0.3)).eval()


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=32, n_embd=WIDTH, n_layer=1, n_head=2, n_positions=32, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


def t5() -> T5ForConditionalGeneration:
    sizes = {"vocab_size": 32, "d_model": WIDTH, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()


def bart() -> BartForConditionalGeneration:
    sizes = {"vocab_size": 32, "d_model": WIDTH, "max_position_embeddings": 32, "scale_embedding": True}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ffn = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "init_std": 0.3}
    return BartForConditionalGeneration(BartConfig(**sizes, **layers, **ffn)).eval()


IDS, LABELS = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]]), torch.tensor([[12, 13], [14, 15]])


@torch.no_grad()
def literal(model: Any, prompts: Tensor, placement: str = "encoder") -> Tensor:
    """Logits of a model whose rows have these prompts (B, L, H) before their text, by concatenation alone."""
    embed = model.get_input_embeddings()
    if not model.config.is_encoder_decoder:
        return model(inputs_embeds=torch.cat([prompts, embed(IDS)], dim=1)).logits
    written = torch.cat([torch.full((2, 1), model.config.decoder_start_token_id), LABELS[:, :-1]], dim=1)
    half = prompts.shape[1] // 2 if placement == "encoder-decoder" else prompts.shape[1]
    encoder = torch.cat([prompts[:, :half], embed(IDS)], dim=1)
    decoder = torch.cat([prompts[:, half:], embed(written)], dim=1)
    return model(inputs_embeds=encoder, decoder_inputs_embeds=decoder).logits


@torch.no_grad()
def adapted(model: Any, folder: Path, task_ids: list[int] | None = None) -> Tensor:
    """Logits of PEFT with an adapter folder."""
    peft = pytest.importorskip("peft")
    wrapped = peft.PeftModel.from_pretrained(model, folder).eval()
    options = {} if task_ids is None else {"task_ids": torch.tensor(task_ids)}
    if model.config.is_encoder_decoder:
        options["labels"] = LABELS
    return wrapped(input_ids=IDS, attention_mask=torch.ones_like(IDS), **options).logits


@pytest.mark.parametrize("build", [llama, gpt2, t5, bart])
def test_peft_computes_the_same_with_an_exported_prompt(tmp_path: Path, build: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model, prompt = build(), torch.randn(4, WIDTH)
    seq2seq = model.config.is_encoder_decoder
    expected = literal(model, prompt.expand(2, -1, -1))
    folder = export_peft(prompt, tmp_path / "adapter", base_model="tiny", seq2seq=seq2seq)
    torch.testing.assert_close(adapted(model, folder), expected)
    one = import_peft(folder)[0]
    assert torch.equal(one.prompt, prompt) and one.factors is None and one.card.method == "PT"
    assert (one.card.model, one.card.architecture) == ("tiny", "seq2seq" if seq2seq else "causal")


@pytest.mark.parametrize("build", [llama, gpt2, t5, bart])
def test_peft_computes_the_same_with_exported_factors(tmp_path: Path, build: Callable[[], Any]) -> None:
    torch.manual_seed(1)
    model, shared, u, v = build(), torch.randn(4, WIDTH), torch.randn(3, 4, 2), torch.randn(3, 2, WIDTH)
    prompts = shared * torch.einsum("tlr,trh->tlh", u, v)
    expected = literal(model, prompts[[2, 0]])
    seq2seq = model.config.is_encoder_decoder
    folder = export_multitask(shared, u, v, tmp_path / "adapter", base_model="tiny", seq2seq=seq2seq)
    torch.testing.assert_close(adapted(model, folder, [2, 0]), expected)
    imported = import_peft(folder)
    torch.testing.assert_close(torch.stack([one.prompt for one in imported]), prompts)
    assert all(torch.equal(one.factors.u, u[task]) for task, one in enumerate(imported))
    assert {one.card.method for one in imported} == {"MPT"}


@pytest.mark.parametrize("build", [t5, bart])
def test_half_of_a_prompt_stands_before_the_decoder_in_peft_too(tmp_path: Path, build: Callable[[], Any]) -> None:
    torch.manual_seed(2)
    model, prompt = build(), torch.randn(4, WIDTH)
    expected = literal(model, prompt.expand(2, -1, -1), "encoder-decoder")
    folder = export_peft(prompt, tmp_path / "a", base_model="tiny", seq2seq=True, placement="encoder-decoder")
    # PEFT returns the logits of the decoder's prompt as well.
    torch.testing.assert_close(adapted(model, folder, [0, 0]), expected)
    one = import_peft(folder)[0]
    assert torch.equal(one.prompt, prompt) and one.card.placement == "encoder-decoder"
    with pytest.raises(ValueError, match="halves the prompt, got 3"):
        export_peft(prompt[:3], tmp_path / "b", base_model="tiny", seq2seq=True, placement="encoder-decoder")
    with pytest.raises(ValueError, match="got a causal one"):
        export_peft(prompt, tmp_path / "b", base_model="tiny", placement="encoder-decoder")


@pytest.mark.parametrize("build", [llama, gpt2, t5, bart])
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "MultitaskPromptTuningConfig"])
@pytest.mark.parametrize("submodules", [None, 1])
def test_what_peft_saves_is_imported(
    tmp_path: Path, build: Callable[[], Any], kind: str, submodules: int | None
) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    model = build()
    seq2seq, multitask = model.config.is_encoder_decoder, kind.startswith("Multi")
    config = getattr(peft, kind)(
        task_type="SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM",
        num_virtual_tokens=3,
        num_transformer_submodules=submodules,
        **({"num_tasks": 2, "num_ranks": 2} if multitask else {}),
    )
    wrapped = peft.get_peft_model(model, config)
    for parameter in wrapped.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(tmp_path / "adapter")
    imported = import_peft(tmp_path / "adapter")
    tasks = [1, 0] if multitask else None
    expected = adapted(build_again(model), tmp_path / "adapter", tasks)
    prompts = torch.stack([imported[task].prompt for task in tasks or [0, 0]])
    placement = imported[0].card.placement
    torch.testing.assert_close(literal(model, prompts, placement), expected)
    # PEFT's default for an encoder-decoder: two sub-modules, of which prompt tuning reads one.
    halves = seq2seq and multitask and submodules is None
    assert placement == ("encoder-decoder" if halves else "encoder") and prompts.shape[1] == (6 if halves else 3)


def build_again(model: Any) -> Any:
    """The same model without PEFT's changes."""
    fresh = type(model)(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    return fresh


def adapter(folder: Path, tensors: dict[str, Any] | None = None, **changes: Any) -> Path:
    """An adapter folder of prompt tuning: 3 tokens, width 8."""
    folder.mkdir()
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3, "token_dim": WIDTH}
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    save_file(tensors or {"prompt_embeddings": torch.ones(3, WIDTH)}, folder / "adapter_model.safetensors")
    return folder


def test_adapters_of_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none: not an adapter folder.*; want a folder .* or a hub ID"):
        import_peft(tmp_path / "none")
    with pytest.raises(ValueError, match=r"adapter_config\.json: got peft_type LORA, want PROMPT_TUNING or MULTI"):
        import_peft(adapter(tmp_path / "lora", peft_type="LORA"))
    with pytest.raises(ValueError, match=r"got task_type SEQ_CLS, want CAUSAL_LM or SEQ_2_SEQ_LM"):
        import_peft(adapter(tmp_path / "cls", task_type="SEQ_CLS"))
    with pytest.raises(ValueError, match=r"has shape \(3, 8\), its configuration says \(4, 8\)"):
        import_peft(adapter(tmp_path / "four", num_virtual_tokens=4))
    tensors = {"prompt_embeddings": torch.ones(3, WIDTH), "score.weight": torch.ones(1)}
    with pytest.raises(ValueError, match=r"holds prompt_embeddings, score\.weight, want prompt_embeddings$"):
        import_peft(adapter(tmp_path / "head", tensors))
    with pytest.raises(ValueError, match="infinite"):
        import_peft(adapter(tmp_path / "inf", {"prompt_embeddings": torch.full((3, WIDTH), torch.inf)}))
    broken = adapter(tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors: not a readable"):
        import_peft(broken)
    (broken / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json: not JSON"):
        import_peft(broken)


class Runs:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_pickled_checkpoints_are_read_as_tensors_only(tmp_path: Path) -> None:
    folder, prompt = adapter(tmp_path / "adapter"), torch.randn(3, WIDTH)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="there is no adapter_model"):
        import_peft(folder)
    torch.save({"prompt_embeddings": prompt}, folder / "adapter_model.bin")
    assert torch.equal(import_peft(folder)[0].prompt, prompt)
    torch.save({"prompt_embeddings": Runs(tmp_path / "ran")}, folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin: damaged, or holds more than tensors"):
        import_peft(folder)
    assert not (tmp_path / "ran").exists()


def group_file(path: Path, shared: Tensor, seed: int, **card: Any) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn(3, 2, generator=generator), torch.randn(2, WIDTH, generator=generator)
    factors = Factors(shared, u, v)
    known = {"model": "tiny", "architecture": "causal", "task": path.stem, "choices": ("no", "yes")} | card
    write_prompt(path, factors.composed(), Card(**known).metadata(), factors)
    return factors


def test_prompts_of_a_group_become_one_adapter_and_come_back_with_their_cards(tmp_path: Path) -> None:
    shared = torch.randn(3, WIDTH)
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    factors = [group_file(file, shared, seed) for seed, file in enumerate(files)]
    arguments = ["export", *map(str, files), str(tmp_path / "both"), "-q"]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0 and "task_ids: 0 to 1" in result.stdout, result.output
    tensors = load_file(tmp_path / "both" / "adapter_model.safetensors")
    assert torch.equal(tensors["prefix_task_cols"], torch.stack([one.u for one in factors]))
    result = runner.invoke(cli.app, ["import", str(tmp_path / "both"), str(tmp_path / "c.safetensors")])
    assert result.exit_code == 0, result.output
    for number, file in enumerate(files):
        again = tmp_path / f"c-{number}.safetensors"
        assert torch.equal(read_prompt(again)[0], read_prompt(file)[0])
        assert read_card(again) == read_card(file).model_copy(update={"method": "MPT"})
    result = runner.invoke(cli.app, ["import", str(tmp_path / "both"), str(tmp_path / "c.safetensors")])
    assert result.exit_code == 2 and "c-0.safetensors exists; choose a new prompt file" in result.stderr


def test_files_that_make_no_adapter_together(tmp_path: Path) -> None:
    shared, plain = torch.randn(3, WIDTH), tmp_path / "plain.safetensors"
    card = Card(model="tiny", architecture="causal")
    write_prompt(plain, torch.ones(3, WIDTH), card.metadata())
    first = tmp_path / "first.safetensors"
    group_file(first, shared, 0)
    group_file(tmp_path / "other.safetensors", shared + 1, 0)
    group_file(tmp_path / "weights.safetensors", shared, 0, model_fingerprint="f")
    for name, message in (
        ("plain", "plain.safetensors: has no factors"),
        ("other", "other.safetensors: its shared prompt is not that of"),
        ("weights", "weights.safetensors: model_fingerprint differs"),
    ):
        with pytest.raises(ValueError, match=message):
            export_files([first, tmp_path / f"{name}.safetensors"], tmp_path / "x")
    with pytest.raises(ValueError, match="has no factors"):
        export_files([plain], tmp_path / "x", multitask=True)
    write_prompt(plain, torch.ones(3, WIDTH), {})
    with pytest.raises(ValueError, match="does not say which model"):
        export_files([plain], tmp_path / "x")
    with pytest.raises(ValueError, match="want --seq2seq or --causal"):
        export_files([plain], tmp_path / "x", base_model=str(tmp_path / "nowhere"))
    assert not (tmp_path / "x").exists()


def test_export_does_not_overwrite(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="name a new folder"):
        export_peft(torch.ones(2, 4), tmp_path, base_model="tiny")


def test_imported_prompts_are_told_how_to_read_text(tmp_path: Path) -> None:
    adapter(tmp_path / "adapter", base_model_name_or_path="some/model")
    options = ["--template", "{text}\\nLabel:", "--choices", "no,yes", "--licence", "MIT"]
    result = runner.invoke(cli.app, ["import", str(tmp_path / "adapter"), str(tmp_path / "p.safetensors"), *options])
    assert result.exit_code == 0 and "3 tokens, PT, for some/model" in result.stdout, result.output
    card = read_card(tmp_path / "p.safetensors")
    assert (card.template, card.choices, card.licence, card.task) == ("{text}\nLabel:", ("no", "yes"), "MIT", "p")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_virtual_tokens", "3"), ("num_virtual_tokens", 3.0), ("token_dim", None), ("num_transformer_submodules", [])],
)
def test_sizes_of_adapters_are_whole_numbers(tmp_path: Path, setting: str, value: object) -> None:
    folder = adapter(tmp_path / "adapter")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {setting: value}))
    with pytest.raises(ValueError, match=rf"adapter_config\.json: {setting}: got .* want a whole number"):
        import_peft(folder)


def test_prompt_files_with_numbers_of_another_kind(tmp_path: Path) -> None:
    """Overflow in float32, whole numbers, factors that are not matrices, tensors of ATTEMPT that do not fit."""
    file, prompt = tmp_path / "a.safetensors", torch.ones(2, 3)
    for wrong in (torch.full((2, 3), 1e300, dtype=torch.float64), torch.ones(2, 3, dtype=torch.int64)):
        save_file({"prompt": wrong}, file)
        with pytest.raises(ValueError, match=r"a\.safetensors: tensor 'prompt' holds (infinite|torch.int64)"):
            read_prompt(file)
    save_file({"prompt": prompt, "shared": prompt.clone(), "u": torch.ones(2, 1), "v": torch.tensor(1.0)}, file)
    with pytest.raises(ValueError, match=r"a\.safetensors: got .*v \(\)"):
        read_factors(file)
    tensors = {name: torch.ones(2, 3) for name in ("target", "down", "up", "norm.weight", "norm.bias")}
    more = {"sources": torch.ones(2, 2, 3), "temperature": torch.tensor(1.0), "mask_padding": torch.tensor(True)}
    save_file(tensors | more, file)
    with pytest.raises(ValueError, match=r"a\.safetensors: tensor 'up': got \(2, 3\)"):
        read_trained(file)
    save_file({"prompt": prompt}, file, metadata={"score": "nan"})
    with pytest.raises(ValueError, match=r"a\.safetensors: score: .*finite"):
        read_card(file)
