"""ATTEMPT's prompt (Asai et al. 2022): a mixture of source prompts that depends on the text of the row."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prompttransfer.prompts.base import PromptModule, linear_start, put_first, speeds


class InstancePrompt(PromptModule):
    """P(x) = P_t + sum_j a_j(x) P_j. The sum is over the frozen sources and P_t, so P_t enters twice.

    a = softmax_j(p_j . h / tau), where p_j is the maximum of prompt j over its tokens,
    h = LayerNorm(W_up SiLU(W_down x)), and x is the maximum of the row's input embeddings over its tokens. W_down,
    W_up, LayerNorm and P_t train.

    Args:
        sources: (K, L, H), frozen.
        target: (L, H), start of P_t.
        projection: width between W_down and W_up.
        temperature: tau; None: e * H.
        mask_padding: leave padding out of the maximum over the text (the published code does not).
        train_norm: train the weights of LayerNorm (the published code freezes them).
        seed: seed of the start of W_down and W_up.
    """

    per_instance: ClassVar[bool] = True
    sources: Tensor
    temperature: Tensor
    mask_padding: Tensor

    def __init__(
        self,
        sources: Tensor,
        target: Tensor,
        *,
        projection: int = 100,
        temperature: float | None = None,
        mask_padding: bool = True,
        train_norm: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(*target.shape)
        width = self.hidden_size
        # Everything that a row's prompt depends on is a parameter or a buffer, because a stage's key covers only these.
        self.register_buffer("sources", sources.detach().float().clone(), persistent=False)
        self.register_buffer("temperature", torch.tensor(temperature or math.e * width), persistent=False)
        self.register_buffer("mask_padding", torch.tensor(mask_padding), persistent=False)
        self.target = nn.Parameter(target.detach().float().clone())
        generator = torch.Generator().manual_seed(seed)
        self.down = nn.Parameter(linear_start(projection, width, generator))
        self.up = nn.Parameter(linear_start(width, projection, generator))
        self.norm = nn.LayerNorm(width).requires_grad_(train_norm)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> InstancePrompt:
        """Build the prompt from the tensors of its file."""
        if tensors["sources"].dim() != 3 or tensors["target"].dim() != 2 or tensors["down"].dim() != 2:
            raise ValueError("sources, target and down: want (K, L, H), (L, H) and (projection, H)")
        prompt = cls(tensors["sources"], tensors["target"], projection=tensors["down"].shape[0])
        prompt.fill(tensors)
        return prompt

    def attention(self, input_embeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention weights (B, K+1) for rows of embeddings (B, S, H) with mask (B, S); the target's own is last."""
        text = input_embeds.float()
        if mask is not None:
            padding = (mask == 0) & self.mask_padding
            text = text.masked_fill(padding[..., None], -torch.inf)
        hidden = nn.functional.silu(text.amax(dim=1) @ self.down.T) @ self.up.T
        keys = self._prompts().amax(dim=1)
        scores: Tensor = self.norm(hidden) @ keys.T / self.temperature
        return scores.softmax(dim=-1)

    def of_rows(self, input_embeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Prompts (B, L, H), float32, for rows of embeddings (B, S, H) with mask (B, S)."""
        with torch.autocast(input_embeds.device.type, enabled=False):
            mixed = torch.einsum("bk,klh->blh", self.attention(input_embeds, mask), self._prompts())
            return self.target + mixed

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return put_first(self.of_rows(input_embeds, mask), input_embeds)

    def composed(self, task: int = 0) -> Tensor:
        raise TypeError("an InstancePrompt depends on the row, so it has no finished prompt; use of_rows")

    def parameter_groups(self, learning_rate: float, attention_rate: float | None = None) -> list[dict[str, Any]]:
        """Groups of P_t at learning_rate and the attention's weights at attention_rate. Default: learning_rate."""
        attention = [self.down, self.up, *self.norm.parameters()]
        return speeds(learning_rate, ([self.target], None), (attention, attention_rate))

    def _prompts(self) -> Tensor:
        return torch.cat([self.sources, self.target[None]])
