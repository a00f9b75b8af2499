"""The built-in backends. In a separate module, because they need the operations, which need the registry."""

from promptkernels import reference
from promptkernels.backends import cpu, cuda, registry, triton

registry.BACKENDS.update({module.BACKEND.name: module.BACKEND for module in (cpu, cuda, triton, reference)})
