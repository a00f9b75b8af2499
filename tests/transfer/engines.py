"""An engine as vLLM is one, by a transformers model that reads one request after the other."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from prompttransfer.serving.requests import Reply, Request


class PlainEngine:
    """Greedy, without padding, without a cache; end: the token after which nothing is written."""

    def __init__(self, model: torch.nn.Module, end: int = 2) -> None:
        self.model, self.end = model.eval(), end
        self.checked: set[str] = set()
        self.calls: list[list[Request]] = []

    def __call__(self, requests: Iterable[Request]) -> list[Reply]:
        self.calls.append(list(requests))
        return [self._reply(request) for request in self.calls[-1]]

    @property
    def asked(self) -> list[Request]:
        """All requests but those that compare the models."""
        return [request for call in self.calls[1:] for request in call]

    @torch.no_grad()
    def _reply(self, request: Request) -> Reply:
        embed = self.model.get_input_embeddings()
        read = request.prompt if isinstance(request.prompt, Tensor) else embed(torch.tensor(request.prompt))
        written: list[int] = []
        scores = {}
        while len(written) < request.max_tokens and self.end not in written:
            following = self.model(inputs_embeds=read[None]).logits[0, -1].log_softmax(dim=-1)
            scores = scores or {token: float(following[token]) for token in request.scored}
            written.append(int(following.argmax()))
            read = torch.cat([read, embed(torch.tensor(written[-1:]))])
        return Reply(written, scores)
