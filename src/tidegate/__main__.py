"""The command line, as ``tidegate`` and as ``python -m tidegate``."""

import sys


def main() -> None:
    """Run it; Ctrl-C ends it without a traceback while its libraries are being loaded too."""
    try:
        from tidegate.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
