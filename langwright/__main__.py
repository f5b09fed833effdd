"""``python -m langwright`` is the same as the command ``langwright``."""

import sys

from langwright.cli import main

if __name__ == "__main__":
    sys.exit(main())
