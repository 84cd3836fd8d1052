"""Where the program starts: interrupts are heard before anything that takes its time is imported."""

from __future__ import annotations

import json
import sys

from recon.interrupts import listen


def main() -> None:
    """Run the command line; see `recon.cli`."""
    listen()
    try:
        from recon import cli  # takes half a second
    except KeyboardInterrupt:
        sys.exit(_interrupted("Interrupted before anything began; `recon status` shows where each batch stands."))
    cli.main()


def _interrupted(message: str) -> int:
    if "--json" in sys.argv[1:]:
        sys.stdout.write(json.dumps({"code": "interrupted", "message": message}) + "\n")
    else:
        sys.stderr.write(f"recon: interrupted: {message}\n")
    return 1


if __name__ == "__main__":
    main()
