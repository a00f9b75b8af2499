"""Rows of a batch packed into few sequences: a prompt once, no padding between rows, one pass over the layers.

A pack is [prompts of its rows][its rows]. A row attends to its prompt and to itself, and its positions are those of the
row behind its prompt, so its logits are those of the row alone. The tokens whose logits are wanted, the last ones of
every row, come at the end of the pack, which is where a model computes logits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

# A product of attention takes longer than one of a layer's weights: its matrices are small, and exp is computed of
# every pair. Measured on a CPU.
_PAIR_COST = 4
_COUNTS = (1, 2, 4, 8)  # of packs, to choose from


@dataclass(frozen=True)
class PackedRows:
    """Where the rows of a batch stand, and what they read.

    Attributes:
        starts: place of each row's first token in the batch, (B, S) flattened.
        lengths: number of its tokens.
        wanted: number of its last tokens whose logits are wanted.
        prompts: the prompt it reads, of G.
        prompt_length: tokens L of a prompt.
    """

    starts: Sequence[int]
    lengths: Sequence[int]
    wanted: Sequence[int]
    prompts: Sequence[int]
    prompt_length: int

    def best(self, products: int, width: int) -> tuple[list[list[int]], float]:
        """The rows of each pack, and the products of a layer; see `layer_products` for the arguments."""
        return min(
            ((groups, self._cost(groups, products, width)) for groups in self._groupings()), key=lambda each: each[1]
        )

    def _groupings(self) -> Iterator[list[list[int]]]:
        rows = sorted(range(len(self.lengths)), key=self.prompts.__getitem__)
        by_prompt = defaultdict(list)
        for row in rows:
            by_prompt[self.prompts[row]].append(row)
        yield list(by_prompt.values())
        for count in _COUNTS:
            groups: list[list[int]] = [[] for _ in range(count)]
            total, before = sum(self.lengths), 0
            for row in rows:
                groups[(2 * before + self.lengths[row]) * count // (2 * total + 1)].append(row)
                before += self.lengths[row]
            yield [group for group in groups if group]

    def _cost(self, groups: list[list[int]], products: int, width: int) -> float:
        longest = max(self._size(group) for group in groups)
        return layer_products(len(groups) * longest, len(groups) * longest**2, products, width)

    def _size(self, group: list[int]) -> int:
        prompts = {self.prompts[row] for row in group}
        return len(prompts) * self.prompt_length + sum(self.lengths[row] for row in group)


def layer_products(tokens: int, pairs: int, products: int, width: int) -> float:
    """Multiplications of a layer, those of attention weighted by what they cost.

    Args:
        pairs: of tokens that attention compares.
        products: weights of a layer.
        width: hidden size.
    """
    return tokens * products + _PAIR_COST * 2 * pairs * width


@dataclass(frozen=True)
class Packing:
    """P packs of N positions. A document is a prompt or a row.

    Attributes:
        tokens: (P, N), places in G * L prompt tokens followed by the batch, (B, S) flattened.
        positions: (P, N), of each token behind the start of its prompt.
        document: (P, N), number of each token's document: the prompts first, then the rows.
        prompt: (P, N), number of the prompt it reads.
        keep: number of last positions that have the wanted logits.
        answers: places of the wanted logits in those of the last `keep` positions, (P, keep) flattened; row by row.
    """

    tokens: Tensor
    positions: Tensor
    document: Tensor
    prompt: Tensor
    keep: int
    answers: Tensor

    @classmethod
    def of(cls, rows: PackedRows, groups: list[list[int]], prompts: int, device: torch.device) -> Packing:
        """Lay out the packs. prompts: how many there are, G."""
        length = rows.prompt_length
        keep = max(sum(rows.wanted[row] for row in group) for group in groups)
        answers: dict[int, list[int]] = {}
        packs = []
        for place, group in enumerate(groups):
            first, last = [], []
            for prompt in sorted({rows.prompts[row] for row in group}):
                first += [(prompt * length + i, i, prompt, prompt) for i in range(length)]
            for row in group:
                start, document = prompts * length + rows.starts[row], prompts + row
                tokens = [(start + i, length + i, document, rows.prompts[row]) for i in range(rows.lengths[row])]
                cut = len(tokens) - rows.wanted[row]
                answers[row] = [len(last) + i for i in range(rows.wanted[row])]
                first += tokens[:cut]
                last += tokens[cut:]
            for row in group:
                answers[row] = [place * keep + keep - len(last) + i for i in answers[row]]
            packs.append(first + last)
        longest = max(map(len, packs))
        filler = (0, 0, -1, -1)  # a document of its own, so that no row of the mask is empty
        table = torch.tensor([[filler] * (longest - len(pack)) + pack for pack in packs], device=device)
        order = torch.tensor([i for row in range(len(rows.lengths)) for i in answers[row]], device=device)
        return cls(*table.unbind(dim=-1), keep, order)

    @property
    def mask(self) -> Tensor:
        """Whether a token attends to another one, (P, 1, N, N)."""
        packs, length = self.tokens.shape
        pack = torch.arange(packs, device=self.tokens.device).view(-1, 1, 1, 1)
        token = torch.arange(length, device=self.tokens.device)
        return self._attends(pack, None, token[:, None], token)

    @property
    def blocks(self) -> BlockMask:
        """The same mask for FlexAttention, which skips blocks without a pair."""
        packs, length = self.tokens.shape
        return create_block_mask(self._attends, packs, None, length, length, device=self.tokens.device)

    @property
    def _attends(self) -> Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]:
        """Whether a token attends to another one: of its prompt or of its own row, and not a later one."""
        documents, prompts, positions = self.document, self.prompt, self.positions

        def attends(pack: Tensor, head: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
            document = documents[pack, key]
            seen = (document == documents[pack, query]) | (document == prompts[pack, query])
            return seen & (positions[pack, query] >= positions[pack, key])

        return attends
