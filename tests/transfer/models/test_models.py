"""Backbone: placement of the prompt, masks, positions, answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from literal import literal_answer_logits
from tiny import VOCABULARY, tiny_llama, tiny_t5, tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel
from transformers.utils import logging

from prompttransfer.models import Backbone, quiet_transformers
from prompttransfer.models.answering import Reader
from prompttransfer.models.loading import load_model
from prompttransfer.prompts import SoftPrompt, initial_prompt

ROWS = [[10, 11, 12, 13, 14], [15, 16], [17]]


def start(backbone: Backbone, length: int = 3) -> torch.Tensor:
    return initial_prompt(backbone, length, seed=1)


def test_causal_logits_are_those_of_the_row_alone_without_padding(llama: Backbone) -> None:
    prompt = start(llama)
    batch = llama.collate(ROWS)
    assert batch["attention_mask"].tolist()[2] == [0, 0, 0, 0, 1]
    got = llama(SoftPrompt(prompt), batch).logits
    for row, logits in zip(ROWS, got, strict=True):
        embeds = torch.cat([prompt, llama.embedding(torch.tensor(row))])[None]
        expected = llama.model(inputs_embeds=embeds).logits[0, -1]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_seq2seq_prompt_stands_before_the_encoder_only(t5: Backbone) -> None:
    prompt = start(t5)
    batch = t5.collate(ROWS)
    assert batch["attention_mask"].tolist()[2] == [1, 0, 0, 0, 0]
    got = t5(SoftPrompt(prompt), batch).logits
    for row, logits in zip(ROWS, got, strict=True):
        embeds = torch.cat([prompt, t5.embedding(torch.tensor(row))])[None]
        expected = t5.model(inputs_embeds=embeds, decoder_input_ids=torch.tensor([[0]])).logits
        assert expected.shape[1] == 1
        torch.testing.assert_close(logits, expected[0, 0], rtol=1e-4, atol=1e-5)


def test_a_vocabulary_prompt_equals_the_same_tokens_in_the_text(backbone: Backbone) -> None:
    ids = [20, 21]
    prompt = SoftPrompt(backbone.embedding.weight[ids].detach())
    with_prompt = backbone(prompt, backbone.collate(ROWS)).logits
    as_text = backbone(None, backbone.collate([ids + row for row in ROWS])).logits
    torch.testing.assert_close(with_prompt, as_text, rtol=1e-4, atol=1e-5)


def test_only_the_prompt_gets_gradients_and_the_model_stays_in_evaluation_mode(backbone: Backbone) -> None:
    prompt = SoftPrompt(start(backbone))
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    backbone(prompt, backbone.collate(ROWS)).logits.sum().backward()
    assert prompt.prompt.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_hidden_states_cover_encoder_and_decoder_and_mask_the_prompt(llama: Backbone, t5: Backbone) -> None:
    batch = llama.collate(ROWS)
    ((state, mask),) = llama(SoftPrompt(start(llama)), batch, hidden="last", hidden_positions="text").hidden
    assert state.shape == (3, 5, 16)
    assert mask.sum(dim=1).tolist() == [5, 2, 1]
    assert len(llama(SoftPrompt(start(llama)), batch, hidden="all").hidden) == 2
    hidden = t5(SoftPrompt(start(t5)), t5.collate(ROWS), hidden="last").hidden
    assert [tuple(state.shape) for state, _ in hidden] == [(3, 8, 16), (3, 1, 16)]
    assert hidden[0][1].sum(dim=1).tolist() == [8, 5, 4]


def test_answers_follow_the_text_and_end(backbone: Backbone) -> None:
    no, yes, w1, end = map(VOCABULARY.index, ("no", "yes", "w1", "</s>"))
    assert backbone.encode_answers(["no", " yes w1 "]) == [[no, end], [yes, w1, end]]
    assert backbone.encode_answers(["yes w1 w1"], 2) == [[yes, w1, end]]
    with pytest.raises(ValueError, match="answer '  ' has no tokens in"):
        backbone.encode_answers(["no", "  "])


def test_logits_of_answers_are_those_of_each_row_written_out(backbone: Backbone) -> None:
    prompt, answers = SoftPrompt(start(backbone)), [[4, 9, 2], [5], [30, 31]]
    batch = backbone.collate(ROWS, answers)
    assert batch["labels"].tolist() == [[4, 9, 2], [5, -100, -100], [30, 31, -100]]
    expected = torch.cat(
        [literal_answer_logits(backbone, prompt, row, a) for row, a in zip(ROWS, answers, strict=True)]
    )
    got = backbone(prompt, batch)
    assert got.logits.shape == (6, len(VOCABULARY)) and got.hidden == ()
    torch.testing.assert_close(got.logits, expected, rtol=1e-4, atol=1e-5)


def test_hidden_states_hold_what_was_written_of_an_answer(backbone: Backbone) -> None:
    batch = backbone.collate(ROWS, [[4, 9, 2], [5], [30, 31]])
    hidden = backbone(SoftPrompt(start(backbone)), batch, hidden="last", hidden_positions="text").hidden
    *_, (state, mask) = hidden
    # One position less than the answer has tokens: the last token is written, not read. A decoder reads its start too.
    expected = [5 + 2, 2 + 0, 1 + 1] if len(hidden) == 1 else [3, 1, 2]
    assert mask.sum(dim=1).tolist() == expected and state.shape[:2] == mask.shape


def test_half_of_the_prompt_stands_before_each_part_of_a_seq2seq_model(t5: Backbone) -> None:
    both = Backbone(tiny_t5(), tiny_tokenizer(), max_length=16, precision="float32", placement="encoder-decoder")
    prompt = initial_prompt(both, 4, seed=1)
    got = both(SoftPrompt(prompt), both.collate(ROWS, [[4, 9, 2], [5], [30, 31]]), hidden="last")
    row = torch.tensor([ROWS[0]])
    expected = both.model(
        inputs_embeds=torch.cat([prompt[:2], both.embedding(row)[0]])[None],
        decoder_inputs_embeds=torch.cat([prompt[2:], both.embedding(torch.tensor([0, 4, 9]))])[None],
    ).logits[0, 2:]
    torch.testing.assert_close(got.logits[:3], expected, rtol=1e-4, atol=1e-5)
    assert [mask.sum(dim=1).tolist() for _, mask in got.hidden] == [[7, 4, 3], [5, 3, 4]]
    with pytest.raises(ValueError, match="halves the prompt, got 3 prompt tokens"):
        both(SoftPrompt(prompt[:3]), both.collate(ROWS))
    with pytest.raises(ValueError, match="needs an encoder-decoder model, got a causal one"):
        Backbone(tiny_llama(), tiny_tokenizer(), placement="encoder-decoder")
    assert both.identity != t5.identity


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_activations_computed_twice_change_nothing(make) -> None:
    results = []
    for checkpointing in (False, True):
        backbone = Backbone(make(), tiny_tokenizer(), precision="float32", checkpointing=checkpointing)
        prompt = SoftPrompt(start(backbone))
        backbone.__dict__["reads_prompts_once"] = False  # or the plain model would run once for the prompt alone
        calls = count_calls(backbone)
        backbone(prompt, backbone.collate(ROWS, [[4, 9], [5], [6]])).logits.square().sum().backward()
        results.append((prompt.prompt.grad, len(calls)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)
    assert results[1][1] > results[0][1], "the layers ran once only"


def count_calls(backbone: Backbone) -> list[None]:
    """Grows by one with every product of the first layer."""
    calls: list[None] = []
    first = next(module for module in backbone.model.modules() if isinstance(module, torch.nn.Linear))
    first.register_forward_hook(lambda *_: calls.append(None))
    return calls


def test_text_keeps_its_end(llama: Backbone) -> None:
    (row,) = llama.encode([" ".join(["w1"] * 30 + ["w2"])])
    assert len(row) == 16
    assert row[-1] == VOCABULARY.index("w2")


def test_text_keeps_its_start_where_it_begins_with_what_is_asked(llama: Backbone) -> None:
    texts = [" ".join(["w2"] + ["w1"] * 30), "w3 w4"]
    w1, w2, w3, w4, end = map(VOCABULARY.index, ("w1", "w2", "w3", "w4", "</s>"))
    assert llama.encode(texts, 4, "end") == [[w2, w1, w1, w1], [w3, w4]]
    # A tokenizer that ends every text keeps doing so.
    tokenizer = tiny_tokenizer()
    ending = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    tokenizer.backend_tokenizer.post_processor = ending
    assert Backbone(tiny_t5(), tokenizer).encode(texts, 4, "end") == [[w2, w1, w1, end], [w3, w4, end]]


def test_fingerprint_follows_the_weights_and_the_kind() -> None:
    first = Backbone(tiny_llama(), tiny_tokenizer()).fingerprint
    assert Backbone(tiny_llama(), tiny_tokenizer()).fingerprint == first
    changed = tiny_llama()
    with torch.no_grad():
        changed.model.norm.weight[0] += 1e-3
    assert Backbone(changed, tiny_tokenizer()).fingerprint != first
    assert Backbone(tiny_t5(), tiny_tokenizer()).fingerprint != first


def test_load_reads_a_local_folder_and_names_a_missing_one(tmp_path) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model", precision="float32")
    assert loaded.fingerprint and loaded.hidden_size == 16
    with pytest.raises(ValueError, match="nowhere"):
        load_model(tmp_path / "nowhere")


def test_weights_stored_in_float16_train_in_float32(tmp_path) -> None:
    tiny_t5().half().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(tmp_path, precision="float32")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    prompt = SoftPrompt(start(loaded))
    loaded(prompt, loaded.collate(ROWS)).logits.sum().backward()
    assert prompt.prompt.grad.isfinite().all()


def test_quantization_says_what_is_missing(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_llama().save_pretrained(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'4bit' needs a CUDA GPU"):
        load_model(tmp_path, quantization="4bit")
    with pytest.raises(ValueError, match="got '5bit', want one of none, 8bit, 4bit"):
        load_model(tmp_path, quantization="5bit")


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_a_loaded_model_keeps_bfloat16_products_in_bfloat16(tmp_path, make) -> None:
    make().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(tmp_path, precision="bfloat16", max_length=16)
    wide = load_model(tmp_path, precision="float32", max_length=16)
    wide.precision = "bfloat16"  # narrowed by autocast at every call
    assert loaded.fingerprint == wide.fingerprint
    assert loaded.embedding.weight.dtype == torch.float32
    head = loaded.model.get_output_embeddings()
    kinds = {m.weight.dtype for m in loaded.modules() if isinstance(m, torch.nn.Linear) and m is not head}
    assert kinds == {torch.bfloat16} and head.weight.dtype == torch.float32
    batch = wide.collate([[8, 9, 10, 3], [11, 12, 3]])
    results = []
    for backbone in (loaded, wide):
        prompt = SoftPrompt(initial_prompt(wide, 4))
        logits = backbone(prompt, batch).logits
        logits.square().sum().backward()
        results.append((logits.detach(), prompt.prompt.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_logits_are_finer_than_bfloat16(make) -> None:
    """Steps of an eighth near 20 would make answers tie."""
    half = Backbone(make(), tiny_tokenizer(), precision="bfloat16")
    seen = []
    half.model.get_output_embeddings().register_forward_hook(
        lambda head, inputs, output: seen.append((inputs[0], output))
    )
    logits = half(SoftPrompt(start(half)), half.collate(ROWS, [[8]] * 3)).logits
    hidden, output = seen[-1]
    weight = half.model.get_output_embeddings().weight.double()
    torch.testing.assert_close(output.double(), hidden.double() @ weight.T, rtol=1e-5, atol=1e-5)
    assert output.dtype == torch.float32 and not torch.equal(logits, logits.bfloat16().float())


def test_bfloat16_runs_the_products_only_in_bfloat16(llama: Backbone) -> None:
    half = Backbone(tiny_llama(), tiny_tokenizer(), precision="bfloat16")
    prompt = SoftPrompt(start(half))
    logits = half(prompt, half.collate(ROWS)).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, llama(prompt, llama.collate(ROWS)).logits, rtol=0.1, atol=0.2)
    logits.sum().backward()
    assert prompt.prompt.grad.dtype == torch.float32


def bert2bert(**start: int) -> Backbone:
    """An encoder-decoder of two encoders. Its tokenizer starts a text with w1. start: start token per configuration."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    part = BertConfig(**sizes, intermediate_size=32, pad_token_id=0, initializer_range=0.3)
    model = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(part, part))
    places = {"": model.config, "decoder": model.config.decoder, "generation": model.generation_config}
    model.config.pad_token_id = 0
    for name, token in start.items():
        place, _, setting = name.rpartition("__")
        setattr(places[place], setting, token)
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="w1 $A", special_tokens=[("w1", 9)])
    return Backbone(model, tokenizer, precision="float32", max_length=16)


@pytest.mark.parametrize(
    ("start", "lead"),
    [
        ({"decoder_start_token_id": 9}, [9]),
        ({"decoder_start_token_id": 12, "bos_token_id": 13}, [12, 9]),
        ({"generation__decoder_start_token_id": 9}, [9]),
        ({"decoder__decoder_start_token_id": 9}, [9]),
        ({"generation__bos_token_id": 9}, [9]),
        ({"decoder__bos_token_id": 9}, [9]),
    ],
)
def test_a_decoder_starts_where_its_configuration_says(start: dict[str, int], lead: list[int]) -> None:
    backbone, prompt = bert2bert(**start), SoftPrompt(torch.ones(2, 16))
    assert backbone.decoder_lead.tolist() == [lead]
    got = backbone(prompt, backbone.collate(ROWS[:1], [(4, 9, 2)])).logits
    embeds = torch.cat([prompt.prompt, backbone.embedding(torch.tensor(ROWS[0]))])[None]
    want = backbone.model(inputs_embeds=embeds, decoder_input_ids=torch.tensor([[*lead, 4, 9]])).logits[0, -3:]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert len(Reader(backbone, prompt.composed()).write(ROWS, 3)) == 3


def test_a_decoder_without_a_start_is_told_what_is_missing(tmp_path: Path) -> None:
    backbone = bert2bert()
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"set decoder_start_token_id in its config\.json; usually 9 for this"):
        load_model(tmp_path)


def test_writing_leaves_the_settings_of_the_model_alone(
    t5: Backbone, llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it writes: another thread may be reading them."""
    for backbone in (t5, llama):
        own, original, seen = backbone.model.generation_config, type(backbone.model).generate, []

        def watched(self, *rest, _model=backbone.model, _original=original, _seen=seen, **options):
            _seen.append((_model.generation_config, self.generation_config))
            return _original(self, *rest, **options)

        monkeypatch.setattr(type(backbone.model), "generate", watched)
        backbone.reads_prompts_once = False  # so that `generate` writes for a causal model as well
        Reader(backbone, torch.ones(2, 16)).write(ROWS, 2)
        assert seen and all(model is own and used is not own for model, used in seen)


def test_quiet_blocks_of_several_threads_put_back_what_was_before() -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    first, second = quiet_transformers(), quiet_transformers()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # not the one that began last
    assert logging.get_verbosity() == logging.ERROR and not logging.is_progress_bar_enabled()
    second.__exit__(None, None, None)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
