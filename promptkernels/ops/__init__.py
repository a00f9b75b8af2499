"""The operations, one file per family.

A file has, in this order: argument checks, results (also the fake kernel), native call, table entry, public function
and derivative. The plain torch form is in the file of the same name in `promptkernels.reference`.
"""

from promptkernels.ops.compose import compose_prompts, prepend_prompts
from promptkernels.ops.group import select_group
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
