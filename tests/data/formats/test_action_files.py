"""Action files: each of the four suffixes gives the rows written; errors name the file."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from worldflow.data.formats.action_files import ACTION_SUFFIXES, Steps, read_steps
from worldflow.errors import ConfigError, DataError

BOX = np.array([[0.5, -1.0], [0.25, 2.0], [0.0, 3.5]], np.float32)
REWARDS = np.array([0.0, 1.5, -2.0], np.float32)
TERMINATED = np.array([False, False, True])


def write_parquet(path: Path, **columns: list) -> Path:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table(columns), path)
    return path


def write_box(path: Path) -> Path:
    """BOX, REWARDS and TERMINATED, with a timestamp beside them, in the format of the suffix."""
    times = [0.0, 0.1, 0.2]
    if path.suffix == ".npz":
        np.savez(path, actions=BOX, rewards=REWARDS, terminated=TERMINATED, timestamp=times)
    elif path.suffix == ".csv":
        path.write_text(
            "timestamp,action_1,action_0,reward,terminated\n"
            "0.0,-1.0,0.5,0,0\n0.1,2,0.25,1.5,false\n\n0.2,3.5,0,-2, True\n"
        )
    elif path.suffix == ".jsonl":
        rows = zip(times, BOX.tolist(), REWARDS.tolist(), TERMINATED.tolist(), strict=True)
        names = ("timestamp", "action", "reward", "terminated")
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    else:
        ends = TERMINATED.tolist()
        rewards = REWARDS.tolist()
        write_parquet(path, timestamp=times, action=BOX.tolist(), reward=rewards, terminated=ends)
    return path


def check(steps: Steps, actions: np.ndarray) -> None:
    for found, expected in (
        (steps.actions, actions),
        (steps.rewards, REWARDS),
        (steps.terminated, TERMINATED),
    ):
        assert found is not None
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("suffix", ACTION_SUFFIXES)
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    check(read_steps(write_box(tmp_path / f"a{suffix}")), BOX)


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    expected = np.array([3, 0, 2], np.int64)
    np.savez(tmp_path / "a.npz", actions=expected.astype(np.uint8))
    (tmp_path / "a.csv").write_text("\ufeffframe_index,action\n0,3\n1,0\n2,2\n")
    (tmp_path / "a.jsonl").write_text('{"action": 3}\n{"action": 0}\n\n{"action": 2}\n')
    write_parquet(tmp_path / "a.parquet", action=[3, 0, 2])
    for suffix in ACTION_SUFFIXES:
        steps = read_steps(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(steps.actions, expected)
        assert steps.actions is not None
        assert steps.actions.dtype == np.int64
        assert steps.rewards is None
        assert steps.terminated is None


def test_parquet_columns_are_joined_in_order_of_their_numbers(tmp_path: Path) -> None:
    columns = {f"action_{i}": [i, 10 * i] for i in (10, *range(10))}
    steps = read_steps(write_parquet(tmp_path / "a.parquet", **columns))
    np.testing.assert_array_equal(steps.actions, [np.arange(11), 10 * np.arange(11)])


def test_one_fraction_makes_a_box(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("action\n3\n0.5\n")
    actions = read_steps(tmp_path / "a.csv").actions
    assert actions is not None
    assert actions.dtype == np.float32
    assert actions.tolist() == [3.0, 0.5]


def test_rewards_without_actions_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("reward\n1\n0\n")
    steps = read_steps(tmp_path / "a.csv")
    assert steps.actions is None
    assert steps.rewards is not None
    assert steps.rewards.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no action, reward or terminated"),
        ("timestamp\n0.5\n", "no action, reward or terminated"),
        ("action\n", "rows"),
        ("actions\n1\n", "unknown column 'actions'.*known are action.*timestamp"),
        ("0,1\n2,3\n", "unknown column '0'"),
        ("action_01\n1\n", "unknown column 'action_01'"),
        ("action,action\n1,2\n", "two columns of one name"),
        ("action,action_0\n1,2\n", r"'action', 'action_0'.*without a gap"),
        ("action_0,action_2\n1,2\n", r"'action_0', 'action_2'.*without a gap"),
        ("action,reward\n1,2\n3\n", "line 3 has 1 fields, the header 2"),
        ("action,reward\n1,2\n3,\n", "line 3, column reward: '' is no number"),
        ("action\n1\nleft\n", "line 3, column action: 'left' is no number"),
        ("action\ntrue\n", "line 2, column action: 'true' is no number"),
        ("action\n1\nnan\n", "action of frame 1 is not a number"),
        ("action\n1e39\n", "action of frame 0 is not a number"),
        ("action\n10000000000000000000\n", "does not fit int64"),
        ("action\n1000000000000000000000\n", "type object"),
        ("action,reward\n1,inf\n", "rewards .* one finite"),
        ("action,terminated\n1,2\n", "terminated .* one 0, 1, true or false"),
        ('action\n"1\n', "not a readable .csv file .*remove it"),
    ],
)
def test_a_wrong_csv_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=rf"a\.csv.*{message}"):
        read_steps(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "no action, reward or terminated"),
        ('{"action": 1}\n{"action": ', "line 2 is no JSON .*repair"),
        ("[" * 100_000, "line 1 is no JSON"),
        ('{"action": 1}\n[1]', "line 2 must be an object with the keys"),
        ("3", "line 1 must be an object$"),
        ('{"action": 1}\n{"action": 1, "reward": 0}', r"line 2 .* the keys \['action'\]"),
        ('{"action": 1, "colour": 2}', "unknown column 'colour'"),
        ('{"action": NaN}', "action of frame 0 is not a number"),
        ('{"action": "1"}', "must be numbers"),
        ('{"action": null}', "must be numbers"),
        ('{"action": [[1]]}', "must be numbers"),
        ('{"action": []}', r"actions of shape \(1, 0\)"),
        ('{"action": [1, 2]}\n{"action": [1]}', "not a readable .jsonl file"),
        ('{"action_0": [1, 2]}', "holds lists"),
        ('{"reward": [1]}', "rewards of shape"),
        ('{"terminated": "no"}', "terminated of shape"),
    ],
)
def test_a_wrong_jsonl_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=rf"a\.jsonl.*{message}"):
        read_steps(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no action, reward or terminated"),
        ({"action": [1]}, r"unknown arrays \['action'\]; known are actions, rewards"),
        ({"actions": [1, 2], "rewards": [0.0]}, r"rows \{'action': 2, 'reward': 1\}"),
        ({"actions": np.zeros((0, 2))}, r"rows \{'action': 0\}"),
        ({"actions": 3}, "rows"),
        ({"actions": np.zeros((2, 3, 4))}, "must be numbers"),
        ({"actions": np.zeros(2, np.complex64)}, "must be numbers"),
        ({"actions": np.array([2**63], np.uint64)}, "does not fit int64"),
        ({"actions": [np.inf]}, "action of frame 0 is not a number"),
        ({"actions": [1], "terminated": [0.5]}, "terminated of shape"),
        ({"actions": np.array([None])}, r"not a readable \.npz file .*allow_pickle"),
    ],
)
def test_a_wrong_npz_is_named(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=rf"a\.npz.*{message}"):
        read_steps(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "columns",
    [{"colour": [1]}, {"action": [1, None]}, {"action": ["left"]}, {"action": [[1, 2], [3]]}],
)
def test_a_wrong_parquet_is_named(tmp_path: Path, columns: dict) -> None:
    with pytest.raises(DataError, match=r"a\.parquet.*(unknown column|numbers|not a readable)"):
        read_steps(write_parquet(tmp_path / "a.parquet", **columns))


@pytest.mark.parametrize("suffix", ACTION_SUFFIXES)
@pytest.mark.parametrize("damage", ["empty", "half", "bytes", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    path = write_box(tmp_path / f"a{suffix}")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        half = content[: len(content) // 2]
        path.write_bytes({"empty": b"", "half": half, "bytes": b"\xff\xfe\x00"}[damage])
    with pytest.raises(DataError, match=rf"a\{suffix}.*(remove|repair|header)"):
        read_steps(path)


def test_damage_within_an_npz_is_noticed(tmp_path: Path) -> None:
    path = write_box(tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    content[content.index(BOX.tobytes())] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not a readable \.npz file .*CRC"):
        read_steps(path)


def test_damage_within_a_compressed_npz_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, actions=np.arange(1000))
    content = bytearray(path.read_bytes())
    start = 30 + int.from_bytes(content[26:28], "little") + int.from_bytes(content[28:30], "little")
    content[start : start + 8] = b"\xff" * 8  # no block of deflate begins so
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not a readable \.npz file .*decompressing"):
        read_steps(path)


def test_an_encrypted_npz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, actions=[1, 2])
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag, in the file's own header and in the directory at the end
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not a readable \.npz file .*encrypted"):
        read_steps(path)


def test_a_bare_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BOX)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz: a single array.*np\.savez"):
        read_steps(tmp_path / "a.npz")


def test_an_npz_member_that_is_no_array_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("actions.npy", b"no array")
    with pytest.raises(DataError, match=r"a\.npz: "):
        read_steps(tmp_path / "a.npz")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_box(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"a\.parquet.*pip install 'worldflow\[data\]'"):
        read_steps(path)
