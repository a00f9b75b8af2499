"""Errors in a line or two with the way out, and exit codes that mean something."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import ValidationError

from prompttransfer import processes
from prompttransfer.recipes import explain

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
EXIT_CODES = {
    0: "done",
    FAILED: "the work failed, or something is missing here",
    REFUSED: "what was given is refused: an option, a setting, a name, a file",
    INTERRUPTED: "interrupted",
}
_OF_THE_USER = (ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_OUT_OF_MEMORY = (
    "less memory: a smaller --batch-size or --max-length, or `checkpointing: true` in a recipe; `prompttransfer "
    "validate` estimates what a recipe needs"
)

_INSTALL = "pip install 'promptkernels[transfer]'"


@contextmanager
def friendly_errors(debug: bool, *, resumes: bool = False) -> Iterator[None]:
    """Turn what goes wrong inside into a message on the error stream and an exit code of `EXIT_CODES`.

    Of several processes, the first that fails tells.

    Args:
        debug: let the traceback through.
        resumes: the command goes on where it was when it is run again.
    """
    try:
        yield
    except KeyboardInterrupt:
        _tell("stopped; run the same command again to go on" if resumes else "stopped")
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise  # the command line's own, and a reader that has seen enough (head)
    except Exception as error:
        if debug:
            raise
        more = "" if _expected(error) else "\nrun again with --debug for the traceback"
        _tell(f"error: {_message(error)}{more}")
        raise typer.Exit(REFUSED if _expected(error) and isinstance(error, _OF_THE_USER) else FAILED) from None


def _tell(message: str) -> None:
    if processes.tells_of_an_error():
        typer.echo(message, err=True)


def _message(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, ValidationError):
        return "\n".join(text for _, text in explain(error))
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return f"out of memory: {_first_line(error) or kind}\n{_OUT_OF_MEMORY}"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        space = "; free some, or name another disk in PROMPTTRANSFER_CACHE" if error.errno == errno.ENOSPC else ""
        return f"{error.filename}: {error.strerror}{space}"
    if isinstance(error, ModuleNotFoundError) and str(error).startswith("No module named"):
        return f"{error.name} is not installed: {_INSTALL}"
    if _expected(error):
        return str(error) or kind
    return f"{kind}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _expected(error: Exception) -> bool:
    """Whether the message was written for the user: by this package, or by the operating system."""
    if isinstance(error, (OSError, MemoryError, ValidationError)):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    message = isinstance(error, (ValueError, RuntimeError, ImportError))  # a KeyError would be a defect
    return message and place.split(".")[0] in ("prompttransfer", "promptkernels")
