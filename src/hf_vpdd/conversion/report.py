"""What a conversion did: for the screen, and as `conversion.json` beside the result."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..provenance import source_revision
from ..version import __version__


@dataclass
class Report:
    """
    Args:
        title: What was made, in one line.
        sources: One entry per input file: {"file", "sha256", ...}.
        kept: Tensors of the originals that are in the result.
        dropped: Official name -> why it was left out.
        missing: What the result lacks, and what to do about it.
        notes: What one has to know to use it.
        facts: More for conversion.json.
        out: The folder, once it is written.
    """

    title: str
    sources: list[dict] = field(default_factory=list)
    kept: int = 0
    dropped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    out: Path | None = None

    def dropped_by_reason(self) -> dict[str, int]:
        return dict(Counter(self.dropped.values()).most_common())

    def text(self) -> str:
        lines = [self.title, f"  kept      {self.kept} tensors"]
        if self.dropped:
            lines.append(f"  dropped   {len(self.dropped)} tensors:")
            lines += [f"    {count:5d}  {reason}" for reason, count in self.dropped_by_reason().items()]
        lines += [f"  missing   {line}" for line in self.missing]
        lines += [f"  note      {line}" for line in self.notes]
        if self.out is not None:
            files = sorted(path for path in self.out.iterdir() if path.is_file())
            size = sum(path.stat().st_size for path in files) / 1e6
            lines.append(f"  wrote     {self.out} ({size:.1f} MB): {', '.join(path.name for path in files)}")
        return "\n".join(lines)

    def json(self) -> str:
        """No paths of the machine: the folder may be published."""
        content = {
            "title": self.title,
            "sources": self.sources,
            "kept": self.kept,
            "dropped": self.dropped_by_reason(),
            "missing": self.missing,
            "notes": self.notes,
            **self.facts,
            "converter": {"hf_vpdd": __version__, "revision": source_revision()},
        }
        return json.dumps(content, indent=1) + "\n"
