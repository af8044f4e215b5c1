"""What the benchmarks share: words of the command line, the processor's name, results as JSON."""

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_words(defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the defaults changed by the command line's name=value words."""
    options = dict(defaults)
    for word in sys.argv[1:]:
        name, equals, value = word.partition("=")
        if not equals or name not in options:
            sys.exit(f"error: cannot read '{word}'; options are: {', '.join(defaults)}")
        options[name] = value
    return options


def report(document: dict[str, Any], output: str) -> None:
    """Print a result as one line of JSON, and write it to a file if one is named."""
    if output:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document))


def cpu_name() -> str:
    """Return the processor's name where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
