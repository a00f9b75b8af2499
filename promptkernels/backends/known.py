"""The backends that the package comes with. A module of its own: they need the operations, which need the registry."""

from promptkernels import reference
from promptkernels.backends import cpu, cuda, registry, triton

registry.BACKENDS.update({module.BACKEND.name: module.BACKEND for module in (cpu, cuda, triton, reference)})
