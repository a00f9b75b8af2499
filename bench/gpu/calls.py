"""Every operation on inputs of a given size, type and alignment, with its result and gradients in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

import promptkernels as pk
from promptkernels.backends import registry

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Call:
    """``function(inputs)`` on tensors by name. Floating tensors in ``leaves`` get a gradient."""

    name: str
    function: Callable[[Inputs], Tensor]
    inputs: Inputs
    leaves: tuple[str, ...]

    def result(self, inputs: Inputs | None = None) -> Tensor:
        with torch.no_grad():
            return self.function(self.inputs if inputs is None else inputs)

    def everything(self, inputs: Inputs | None = None) -> list[Tensor]:
        """The output and the gradients of the leaves, for a fixed incoming gradient."""
        inputs = dict(self.inputs if inputs is None else inputs)
        for name in self.leaves:
            inputs[name] = inputs[name].detach().requires_grad_()
        out = self.function(inputs)
        if not self.leaves:
            return [out]
        incoming = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=torch.float64).view_as(out).to(out.dtype)
        return [out.detach(), *torch.autograd.grad(out, [inputs[name] for name in self.leaves], incoming)]

    def exact(self) -> list[Tensor]:
        """The same results by plain torch in float64."""
        double = {name: t.double() if t.is_floating_point() else t for name, t in self.inputs.items()}
        with pk.use_backend("reference"):
            return self.everything(double)

    def new_inputs(self, seed: int) -> Inputs:
        """Inputs with other numbers, but the same sizes, types and strides."""
        generator = torch.Generator().manual_seed(seed)
        inputs = {}
        for name, tensor in self.inputs.items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                inputs[name] = tensor + drawn.to(tensor.device, tensor.dtype)
            else:
                inputs[name] = tensor.flip(0)
        return inputs


def calls(rows: int, length: int, hidden: int, dtype: torch.dtype, device: torch.device, aligned: bool) -> list[Call]:
    """All operations with ``rows`` prompts, particles or tasks of (length, hidden).

    Unless ``aligned``, every tensor starts one element after an aligned address.
    """
    generator = torch.Generator().manual_seed(rows)

    def new(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)
        if aligned:
            return values
        room = torch.full((values.numel() + 1,), float("nan"), dtype=dtype, device=device)
        return room[1:].view(shape).copy_(values)

    start = new(length, hidden)
    prompts = {"prompts": new(rows, length, hidden), "start": start}
    others, scale = {"others": new(3, length, hidden)}, {"scale": new(rows, length)}
    particles = {"particles": new(rows, length, hidden), "scores": new(rows, length, hidden)}
    factors = {"shared": start, "u": new(rows, length, 2), "v": new(rows, 2, hidden)}
    ids = {"ids": torch.randint(rows, (5,), generator=generator).to(device)}
    embeds = {"embeds": new(5, length + 2, hidden)}
    weights = {"weights": new(rows)}

    def similar(metric: str) -> Callable[[Inputs], Tensor]:
        return lambda x: pk.task_similarity(
            x["prompts"], x["start"], x.get("others"), metric=metric, scale=x.get("scale")
        )

    def compose(x: Inputs) -> Tensor:
        return pk.compose_prompts(x["shared"], x["u"], x["v"], x["ids"])

    def prepend(x: Inputs) -> Tensor:
        return pk.prepend_prompts(x["shared"], x["u"], x["v"], x["ids"], x["embeds"])

    def group(x: Inputs) -> Tensor:
        return pk.select_group(x["similarity"], 0).float()

    symmetric = new(rows, rows)
    listed = [
        ("cosine", similar("cosine"), prompts),
        ("cosine, scaled", similar("cosine"), {**prompts, **scale}),
        ("cosine to others", similar("cosine"), {**prompts, **others}),
        ("cosine of means", similar("token_mean_cosine"), prompts),
        ("dot product of means", similar("token_mean_dot"), {**prompts, **scale}),
        ("svgd", lambda x: pk.svgd_direction(x["particles"], x["scores"]), particles),
        ("svgd per token", lambda x: pk.svgd_direction(x["particles"], x["scores"], per_token=True), particles),
        ("compose", compose, {**factors, **ids}),
        ("prepend", prepend, {**factors, **ids, **embeds}),
        (
            "merge",
            lambda x: pk.merge_task_vectors(x["start"], x["prompts"], x["scale"], x["weights"]),
            {**prompts, **scale, **weights},
        ),
        ("group", group, {"similarity": symmetric + symmetric.T}),
    ]
    return [
        Call(name, function, inputs, () if name == "group" else tuple(k for k in inputs if k != "ids"))
        for name, function, inputs in listed
    ]


@contextmanager
def use(backend: str) -> Iterator[None]:
    """`pk.use_backend`, also for the emulated backend of the tests, which the package does not have."""
    if backend == "cuda-emulated":
        from emulated import make_backend

        registry.BACKENDS[backend] = make_backend()
    with pk.use_backend(backend):
        yield
