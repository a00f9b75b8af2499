"""The operations of the backend ``triton``, one file per kernel family. Importing this imports Triton."""

from promptkernels.backends.triton_kernels.grouping import select_group
from promptkernels.backends.triton_kernels.hadamard import (
    compose_prompts,
    compose_prompts_backward,
    prepend_prompts,
)
from promptkernels.backends.triton_kernels.merge import merge_task_vectors, merge_task_vectors_backward
from promptkernels.backends.triton_kernels.similarity import (
    task_similarity,
    task_similarity_backward,
    task_similarity_z,
)
from promptkernels.backends.triton_kernels.svgd import svgd_direction, svgd_direction_backward

__all__ = [
    "compose_prompts",
    "compose_prompts_backward",
    "merge_task_vectors",
    "merge_task_vectors_backward",
    "prepend_prompts",
    "select_group",
    "svgd_direction",
    "svgd_direction_backward",
    "task_similarity",
    "task_similarity_backward",
    "task_similarity_z",
]
