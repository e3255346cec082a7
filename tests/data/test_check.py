"""Breaks a small dataset in every way that `check_dataset` promises to find, and sees that it names the place."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_vpdd.data.check import check_dataset
from hf_vpdd.data.findings import KINDS, Findings
from hf_vpdd.data.lerobot import LeRobotDataset
from hf_vpdd.data.lerobot_writer import LeRobotWriter, encode_video
from hf_vpdd.data.packet_sums import SUMS_FILE
from hf_vpdd.errors import InputError

from .conftest import FPS, LENGTHS, make_episodes, write_dataset
from .test_lerobot import write_v21


ROWS = "data/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.corner2/chunk-000/file-000.mp4"
TABLE = "meta/episodes/chunk-000/file-000.parquet"
KEY = "observation.images.corner2"
START = np.cumsum(LENGTHS) - LENGTHS


def check(root, **options):
    return check_dataset(root, progress=False, workers=1, **options)


def _rows(change):
    """A breaking that changes the columns of the data file."""

    def breaking(root):
        table = pq.read_table(root / ROWS)
        columns = {name: np.array(table.column(name).to_pylist()) for name in table.column_names}
        columns = change(columns) or columns

        def arrow(value):
            return pa.array(list(value)) if value.ndim > 1 or value.dtype == object else value

        types = {name: table.schema.field(name).type for name in table.column_names}
        arrays = {}
        for name, value in columns.items():
            same = name in types and value.dtype.kind == np.array(table.column(name)[0].as_py()).dtype.kind
            arrays[name] = pa.array(list(value), types[name]) if same else arrow(value)
        pq.write_table(pa.table(arrays), root / ROWS)

    return breaking


def _set(key, row, value, dim=None):
    def change(columns):
        if dim is None:
            columns[key][row] = value
        else:
            columns[key][row, dim] = value

    return _rows(change)


def _table(**changes):
    """A breaking that sets column[row] of the episode table."""

    def breaking(root):
        table = pq.read_table(root / TABLE)
        for name, (row, value) in changes.items():
            name = name.replace("__", "/")
            values = table.column(name).to_pylist()
            values[row] = value
            table = table.set_column(table.column_names.index(name), name, [values])
        pq.write_table(table, root / TABLE)

    return breaking


def _json(name, change):
    def breaking(root):
        value = json.loads((root / name).read_text())
        change(value)
        (root / name).write_text(json.dumps(value))

    return breaking


def _cut(name, keep=0.6):
    def breaking(root):
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: int(len(data) * keep)])

    return breaking


def _noise(name, at=0.3, count=400):
    """Random bytes in the middle of a file."""

    def breaking(root):
        data = bytearray((root / name).read_bytes())
        first = int(len(data) * at)
        data[first : first + count] = np.random.default_rng(0).integers(0, 256, count, np.uint8).tobytes()
        (root / name).write_bytes(bytes(data))

    return breaking


def _shorter_video(root):
    episodes = make_episodes()
    frames = np.concatenate([episode[KEY] for episode in episodes])[:-5]
    encode_video(root / VIDEO, frames, FPS)


def _other_rate(root):
    frames = np.concatenate([episode[KEY] for episode in make_episodes()])
    encode_video(root / VIDEO, frames, 30)


def _smaller_pictures(root):
    frames = np.concatenate([episode[KEY] for episode in make_episodes(size=32)])
    encode_video(root / VIDEO, frames, FPS)


def _drop_rows(columns):
    return {name: np.delete(value, 50, axis=0) for name, value in columns.items()}


def _drop_column(columns):
    del columns["observation.state"]


def _ragged(columns):
    rows = columns["action"].tolist()
    rows[9] = [0.0]
    columns["action"] = np.array([None] * len(rows), object)
    columns["action"][:] = rows


def _far(info):
    info["features"]["action"]["shape"] = [5]


# name -> (what is done to the dataset, kind of the finding, places it must name, part of its message)
BROKEN = {
    "rows missing": (lambda r: (r / ROWS).unlink(), "missing-file", {"file": ROWS}, "not there"),
    "video missing": (lambda r: (r / VIDEO).unlink(), "missing-file", {"file": VIDEO}, "not there"),
    "tasks missing": (lambda r: (r / "meta/tasks.parquet").unlink(), "missing-file", {}, "tasks.parquet"),
    "table missing": (lambda r: (r / TABLE).unlink(), "broken-table", {}, "episodes"),
    "stats missing": (lambda r: (r / "meta/stats.json").unlink(), "stats", {"file": "meta/stats.json"}, "statistics"),
    "rows cut": (_cut(ROWS), "broken-file", {"file": ROWS, "episode": 0}, "cannot be read"),
    "video cut": (_cut(VIDEO), "broken-file", {"file": VIDEO}, "cannot be opened"),
    "tasks cut": (_cut("meta/tasks.parquet"), "broken-file", {}, "tasks.parquet"),
    "table cut": (_cut(TABLE), "broken-file", {}, "file-000.parquet"),
    "info cut": (_cut("meta/info.json"), "broken-file", {}, "info.json"),
    "stats cut": (_cut("meta/stats.json"), "stats", {}, "not valid JSON"),
    "stats empty": (lambda r: (r / "meta/stats.json").write_text("[]"), "stats", {}, "cannot be understood"),
    "rows empty": (lambda r: (r / ROWS).write_bytes(b""), "broken-file", {"file": ROWS}, "cannot be read"),
    "video empty": (lambda r: (r / VIDEO).write_bytes(b""), "broken-file", {"file": VIDEO}, "cannot be opened"),
    "video of noise": (_noise(VIDEO), "decode", {"file": VIDEO, "key": KEY}, "decoded"),
    "video too short": (_shorter_video, "video-frames", {"file": VIDEO, "episode": 4, "frame": 7}, "5 of 12"),
    "video of other fps": (_other_rate, "video-timing", {"file": VIDEO, "episode": 0, "frame": 1}, "no multiple"),
    "video of other size": (_smaller_pictures, "wrong-type", {"file": VIDEO, "key": KEY}, "32 by 32"),
    "nan action": (_set("action", 40, np.nan, 1), "nan", {"episode": 3, "frame": 9, "key": "action"}, "dimension 1"),
    "infinite state": (_set("observation.state", 0, np.inf, 2), "nan", {"episode": 0, "frame": 0}, "inf"),
    "timestamp": (_set("timestamp", 10, 9.0), "timestamp", {"episode": 1, "frame": 3, "key": "timestamp"}, "0.15 s"),
    "frame index": (_set("frame_index", 75, 0), "wrong-rows", {"episode": 4, "frame": 4}, "is 0, expected 4"),
    "global index": (_set("index", 75, 3), "wrong-rows", {"episode": 4, "key": "index"}, "expected 75"),
    "episode index": (_set("episode_index", 8, 0), "wrong-rows", {"episode": 1, "frame": 1}, "is 0, expected 1"),
    "unknown task": (_set("task_index", 8, 7), "task", {"episode": 1, "frame": 1}, "has 2"),
    "other task": (_set("task_index", 8, 0), "task", {"episode": 1, "frame": 1}, "'close it'"),
    "row missing": (_rows(_drop_rows), "wrong-rows", {"file": ROWS}, "82 rows, the episode table 83"),
    "column missing": (_rows(_drop_column), "wrong-type", {"key": "observation.state"}, "no such column"),
    "ragged column": (_rows(_ragged), "wrong-type", {"key": "action"}, "different lengths"),
    "wrong shape": (_json("meta/info.json", _far), "wrong-type", {"key": "action"}, "[5]"),
    "text for numbers": (
        _rows(lambda c: c.__setitem__("timestamp", c["timestamp"].astype(str))), "wrong-type", {"key": "timestamp"},
        "are text, such as '0.0'",
    ),
    "constant": (
        _rows(lambda c: c["action"].__setitem__((slice(None), 1), 0.25)), "constant", {"key": "action"}, "always 0.25",
    ),
    "episode numbers": (_table(episode_index=(2, 9)), "episode-gap", {"episode": 2}, "5 episode numbers are missing"),
    "doubled episode": (_table(episode_index=(2, 1)), "episode-gap", {}, "twice: 1"),
    "from index": (_table(dataset_from_index=(3, 30)), "broken-table", {"episode": 3}, "give 31"),
    "to index": (_table(dataset_to_index=(0, 8)), "broken-table", {"episode": 0}, "give 7"),
    "length": (_table(length=(1, 25)), "broken-table", {"episode": 2}, "is 30, the lengths"),
    "video span": (
        _table(**{f"videos__{KEY}__to_timestamp": (0, 9.0)}), "timestamp", {"episode": 0}, "the episode has 7",
    ),
    "overlapping videos": (
        _table(**{f"videos__{KEY}__from_timestamp": (1, 0.0)}), "broken-table", {"episode": 1}, "inside of episode 0",
    ),
    "totals": (_json("meta/info.json", lambda i: i.update(total_frames=84)), "broken-table", {}, "total_frames is 84"),
    "unused file": (
        lambda r: shutil.copy(r / VIDEO, r / VIDEO.replace("file-000", "file-001")), "unused-file", {}, "bytes",
    ),
    "mean": (
        _json("meta/stats.json", lambda s: s["action"].update(mean=[0.5, 0.5])), "stats", {"key": "action"},
        "mean[0] is 0.5, that of the data",
    ),
    "count": (_json("meta/stats.json", lambda s: s["action"].update(count=[82])), "stats", {}, "count is 82"),
    "min of stats": (_json("meta/stats.json", lambda s: s["action"].pop("min")), "stats", {}, "min is missing"),
    "size of stats": (
        _json("meta/stats.json", lambda s: s["action"].update(max=[1])), "stats", {}, "max has 1 numbers",
    ),
    "order of quantiles": (
        _json("meta/stats.json", lambda s: s["action"].update(q01=[0.9, 0.9])), "stats", {}, "q01 is larger than q10",
    ),
    "feature without stats": (
        _json("meta/stats.json", lambda s: s.pop("observation.state")), "stats", {"key": "observation.state"}, "no st",
    ),
    "stats of pictures": (
        _json("meta/stats.json", lambda s: s[KEY].update(max=[[[255.0]]] * 3)), "stats", {"key": KEY}, "255",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_every_kind_of_damage_is_found_and_placed(tmp_path, dataset_root, name):
    breaking, kind, place, message = BROKEN[name]
    root = shutil.copytree(dataset_root, tmp_path / "set")
    breaking(root)
    report = check(root)
    found = [finding for finding in report.findings.sorted() if finding.kind == kind]
    matching = [f for f in found if all(getattr(f, key) == value for key, value in place.items())]
    assert any(message in f.message for f in matching), [*report.findings.sorted()]


def test_a_whole_dataset_has_nothing(dataset_root, tmp_path):
    report = check(dataset_root)
    assert not report.findings and report.rows == report.frames == 83 and report.pictures == 83
    assert report.format == "v3.0" and report.to_json()["ok"]
    # No actions, two cameras, several files.
    root = write_dataset(
        tmp_path / "video", make_episodes(cameras=("a", "b"), actions=False), video_file_mb=1e-3, data_file_mb=1e-3
    )
    report = check(root)
    assert not report.findings and report.pictures == 2 * 83, report.findings.sorted()
    assert not check(write_v21(tmp_path / "old", make_episodes())).findings.counts.keys() - {"stats"}


def test_quick_sees_missing_frames_and_other_bytes(tmp_path, dataset_root):
    root = shutil.copytree(dataset_root, tmp_path / "set")
    _noise(VIDEO)(root)
    report = check(root, decode=False)
    (finding,) = report.findings.sorted()
    assert (finding.kind, finding.file, finding.key, finding.episode) == ("checksum", VIDEO, KEY, 1)
    (root / "meta" / SUMS_FILE).unlink()  # datasets of others have none: then only decoding finds damage
    assert not check(root, decode=False).findings and check(root).findings.counts["decode"]
    _shorter_video(root)
    assert check(root, decode=False).findings.counts == {"video-frames": 1}


def test_version_2_is_checked_too(tmp_path):
    root = write_v21(tmp_path, make_episodes())
    (root / f"videos/chunk-001/{KEY}/episode_000003.mp4").unlink()
    (root / "data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1")
    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    found = check(root).findings
    places = {(f.kind, f.file) for f in found.sorted()}
    assert ("missing-file", f"videos/chunk-001/{KEY}/episode_000003.mp4") in places
    assert ("broken-file", "data/chunk-000/episode_000001.parquet") in places
    (root / "meta/episodes.jsonl").write_text("\n".join(lines[:2] + lines[3:]))
    assert check(root).findings.counts["episode-gap"] == 1


def _gripper_dataset(root, turned=(), unsigned=(), episodes=9):
    """A gripper that follows its command in five frames; in the episodes `turned` the command's sign is flipped."""
    generator = np.random.default_rng(3)
    names = {"action": {"names": ["x", "gripper"]}, "observation.state": {"names": ["gripper", "x"]}}
    with LeRobotWriter(root, FPS, features=names) as writer:
        for number in range(episodes):
            command = np.repeat(generator.integers(0, 2, 12) * 2.0 - 1, 8)
            command[:16] = np.repeat([-1.0, 1.0], 8)
            opening = np.convolve(command, np.ones(5) / 5)[: len(command)] * 0.04
            sent = -command if number in turned else command
            sent = (sent + 1) / 2 if number in unsigned else sent
            x = generator.normal(size=len(command))
            action, state = np.stack([x, sent], axis=1), np.stack([opening, x], axis=1)
            writer.add_episode({"action": action, "observation.state": state}, "grasp")
    return root


def test_grippers_that_disagree(tmp_path):
    assert not check(_gripper_dataset(tmp_path / "fine")).findings
    found = check(_gripper_dataset(tmp_path / "turned", turned=(2, 6))).findings
    assert found.counts == {"gripper-polarity": 2} and {f.episode for f in found.kept} == {2, 6}
    assert "7 other episodes" in found.kept[0].message and not found.kept[0].is_error
    found = check(_gripper_dataset(tmp_path / "range", unsigned=(4,))).findings
    assert found.counts == {"gripper-range": 1} and found.kept[0].episode == 4


def test_actions_out_of_their_range_and_outliers(tmp_path):
    generator = np.random.default_rng(0)
    action = np.clip(generator.normal(size=(400, 2)) * 3, -1, 1)
    state = generator.normal(size=(400, 3))
    action[123, 0], state[301, 2] = 1.7, -500
    with LeRobotWriter(tmp_path / "set", FPS, features={"observation.state": {"names": ["x", "y", "z"]}}) as writer:
        for rows, states in zip(np.split(action, 4), np.split(state, 4)):
            writer.add_episode({"action": rows, "observation.state": states}, "move")
    found = check(tmp_path / "set").findings
    assert found.counts == {"out-of-range": 1, "outlier": 1} and not found.num_errors
    outlier, action = found.sorted()
    assert (action.episode, action.frame) == (1, 23) and "1.7" in action.message
    assert (outlier.episode, outlier.frame) == (3, 1) and "dimension 2 (z) is -500; 98 %" in outlier.message


def test_several_things_are_found_at_once_and_counted(tmp_path, dataset_root):
    root = shutil.copytree(dataset_root, tmp_path / "set")
    _rows(lambda c: c["action"].__setitem__(slice(31, 71), np.nan))(root)
    (root / VIDEO).unlink()
    found = check(root).findings
    assert found.counts["nan"] == 40 and found.counts["missing-file"] == 1
    assert len([f for f in found.kept if f.kind == "nan"]) == 1 and "39 more frames" in found.sorted()[1].message
    assert found.num_errors == len(found) - found.num_warnings and found.sorted()[0].kind == "missing-file"
    assert "nan" not in check(root, ignore=("nan",)).findings.counts
    with pytest.raises(InputError, match="no kind of finding 'naan'"):
        check(root, ignore=("naan",))


def test_findings_keep_the_first_and_count_all():
    findings = Findings(keep=3)
    for episode in range(10):
        findings.add("nan", "x", 2, episode=episode, key="action")
    findings.add("constant", "y")
    assert findings.counts == {"nan": 20, "constant": 1} and len(findings.kept) == 4 and len(findings) == 21
    assert findings.num_errors == 20 and findings.num_warnings == 1 and set(KINDS) >= set(findings.counts)


def test_other_formats_are_checked_through_their_readers(tmp_path):
    from .calvin_folder import write_calvin

    root = write_calvin(tmp_path / "calvin")
    assert not [f for f in check(root).findings.sorted() if f.is_error]


def test_where_there_is_nothing(tmp_path):
    with pytest.raises(InputError, match="not"):
        check(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        check(tmp_path / "nothing")


def test_pictures_in_rows(tmp_path, dataset_root, episodes):
    from .test_lerobot_gaps import pictures_in_rows

    root = pictures_in_rows(shutil.copytree(dataset_root, tmp_path / "set"), episodes, broken=45)
    found = check(root).findings
    assert found.counts == {"decode": 1}
    assert (found.kept[0].episode, found.kept[0].frame, found.kept[0].key) == (3, 14, KEY)
    assert LeRobotDataset(root).num_frames == 83
