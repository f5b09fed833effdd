"""``python -m langwright`` is the same as the command ``langwright``."""

from langwright.cli import command

if __name__ == "__main__":
    command()
