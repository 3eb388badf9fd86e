"""``python -m prott5nv`` is the ``prott5nv`` command."""

from prott5nv.cli import main

if __name__ == "__main__":
    main()
