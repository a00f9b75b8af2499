"""`python -m prompttransfer` is the command `prompttransfer`."""

from prompttransfer.cli import app

if __name__ == "__main__":
    app()
