"""`python -m autopoiesis.cli`, `autopoiesis`, `apo`."""

import sys

from autopoiesis.cli.app import run


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
