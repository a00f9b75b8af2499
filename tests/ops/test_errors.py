"""Bad input raises an error with the argument, its value and what was expected, before any kernel runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from cases import asserts_on_device, compose_inputs, rand

import promptkernels as pk

P, R, S = rand(4, 3, 5), rand(3, 5), rand(4, 3)
SHARED, U, V, IDS, EMBEDS = compose_inputs((6, 3, 5, 2, 10, 4))

BAD = {
    "prompts rank": (lambda: pk.task_similarity(rand(4, 3, 5, 2)), r"prompts .*\(T, L, H\), got \(4, 3, 5, 2\)"),
    "prompts type": (lambda: pk.task_similarity(P.int()), r"prompts .*float32.*got torch.int32"),
    "prompts list": (lambda: pk.task_similarity([[1.0]]), r"prompts must be a torch.Tensor, got list"),
    "no tasks": (lambda: pk.task_similarity(rand(0, 3, 5)), r"prompts .*T >= 1, got \(0, 3, 5\)"),
    "reference shape": (lambda: pk.task_similarity(P, rand(3, 6)), r"reference .*H = 5 as in prompts, got \(3, 6\)"),
    "reference rank": (lambda: pk.task_similarity(P, P), r"reference .*\(L, H\), got \(4, 3, 5\)"),
    "others shape": (lambda: pk.task_similarity(P, R, rand(2, 4, 5)), r"others .*L = 3 as in prompts"),
    "scale shape": (lambda: pk.task_similarity(P, scale=rand(3, 3)), r"scale .*T = 4 as in prompts, got \(3, 3\)"),
    "flat scale": (lambda: pk.task_similarity(rand(4, 9), scale=rand(4, 2)), r"scale .*\(T, 1\).*got \(4, 2\)"),
    "metric": (lambda: pk.task_similarity(P, metric="dot"), r"metric must be one of cosine.*got 'dot'"),
    "eps": (lambda: pk.task_similarity(P, eps=0), r"eps must be a number > 0, got 0"),
    "eps none": (lambda: pk.task_similarity(P, eps=None), r"eps must be a number > 0, got None"),
    "eps too large": (lambda: pk.task_similarity(P, eps=10**400), r"eps must be a number > 0, got 1000"),
    "metric list": (lambda: pk.task_similarity(P, metric=[]), r"metric must be one of cosine.*got \[\]"),
    "return_z": (lambda: pk.task_similarity(P, return_z=1), r"return_z must be True or False, got 1"),
    "z of token means": (
        lambda: pk.task_similarity(P, metric="token_mean_dot", return_z=True),
        r"return_z needs metric 'cosine', got 'token_mean_dot'.*metric='cosine' for z",
    ),
    "z of flat prompts": (
        lambda: pk.task_similarity(rand(4, 9), return_z=True),
        r"return_z needs prompts of shape \(T, L, H\), got \(4, 9\)",
    ),
    "sparse": (lambda: pk.task_similarity(P, R.to_sparse()), r"reference must be a dense tensor.*got torch.sparse_coo"),
    "nested": (
        lambda: pk.task_similarity(torch.nested.nested_tensor([R])),
        r"prompts must be a dense tensor.*got a nested tensor",
    ),
    "device": (lambda: pk.task_similarity(P, R.to("meta")), r"reference must be on cpu like prompts, got meta"),
    "scores shape": (lambda: pk.svgd_direction(P, rand(3, 3, 5)), r"scores .*M = 4 as in particles"),
    "bandwidth name": (lambda: pk.svgd_direction(P, P, bandwidth="median"), r"bandwidth .*liu2016.*got 'median'"),
    "bandwidth value": (lambda: pk.svgd_direction(P, P, bandwidth=-1.0), r"bandwidth must be a number > 0.*got -1.0"),
    "bandwidth tensor": (
        lambda: pk.svgd_direction(P, P, bandwidth=torch.tensor(2.0)),
        r"bandwidth must be a number > 0 .*got tensor\(2\.\).*float\(bandwidth\)",
    ),
    "bandwidth nan": (lambda: pk.svgd_direction(P, P, bandwidth=float("nan")), r"bandwidth .*got nan"),
    "bandwidth too large": (lambda: pk.svgd_direction(P, P, bandwidth=10**400), r"bandwidth .*got 1000"),
    "per token": (lambda: pk.svgd_direction(P, P, per_token="no"), r"per_token must be True or False, got 'no'"),
    "target": (lambda: pk.select_group(torch.eye(3), "first"), r"target must be an int, got 'first'"),
    "flat per token": (
        lambda: pk.svgd_direction(rand(4, 9), rand(4, 9), per_token=True),
        r"per_token needs .*got \(4, 9\)",
    ),
    "u rank": (lambda: pk.compose_prompts(SHARED, U[0], V, IDS), r"u must have shape \(T, L, R\), got \(5, 2\)"),
    "v rank R": (lambda: pk.compose_prompts(SHARED, U, V[:, :1], IDS), r"v .*R = 2 as in u, got \(3, 1, 10\)"),
    "ids type": (
        lambda: pk.compose_prompts(SHARED, U, V, IDS.float()),
        r"task_ids must be int32 or int64, got torch.float32",
    ),
    "ids rank": (lambda: pk.compose_prompts(SHARED, U, V, IDS[None]), r"task_ids must have shape \(B,\), got \(1, 6\)"),
    "embeds rows": (lambda: pk.prepend_prompts(SHARED, U, V, IDS, EMBEDS[:5]), r"input_embeds .*B = 6 as in task_ids"),
    "embeds hidden": (
        lambda: pk.prepend_prompts(SHARED, U, V, IDS, rand(6, 4, 9)),
        r"input_embeds .*H = 10 as in shared",
    ),
    "weights": (lambda: pk.merge_task_vectors(R, P, weights=rand(5)), r"weights .*T = 4 as in prompts, got \(5,\)"),
    "merge prompts": (lambda: pk.merge_task_vectors(R, R), r"prompts must have shape \(T, L, H\), got \(3, 5\)"),
    "similarity square": (lambda: pk.select_group(rand(3, 4), 0), r"similarity .*got \(3, 4\)"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_value_errors_name_the_argument(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("bad", [-1, 3, 2**40])
@pytest.mark.parametrize("function", [pk.compose_prompts, pk.prepend_prompts])
def test_task_id_out_of_range(backend, function, bad):
    if asserts_on_device(backend):
        pytest.skip("ends the process: see the next test")
    shared, u, v, task_ids, embeds = compose_inputs((6, 3, 5, 2, 10, 4))
    task_ids[4] = bad
    arguments = (shared, u, v, task_ids) + ((embeds,) if function is pk.prepend_prompts else ())
    with pytest.raises(IndexError, match=rf"task_ids holds {bad}.*0\.\.2"):
        function(*arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_task_id_out_of_range_on_a_gpu_is_a_device_side_assertion(name):
    if name not in pk.backends() or not pk.backends()[name].available:
        pytest.skip(f"{name} is not available")
    code = f"""
import torch, promptkernels as pk
torch.set_default_device("cuda")
with pk.use_backend({name!r}):
    pk.compose_prompts(torch.ones(2, 3), torch.ones(3, 2, 1), torch.ones(3, 1, 3), torch.tensor([0, 3]))
torch.cuda.synchronize()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0 and "assert" in done.stderr.lower(), done.stderr


@pytest.mark.parametrize("target", [-1, 5])
def test_target_out_of_range(target):
    with pytest.raises(IndexError, match=rf"target must be in 0\.\.4, got {target}"):
        pk.select_group(torch.eye(5), target)
