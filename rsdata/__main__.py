"""`python -m rsdata`."""

from rsdata.cli import run

if __name__ == "__main__":
    run()
