"""Models in folders: types, shards, tied tables, tokenizers that lack a token, quantized weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from families import CAUSAL, FAMILIES, SEQ2SEQ, load
from literal import literal_answer_logits
from tiny import tiny_llama, tiny_tokenizer
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    RecurrentGemmaForCausalLM,
    RwkvForCausalLM,
    XLNetLMHeadModel,
)

from prompttransfer.models import Backbone, loading
from prompttransfer.models.answering import Reader
from prompttransfer.models.fitness import check_fitness
from prompttransfer.models.loading import load_model
from prompttransfer.prompts import SoftPrompt, initial_prompt

ROWS = [[10, 11, 12, 13], [15, 16], [17]]
ANSWERS = [[4, 9, 2], [5, 2], [30]]


def saved(model: PreTrainedModel, folder: Path, **options: str) -> Path:
    model.save_pretrained(folder, **options)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def found(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of a prompt."""
    prompt = SoftPrompt(initial_prompt(backbone, 4))
    logits = backbone(prompt, backbone.collate(ROWS, ANSWERS)).logits
    logits.square().mean().backward()
    return logits.detach(), prompt.prompt.grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "t5", "bart"])
def test_weights_of_any_type_become_float32(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    stored = FAMILIES[family]().to(dtype)
    loaded = load_model(saved(stored, tmp_path), precision="float32")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    wide = load(family)
    wide.model.load_state_dict(stored.state_dict())
    for got, want in zip(found(loaded), found(wide), strict=True):
        torch.testing.assert_close(got, want)


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    model = tiny_llama()
    folder = saved(model, tmp_path, max_shard_size="5KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    loaded = load_model(folder, precision="float32")
    assert loaded.fingerprint == load_model(saved(model, tmp_path / "one")).fingerprint
    prompt = SoftPrompt(initial_prompt(loaded, 4))
    want = torch.stack([literal_answer_logits(loaded, prompt, row, [0])[0] for row in ROWS])
    torch.testing.assert_close(loaded(prompt, loaded.collate(ROWS)).logits, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "t5-tied", "gemma"])
def test_a_table_that_is_also_the_output_stays_float32(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family]()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    loaded = load_model(saved(model, tmp_path), precision="bfloat16")
    assert loaded.embedding.weight.dtype == torch.float32
    assert loaded.model.get_output_embeddings().weight is loaded.embedding.weight
    by_autocast = load_model(tmp_path, precision="float32")
    by_autocast.precision = "bfloat16"
    for got, want in zip(found(loaded), found(by_autocast), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("lacking", [{"pad_token"}, {"eos_token"}, {"pad_token", "eos_token"}])
def test_a_tokenizer_may_lack_padding_and_end(lacking: set[str], backbone: Backbone) -> None:
    tokenizer = tiny_tokenizer()
    for name in lacking:
        setattr(tokenizer, name, None)
    bare = Backbone(backbone.model, tokenizer, precision="float32")
    end = [] if "eos_token" in lacking else [2]
    assert bare.encode_answers(["no", "yes maybe"]) == [[4, *end], [5, 6, *end]]
    assert bare.encode(["w1 w2 w3"], 2, "end") == [tokenizer.convert_tokens_to_ids(["w1", "w2"])]
    prompt = initial_prompt(bare, 4)
    got = Reader(bare, prompt).answer_scores(ROWS, [[4, *end], [5, 6, *end]])
    # Padding is masked, so any token will do.
    torch.testing.assert_close(got, Reader(backbone, prompt).answer_scores(ROWS, [[4, *end], [5, 6, *end]]))
    assert len(Reader(bare, prompt).write(ROWS, 3)) == 3


def test_a_model_that_reads_embeddings_otherwise_than_tokens_is_refused(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 48, "init_std": 0.3}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    for scaled in (False, True):
        config = PegasusConfig(scale_embedding=scaled, decoder_start_token_id=0, **sizes, **heads)
        folder = saved(PegasusForConditionalGeneration(config), tmp_path / str(scaled))
        if not scaled:
            assert load_model(folder).seq2seq
            continue
        with pytest.raises(ValueError, match="PegasusForConditionalGeneration gives different results for embeddings"):
            load_model(folder)


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        (RwkvForCausalLM, {"num_hidden_layers": 2, "attention_hidden_size": 16}, "for a row with padding"),
        (
            RecurrentGemmaForCausalLM,
            {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "lru_width": 16},
            "for a row with padding",
        ),
        (
            XLNetLMHeadModel,
            {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
            "for a token once later tokens follow",
        ),
    ],
)
def test_models_that_no_prompt_can_be_trained_for_are_refused(
    kind: type[PreTrainedModel], sizes: dict[str, int], message: str
) -> None:
    torch.manual_seed(0)
    model = kind(kind.config_class(**{"vocab_size": 48, "hidden_size": 16} | sizes))
    for parameter in model.parameters():  # with their initial weights, layers do nearly nothing
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    with pytest.raises(ValueError, match=f"{kind.__name__} gives different results {message}"):
        check_fitness(Backbone(model, tiny_tokenizer(), precision="float32"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_families_that_are_tested_are_fit(family: str, precision: str) -> None:
    check_fitness(load(family, precision=precision))


class Int8Linear(nn.Linear):
    """Like that of bitsandbytes: a Linear whose weight is no float."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.scale = plain.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.weight = nn.Parameter((plain.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("weight_format", torch.tensor(3))

    def forward(self, rows: Tensor) -> Tensor:
        return F.linear(rows, (self.weight * self.scale).to(rows.dtype))


@pytest.mark.parametrize(("bits", "flag"), [("8bit", "load_in_8bit"), ("4bit", "load_in_4bit")])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_quantized_weights_are_left_as_they_are(
    bits: str, flag: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama()
    folder = saved(model, tmp_path)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            model.set_submodule(name, Int8Linear(module))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    asked = {}

    def from_pretrained(name: Path, **options: object) -> PreTrainedModel:
        asked.update(options)
        return model

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading, "find_spec", lambda name: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(model, "to", lambda *_: pytest.fail("a quantized model was moved"))
    backbone = load_model(folder, precision=precision, quantization=bits)
    assert getattr(asked["quantization_config"], flag) and asked["device_map"] == {"": torch.device("cuda")}
    assert asked["use_safetensors"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backbone.reads_prompts_once and backbone.layers == 2
    logits, gradient = found(backbone)
    assert logits.isfinite().all() and gradient.dtype == torch.float32 and gradient.any()
    assert Reader(backbone, initial_prompt(backbone, 4)).answer_scores(ROWS, [[4, 2], [5, 9, 2]]).isfinite().all()
    after = model.state_dict()
    assert {name: tensor.dtype for name, tensor in after.items()} == {n: tensor.dtype for n, tensor in before.items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="bitsandbytes quantizes for a GPU")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantized_weights_train_a_prompt_on_a_gpu(bits: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    folder = saved(tiny_llama(), tmp_path)
    wide, narrow = load_model(folder), load_model(folder, quantization=bits)
    assert narrow.fingerprint != wide.fingerprint
    prompt = SoftPrompt(initial_prompt(narrow, 4)).to(narrow.device)
    batch = {name: tensor.to(narrow.device) for name, tensor in narrow.collate(ROWS, ANSWERS).items()}
    logits = narrow(prompt, batch).logits
    assert (logits - wide(prompt, batch).logits).std() < 0.5 * logits.std()
    logits.square().mean().backward()
    assert prompt.prompt.grad.isfinite().all() and prompt.prompt.grad.any()


def test_missing_models_are_told_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    saved(tiny_llama(), tmp_path / "llama")
    with pytest.raises(ValueError, match=r"lamma': no such folder; did you mean '.*/llama'\?"):
        load_model(tmp_path / "lamma")
    with pytest.raises(ValueError, match="empty' is not a folder of a transformers model: it has no config"):
        load_model(tmp_path / "empty")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "models--some--model-7b").mkdir(parents=True)
    for name, meant in (("dmeo", "demo"), ("some/modle-7b", "some/model-7b")):
        with pytest.raises(ConnectionError, match=f"neither a folder nor in the hub's cache.*did you mean '{meant}'"):
            load_model(name)


def test_a_single_process_cannot_shard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shard_model .* torchrun .* 1 process"):
        load_model(saved(tiny_llama(), tmp_path), sharded=True)
