"""Backends: one module each with the same function names, and the registry that chooses among them."""

# The functions that a backend is made of; promptkernels/reference.py has their arguments and formulas.
OPERATIONS = (
    "task_similarity",
    "task_similarity_z",
    "task_similarity_backward",
    "svgd_direction",
    "svgd_direction_backward",
    "compose_prompts",
    "compose_prompts_backward",
    "prepend_prompts",
    "merge_task_vectors",
    "merge_task_vectors_backward",
    "select_group",
)
