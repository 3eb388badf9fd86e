"""The ``prott5nv`` command, also as ``python -m prott5nv``."""

import sys


def main() -> None:
    """Run the command. Ctrl-C is one line also while Python imports it."""
    try:
        from prott5nv.cli import main as run
    except KeyboardInterrupt:
        print("prott5nv: stopped", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
