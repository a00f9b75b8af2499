"""The public operations, one file per family: schema, fake, public function, autograd function, in this order."""

from promptkernels.ops.grouping import select_group
from promptkernels.ops.hadamard import compose_prompts, prepend_prompts
from promptkernels.ops.merge import merge_task_vectors
from promptkernels.ops.similarity import task_similarity
from promptkernels.ops.svgd import svgd_direction

__all__ = [
    "compose_prompts",
    "merge_task_vectors",
    "prepend_prompts",
    "select_group",
    "svgd_direction",
    "task_similarity",
]
