"""The command `prompttransfer`, also as `python -m prompttransfer`."""

import sys


def main() -> None:
    """Run the command line; without its packages, say how to get them."""
    try:
        from prompttransfer.cli import app
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: pip install 'promptkernels[transfer]'")
    app(prog_name="prompttransfer")


if __name__ == "__main__":
    main()
