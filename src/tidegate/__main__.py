"""The command line, as ``tidegate`` and as ``python -m tidegate``."""

import sys


def main() -> None:
    """Run it; Ctrl-C ends it without a traceback while its libraries are being loaded too."""
    try:
        from tidegate.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tidegate"):
            raise
        sys.exit(f"tidegate's commands need {error.name}, which comes with them: pip install 'tidegate[app]'")
    run()


if __name__ == "__main__":
    main()
