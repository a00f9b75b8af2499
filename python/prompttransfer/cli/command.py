"""What all commands share: checked arguments, settings as options, error messages, and output of the result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from prompttransfer.cli.errors import friendly_errors
from prompttransfer.cli.setting_options import setting_option, split
from prompttransfer.distributed import processes
from prompttransfer.files.paths import expanded
from prompttransfer.files.progress import Progress, QuietProgress
from prompttransfer.files.texts import check_output, check_text, show_json

_JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Show the result only, no progress.")]
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Result(NamedTuple):
    """Result of a command.

    Attributes:
        facts: output for --json.
        display: prints the result for people.
        code: exit code.
    """

    facts: Any
    display: Callable[[], None]
    code: int = 0


def command(
    *,
    settings: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    resumes: bool = False,
    prints: bool = False,
) -> Callable[[Callable[..., Result | None]], Callable[..., None]]:
    """Decorator that turns a function into a command.

    The function gets paths with ~ expanded, and text that is valid UTF-8. It returns its result, or prints it itself.
    Its parameters are extended by these options:

    - one for each of the settings; their values (None if not given) are passed as `options`;
    - `--quiet` if it takes `progress`, which is passed instead;
    - `--json`, unless it has `as_json` itself;
    - `--debug`.

    Args:
        settings: names of settings of a run, in the order of the help.
        defaults: default of a setting in the help, if it differs from that of `RunConfig`.
        resumes: whether a stopped command resumes when it is run again.
        prints: whether the only result is what is printed, so that a closed standard output is an error.
    """

    def decorate(function: Callable[..., Result | None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters
        added = [setting_option(name, (defaults or {}).get(name)) for name in settings]
        for name, annotation in (("as_json", _JSON), ("quiet", _QUIET), ("debug", _DEBUG)):
            if name not in own and (name != "quiet" or "progress" in own):
                added.append(inspect.Parameter(name, _KEYWORD, default=False, annotation=annotation))

        @wraps(function)
        def begin(*, debug: bool, **values: Any) -> None:
            with friendly_errors(debug, resumes=resumes):
                if prints:
                    check_output()
                as_json = values["as_json"]
                if "progress" in own:
                    silent = values.pop("quiet") or as_json or not processes.is_main()
                    values["progress"] = QuietProgress() if silent else Progress()
                arguments = {name: _received(value, name.replace("_", "-")) for name, value in values.items()}
                if settings:
                    chosen = {name: arguments.pop(name) for name in settings}
                    arguments["options"] = {n: split(v) if isinstance(v, list) else v for n, v in chosen.items()}
                result = function(**{name: value for name, value in arguments.items() if name in own})
                if result is None:
                    return
                if as_json:
                    show_json(result.facts)
                else:
                    result.display()
            if result.code:
                raise typer.Exit(result.code)

        shown = [each for each in own.values() if each.name not in ("progress", "options")]
        parameters = [each.replace(kind=_KEYWORD) for each in (*shown, *added)]
        begin.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        begin.__annotations__ = {}
        return begin

    return decorate


def _received(value: Any, what: str) -> Any:
    """Convert a value, or each of several, for the command."""
    if isinstance(value, list):
        return [_received(one, f"{what.removesuffix('s')} {number}") for number, one in enumerate(value, start=1)]
    if isinstance(value, Path):
        return expanded(value)
    return check_text(value, what) if isinstance(value, str) else value
