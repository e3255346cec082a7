"""Which code made a result: the revision of the source, the versions of packages."""

import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path


def source_revision() -> str | None:
    """The git commit of the source this runs from, with "+" if the package was changed since; None outside a clone."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        return result.stdout.strip() if result.returncode == 0 else ""

    try:
        if not git("ls-files", "__init__.py"):  # installed into an environment that lies within some other repository
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.TimeoutExpired):
        return None


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each package, None for those that are not there."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
