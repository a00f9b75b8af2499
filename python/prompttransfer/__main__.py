"""The command `prompttransfer`, also as `python -m prompttransfer`."""

import sys

from prompttransfer.files import paths, texts


def main() -> None:
    """Run the command line; without its packages, say how to get them."""
    texts.prepare_streams()
    paths.settle_home()
    try:
        from prompttransfer.cli import app
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: pip install 'promptkernels[transfer]'")
    try:
        app(prog_name="prompttransfer")
    except OSError as error:  # of the help; a command tells its own
        if "--debug" in sys.argv:
            raise
        texts.tell(f"error: {error}")
        sys.exit(1)
    finally:
        if not texts.output_is_written():
            sys.exit(1)


if __name__ == "__main__":
    main()
