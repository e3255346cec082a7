"""What is wrong with a dataset: findings of kinds that have names, counted, of which the first ones are kept."""

from dataclasses import asdict, dataclass


# name -> (whether data cannot be trusted or read because of it, what it means, what to do about it)
KINDS: dict[str, tuple[bool, str, str]] = {
    "missing-file": (True, "a file that the tables name is not there", "copy the dataset again"),
    "broken-file": (True, "a file is cut short or not what its name says", "copy the file again"),
    "broken-table": (True, "a table under meta/ contradicts itself or another", "write the dataset again"),
    "episode-gap": (True, "episodes are not numbered 0, 1, 2, ...", "renumber, or write the dataset again"),
    "wrong-rows": (True, "rows of an episode are missing, repeated or of another one", "write the dataset again"),
    "wrong-type": (True, "a column is not what meta/info.json says", "correct info.json or the column"),
    "nan": (True, "a number is NaN or infinite", "repair or leave out the episode"),
    "timestamp": (True, "a timestamp is not frame_index / fps", "correct the timestamps, or fps in meta/info.json"),
    "task": (True, "a frame's task is not its episode's, or not in the table of tasks", "correct task_index"),
    "video-frames": (True, "a video does not hold the frames its episodes need", "encode the video again"),
    "video-timing": (True, "a video frame is not at a multiple of 1 / fps", "encode the video at the dataset's fps"),
    "decode": (True, "a picture or video cannot be decoded", "copy or encode the file again"),
    "checksum": (True, "a video is not the one that was written", "copy the file again"),
    "stats": (True, "the statistics do not match the data", "hf-vpdd check DATASET --write-stats"),
    "model": (True, "the statistics of the model are of other data", "train with this dataset, or use another model"),
    "outlier": (False, "a number far outside of what the others span", "look at that episode"),
    "out-of-range": (False, "an action outside of the range that nearly all others keep", "clip it"),
    "constant": (False, "a dimension that never changes", "none if meant; a network learns nothing from it"),
    "gripper-polarity": (False, "the gripper opens on + in some episodes and on - in others", "flip the signs"),
    "gripper-range": (False, "gripper commands use one range in some episodes, another in others", "use one range"),
    "unused-file": (False, "a file that no episode uses", "remove it; converters may have left it"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes: `kind`, of `KINDS`; `message`, what was expected and what was found; where it is, as far as it has a
    place: `file` (relative to the dataset), `episode`, `frame` (within the episode) and `key` (the feature).
    """

    kind: str
    message: str
    file: str | None = None
    episode: int | None = None
    frame: int | None = None
    key: str | None = None

    @property
    def is_error(self) -> bool:
        """Whether data is missing or wrong, and not only unusual."""
        return KINDS[self.kind][0]

    def to_json(self) -> dict:
        return asdict(self) | {"level": "error" if self.is_error else "warning", "fix": KINDS[self.kind][2]}


class Findings:
    """Collects findings: counts all of them, keeps the first `keep` of each kind and feature.

    Args:
        keep: A dataset whose every frame is wrong should not fill the memory with that news.
        ignore: Kinds that are not to be reported.
    """

    def __init__(self, keep: int = 20, ignore: tuple[str, ...] = ()):
        self.keep = keep
        self.ignore = frozenset(ignore)
        self.counts: dict[str, int] = {}
        self.kept: list[Finding] = []
        self._kept_of: dict[tuple, int] = {}

    def add(self, kind: str, message: str, times: int = 1, **place) -> None:
        """Adds a `Finding`; `times` counts it as several of which this is the first."""
        if kind in self.ignore:
            return
        self.counts[kind] = self.counts.get(kind, 0) + times
        slot = (kind, place.get("key"))
        if self._kept_of.get(slot, 0) < self.keep:
            self._kept_of[slot] = self._kept_of.get(slot, 0) + 1
            self.kept.append(Finding(kind, message, **place))

    def forget(self, kind: str) -> None:
        """Drops the findings of a kind, because they have been mended."""
        self.counts.pop(kind, None)
        self.kept = [finding for finding in self.kept if finding.kind != kind]

    @property
    def num_errors(self) -> int:
        return sum(number for kind, number in self.counts.items() if KINDS[kind][0])

    @property
    def num_warnings(self) -> int:
        return sum(self.counts.values()) - self.num_errors

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __bool__(self) -> bool:
        return bool(self.counts)

    def sorted(self) -> list[Finding]:
        """What was kept, errors first, in the order of `KINDS`, then of files and episodes."""
        order = {kind: number for number, kind in enumerate(KINDS)}
        return sorted(
            self.kept, key=lambda f: (not f.is_error, order[f.kind], f.file or "", f.episode or 0, f.frame or 0)
        )
