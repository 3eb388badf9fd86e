"""Run the ``prott5nv`` command with ``python -m prott5nv``."""

from prott5nv.cli import main

if __name__ == "__main__":
    main()
