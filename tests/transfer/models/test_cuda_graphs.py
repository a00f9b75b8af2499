"""Passes replayed as CUDA graphs give the results of the plain passes, whatever the order of the calls.

On a CPU, graphs are imitated with what makes the real ones dangerous: fixed inputs and outputs, and memory that all
graphs share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer
from torch import Tensor

from prompttransfer.methods.objectives import task_loss
from prompttransfer.models import Backbone
from prompttransfer.models.answering import Reader
from prompttransfer.models.cuda_graphs import MOST, MULTIPLE, CudaGraphs
from prompttransfer.prompts import ParticlePrompts, SoftPrompt, initial_prompt

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
ROWS = [[10, 11, 12, 13, 14, 15, 16], [13], [17, 18, 19]]


class Imitation:
    """Records functions on a CPU. A replay computes the function again, and spoils what earlier replays left."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, ...]] = []
        self.replays = 0
        self._memory: list[Tensor] = []

    def __call__(self, function: Callable[..., Tensor], samples: tuple[Tensor, Tensor]) -> Callable[..., Tensor]:
        assert not torch.is_autocast_enabled("cpu")  # the backward pass would be recorded under it
        imitation, (fixed, fixed_mask) = self, samples
        self.recorded.append(tuple(fixed.shape))

        class Graph(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, embeds: Tensor, mask: Tensor) -> Tensor:
                imitation.replays += 1
                imitation.spoil()
                with torch.no_grad():
                    fixed.copy_(embeds)
                    fixed_mask.copy_(mask)
                with torch.set_grad_enabled(fixed.requires_grad):
                    Graph.output = function(fixed, fixed_mask)
                imitation._memory.append(Graph.output.data)
                return Graph.output.detach()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
                (result,) = torch.autograd.grad(Graph.output, fixed, gradient, retain_graph=True)
                imitation.spoil()
                imitation._memory.append(result)
                return result.detach(), None

        return Graph.apply

    def spoil(self) -> None:
        for tensor in self._memory:
            tensor.fill_(torch.nan)
        self._memory.clear()


@pytest.fixture(params=DEVICES)
def backbones(request) -> tuple[Backbone, Backbone]:
    """The same model without and with graphs."""
    model = tiny_llama().to(request.param)
    plain, graphed = (
        Backbone(model, tiny_tokenizer(), precision="float32", cuda_graphs=each) for each in (False, True)
    )
    for each in (plain, graphed):
        each.__dict__ |= {"reads_prompts_once": False, "packs_rows": False}
    if request.param == "cpu":
        assert graphed.graphs is None
        graphed.graphs = CudaGraphs(Imitation())
    return plain, graphed


def batch_of(backbone: Backbone, rows: list[list[int]], answer: tuple[int, ...] = (14,)) -> dict[str, Tensor]:
    batch = backbone.collate(rows, [answer[: 1 + index % len(answer)] for index in range(len(rows))])
    batch["task_ids"] = torch.zeros(len(rows), dtype=torch.int64)
    return {name: tensor.to(backbone.device) for name, tensor in batch.items()}


def step(backbone: Backbone, start: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    prompt = SoftPrompt(start).to(backbone.device)
    loss = task_loss(backbone, prompt, batch)
    loss.backward()
    (parameter,) = prompt.parameters()
    return loss.detach(), parameter.grad


def starts(backbone: Backbone) -> Iterator[Tensor]:
    start = initial_prompt(backbone, 4)
    for index in range(100):
        yield start + 0.01 * index


def test_loss_and_gradient(backbones) -> None:
    plain, graphed = backbones
    start = starts(plain)
    for rows, answer in 3 * [(ROWS, (14,)), (ROWS, (14, 15, 16)), (ROWS[1:], (14,))]:
        prompt, batch = next(start), batch_of(plain, rows, answer)
        torch.testing.assert_close(step(graphed, prompt, batch), step(plain, prompt, batch))


@pytest.mark.parametrize("backbones", ["cpu"], indirect=True)  # counts the imitation's recordings
def test_what_is_recorded(backbones) -> None:
    _, graphed = backbones
    imitation, start = graphed.graphs._record, starts(graphed)
    for length in (1, 2, 3, 12):  # after 4 prompt tokens: one shape
        step(graphed, next(start), batch_of(graphed, [[10] * length]))
    assert (len(imitation.recorded), imitation.replays) == (1, 3)
    assert imitation.recorded == [(1, MULTIPLE, graphed.hidden_size)]
    for length in (13, 13):
        step(graphed, next(start), batch_of(graphed, [[10] * length]))
    assert imitation.recorded[1:] == [(1, 2 * MULTIPLE, graphed.hidden_size)]
    with torch.no_grad():  # a pass without gradients has a graph of its own
        for _ in range(2):
            task_loss(graphed, SoftPrompt(next(start)), batch_of(graphed, [[10]]))
    assert imitation.recorded[2:] == imitation.recorded[:1]


def test_results_last(backbones) -> None:
    """Neither logits nor gradients change when the graph is replayed."""
    device = backbones[0].device
    graphs = CudaGraphs(Imitation()) if device.type == "cpu" else CudaGraphs()
    kept = []
    for index in range(4):
        embeds = torch.full((2, MULTIPLE, 3), float(index), device=device, requires_grad=True)
        result = graphs.run(lambda embeds, mask: embeds.square(), embeds, torch.ones(2, MULTIPLE, device=device))
        (gradient,) = torch.autograd.grad(result.sum(), embeds)
        kept.append((result.detach(), gradient))
    for index, (result, gradient) in enumerate(kept):
        assert (result == index**2).all() and (gradient == 2 * index).all()


def test_passes_between_a_pass_and_its_backward(backbones) -> None:
    """A second student and a teacher do not touch what the backward pass of the first student reads."""
    plain, graphed = backbones
    results = []
    for backbone in (graphed, plain):
        start, batch, gradients = starts(plain), batch_of(plain, ROWS), []
        for _ in range(4):
            prompts = [SoftPrompt(next(start)).to(plain.device) for _ in range(2)]
            losses = [task_loss(backbone, prompt, batch) for prompt in prompts]
            with torch.no_grad():
                teacher = backbone(SoftPrompt(next(start)).to(plain.device), batch).logits
            (losses[0] + 2 * losses[1]).backward()
            gradients += [next(prompt.parameters()).grad for prompt in prompts]
            gradients.append(teacher)
        results.append(gradients)
    torch.testing.assert_close(*results)
    if graphed.device.type == "cpu":
        assert graphed.graphs._record.replays >= 3


@pytest.mark.parametrize("backbones", ["cpu"], indirect=True)  # counts the imitation's replays
def test_a_pass_that_is_never_followed_by_a_backward_pass(backbones) -> None:
    plain, graphed = backbones
    start, batch = starts(plain), batch_of(plain, ROWS)
    for _ in range(3):
        loss = task_loss(graphed, SoftPrompt(next(start)), batch)
        del loss  # such as after an interruption
    assert graphed.graphs._record.replays == 2
    held = task_loss(graphed, SoftPrompt(next(start)), batch)
    step(graphed, next(start), batch)
    assert graphed.graphs._record.replays == 3
    held.backward()
    step(graphed, next(start), batch)
    assert graphed.graphs._record.replays == 4


def test_a_second_backward_pass_is_an_error(backbones) -> None:
    plain, graphed = backbones
    start, batch = starts(plain), batch_of(plain, ROWS)
    step(graphed, next(start), batch)
    loss = task_loss(graphed, SoftPrompt(next(start)).to(plain.device), batch)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass; set cuda_graphs: false"):
        loss.backward()


def test_shapes_beyond_the_most_run_without_a_graph() -> None:
    imitation = Imitation()
    graphs = CudaGraphs(imitation)

    def run(rows: int) -> tuple[int, int]:
        before = len(imitation.recorded), imitation.replays
        embeds = torch.zeros(rows, MULTIPLE, 2)
        got = graphs.run(lambda embeds, mask: embeds + 1, embeds, torch.ones(rows, MULTIPLE))
        assert torch.equal(got, embeds + 1)
        return len(imitation.recorded) - before[0], imitation.replays - before[1]

    for rows in range(1, MOST + 1):
        assert [run(rows), run(rows), run(rows)] == [(0, 0), (1, 1), (0, 1)]
    assert [run(MOST + 1), run(MOST + 1), run(MOST + 1)] == 3 * [(0, 0)]
    assert run(1) == (0, 1)


def test_a_model_that_cannot_be_recorded() -> None:
    def refuse(*_: object) -> Any:
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:  # as where a recording ends
            raise RuntimeError("capture failed due to a previous error")

    graphs, embeds = CudaGraphs(refuse), torch.zeros(1, MULTIPLE, 2)

    def run() -> Tensor:
        return graphs.run(lambda embeds, mask: embeds, embeds, torch.ones(1, MULTIPLE))

    run()
    with pytest.raises(RuntimeError, match=r"cannot be recorded .* set cuda_graphs: false \(operation not permitted"):
        run()

    def full(*_: object) -> Any:
        raise torch.OutOfMemoryError("full")

    graphs._record = full
    with pytest.raises(torch.OutOfMemoryError, match=r"^full$"):
        run()


def test_scores(backbones) -> None:
    plain, graphed = backbones
    prompt, rows = initial_prompt(plain, 4), [[10 + index % 9] * (1 + index % 5) for index in range(12)]
    got, want = (Reader(each, prompt, batch_size=2).first_token_scores(rows, [14, 15]) for each in (graphed, plain))
    torch.testing.assert_close(got, want)
    if graphed.device.type == "cpu":
        assert graphed.graphs._record.replays == 5  # of six batches


def test_prompts_of_several_tasks(backbones) -> None:
    plain, graphed = backbones
    start, batch = initial_prompt(plain, 4), batch_of(plain, ROWS)
    batch["task_ids"] = torch.tensor([0, 1, 0], device=plain.device)
    for index in range(3):
        prompts = torch.stack([start, start + 0.1 * index])
        got, want = (
            each(ParticlePrompts(prompts, start).to(plain.device), batch, task_ids=batch["task_ids"]).logits.detach()
            for each in (graphed, plain)
        )
        torch.testing.assert_close(got, want)
    if graphed.device.type == "cpu":
        assert graphed.graphs._record.replays == 2


def test_the_backward_pass_of_bfloat16_is_recorded_outside_of_autocast() -> None:
    """Inside, the output layer's gradient would be rounded to bfloat16."""
    model = tiny_llama()
    plain, graphed = (Backbone(model, tiny_tokenizer(), precision="bfloat16") for _ in range(2))
    plain.__dict__ |= {"reads_prompts_once": False, "packs_rows": False}
    graphed.graphs, start, batch = CudaGraphs(Imitation()), initial_prompt(plain, 4), batch_of(plain, ROWS)
    for _ in range(3):
        torch.testing.assert_close(step(graphed, start, batch), step(plain, start, batch), rtol=1e-2, atol=1e-2)
    assert graphed.graphs._record.replays == 2


@pytest.mark.parametrize(
    ("changes", "used"),
    [
        ({}, True),
        ({"checkpointing": True}, False),
        ({"sharded": True}, False),
        ({"_layer_weights": 10**12}, False),
        ({"positions": 11 + MULTIPLE}, True),  # 4 of the prompt, 7 of the text
        ({"positions": 10 + MULTIPLE}, False),
    ],
)
def test_where_graphs_are_used(changes: dict[str, Any], used: bool) -> None:
    backbone = Backbone(tiny_llama(), tiny_tokenizer(), precision="float32")
    backbone.graphs = CudaGraphs(Imitation())
    backbone.__dict__ |= {"reads_prompts_once": False, "packs_rows": False} | changes
    for _ in range(2):
        step(backbone, initial_prompt(backbone, 4), batch_of(backbone, ROWS))
    assert bool(backbone.graphs._record.replays) == used
