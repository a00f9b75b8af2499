"""Short error messages that say what to do, and the exit codes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer
from pydantic import ValidationError

from prompttransfer.distributed import processes
from prompttransfer.files import texts
from prompttransfer.files.cache import cache_folder
from prompttransfer.files.excerpt import first_line
from prompttransfer.files.model_names import hub_folder
from prompttransfer.files.paths import NoHome
from prompttransfer.settings.recipes import explain

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
EXIT_CODES = {
    0: "done",
    FAILED: "the work failed, or something is missing here",
    REFUSED: "the input is refused: an option, a setting, a name or a file",
    INTERRUPTED: "interrupted",
}
_OF_THE_USER = (ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_OUT_OF_MEMORY = (
    "to use less memory: a smaller --batch-size or --max-length; in a recipe `checkpointing: true`, a smaller "
    "eval_batch_size or fewer bmtpt.particles; `prompttransfer validate` estimates what a recipe needs"
)
_PLACES = "--output for results, the environment variable PROMPTTRANSFER_CACHE for finished stages"
_INSTALL = "pip install 'promptkernels[transfer]'"


@contextmanager
def friendly_errors(debug: bool, *, resumes: bool = False) -> Iterator[None]:
    """Turn exceptions into a message on standard error and an exit code from `EXIT_CODES`.

    With several processes, only the first that fails prints its message.

    Args:
        debug: let exceptions through, for the traceback.
        resumes: whether the command resumes when it is run again.
    """
    try:
        yield
    except KeyboardInterrupt:
        _tell("stopped; run the same command again to continue" if resumes else "stopped")
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise  # typer's own, and a closed pipe, such as to head
    except Exception as error:
        if debug:
            raise
        more = "" if _expected(error) else "\nrun again with --debug for the traceback"
        _tell(f"error: {_message(error)}{more}")
        raise typer.Exit(REFUSED if _expected(error) and isinstance(error, _OF_THE_USER) else FAILED) from None


def _tell(message: str) -> None:
    if processes.reports_error():
        texts.tell(message)


def _message(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, ValidationError):
        return "\n".join(text for _, text in explain(error))
    if _out_of_memory(error):
        return f"out of memory: {first_line(error)}\n{_OUT_OF_MEMORY}"
    if _disk_full(error):
        where = getattr(error, "filename", None) or "a file cannot be written"
        return f"{where}: {os.strerror(errno.ENOSPC)}; free some space, or use another disk: {_PLACES}"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        hint = _other_place(error)
        reason = "exists and is not a folder" if error.errno == errno.EEXIST else error.strerror
        return f"{error.filename}: {reason}{hint}"
    if isinstance(error, ModuleNotFoundError) and str(error).startswith("No module named"):
        return f"{error.name} is not installed: {_INSTALL}"
    if _expected(error):
        return str(error) or kind
    return f"{kind}: {first_line(error)}"


def _other_place(error: OSError) -> str:
    """How to choose another folder if one is not writable."""
    if error.errno == errno.EROFS:
        return f"; use another folder: {_PLACES}"
    path = Path(os.fsdecode(error.filename))
    for variable, folder in (("PROMPTTRANSFER_CACHE", cache_folder), ("HF_HOME", hub_folder)):
        with suppress(NoHome):
            place = folder().absolute()
            if path.is_relative_to(place) or (place.is_relative_to(path) and not path.is_dir()):
                return f"; set {variable} to a writable folder"
    return ""


def _out_of_memory(error: Exception) -> bool:
    """Whether the GPU, Python, or torch on the CPU ran out of memory."""
    kind = type(error).__name__
    return isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _disk_full(error: Exception) -> bool:
    """Whether the disk is full. Reported by the system, by safetensors, or by torch.save, which hides the reason."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    signs = (os.strerror(errno.ENOSPC), "inline_container", "iostream error")
    return any(sign in str(error) for sign in signs)


def _expected(error: Exception) -> bool:
    """Whether the message was written for users, by this package or by the operating system."""
    if isinstance(error, (OSError, ValidationError)) or _out_of_memory(error) or _disk_full(error):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    message = isinstance(error, (ValueError, RuntimeError, ImportError))  # a KeyError would be a bug
    return message and place.split(".")[0] in ("prompttransfer", "promptkernels")
