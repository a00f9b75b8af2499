"""The HTTP client against a server of the test's own, which reads and answers as `vllm serve` does."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import PlainEngine
from tiny import tiny_llama, tiny_tokenizer

from prompttransfer import Predictor
from prompttransfer.interchange import Card, write_prompt
from prompttransfer.serving.requests import Request, ServedPrompt, answer
from prompttransfer.serving.vllm import VllmServer, encode

TEXTS = [f"w{number} w{number + 1} w3" for number in range(38)]


class Served(ThreadingHTTPServer):
    """A fake server of one model. refusal: reply to every completion; scores: whether it supports logprob_token_ids."""

    request_queue_size = 128  # connections that wait, as many as of a real server

    def __init__(self, engine: PlainEngine) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.engine, self.asked = engine, list[dict[str, Any]]()
        self.refusal, self.scores, self.keys = b"", True, list[str | None]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Served

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "tiny"}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(content)
        self.server.keys.append(self.headers["Authorization"])
        if self.server.refusal:
            return self._send(400, self.server.refusal)
        prompt = content.get("prompt")
        if prompt is None:
            raw = base64.b64decode(content["prompt_embeds"], validate=True)
            prompt = torch.load(io.BytesIO(raw), weights_only=True)
        scored = tuple(content.get("logprob_token_ids", ()))
        replies = self.server.engine([Request(prompt, scored, content["max_tokens"])])
        choices = [
            {
                "index": index,
                "token_ids": reply.written,
                "logprobs": {
                    "top_logprobs": [{f"token_id:{token}": value for token, value in reply.log_probabilities.items()}]
                }
                if scored and self.server.scores
                else None,
            }
            for index, reply in enumerate(replies)
        ]
        self._send(200, {"choices": choices})

    def _send(self, code: int, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def server() -> Iterator[Served]:
    with Served(PlainEngine(tiny_llama())) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def stored(path: Path, model: Path, **card: Any) -> Path:
    known = {"model": str(model), "template": "{text} Answer:", "choices": ("no", "yes"), "precision": "float32"}
    write_prompt(path, torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), Card(**known | card).metadata())
    return path


def test_answers_are_those_of_predict(server: Served, model: Path, tmp_path: Path) -> None:
    cards: list[dict[str, Any]] = [
        {},
        {"choices": ("yes w1", "yes w2", "no"), "scoring": "full"},
        {"choices": (), "scoring": "generate", "max_answer": 3},
    ]
    files = [stored(tmp_path / f"{number}.safetensors", model, **card) for number, card in enumerate(cards)]
    answers = answer(VllmServer(f"{server.url}/v1/", api_key="k"), [(ServedPrompt.open(file), TEXTS) for file in files])
    for file, got in zip(files, answers, strict=True):
        want = Predictor.open(file)(TEXTS)
        assert [one.label for one in got] == [one.label for one in want]
        for one, other in zip(got, want, strict=True):
            assert one.scores == pytest.approx(other.scores, abs=1e-5)
    assert all(content["model"] == "tiny" and content["temperature"] == 0 for content in server.asked)
    assert set(server.keys) == {"Bearer k"}


def test_tensors_are_sent_as_they_are_and_nothing_else() -> None:
    table = torch.randn(1000, 16)
    text = encode(table[3:5])
    assert torch.equal(torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True), table[3:5])
    assert len(text) < 4000  # not the table that they are a view of
    sent = torch.load(io.BytesIO(base64.b64decode(encode(table.bfloat16().T))), weights_only=True)
    assert sent.dtype == torch.bfloat16 and torch.equal(sent, table.bfloat16().T)


def test_servers_that_cannot_answer(server: Served, model: Path, tmp_path: Path) -> None:
    served = ServedPrompt.open(stored(tmp_path / "p.safetensors", model))
    with pytest.raises(ConnectionError, match=r"does not answer .*vllm serve MODEL --enable-prompt-embeds"):
        VllmServer("http://127.0.0.1:9")
    engine = VllmServer(server.url)
    server.scores = False
    with pytest.raises(ValueError, match="does not score given tokens"):
        answer(engine, [(served, TEXTS)])
    server.refusal = json.dumps({"error": {"message": "You must set `--enable-prompt-embeds`"}}).encode()
    with pytest.raises(ValueError, match="/v1/completions answers 400: You must set `--enable-prompt-embeds`"):
        answer(engine, [(served, TEXTS)])
    server.refusal = b"<html>" + b"x" * 1000
    with pytest.raises(ValueError, match=r"answers 400: <html>x+…$"):
        answer(engine, [(served, TEXTS)])
