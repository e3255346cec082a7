"""Small datasets whose frames say which frame they are."""

import numpy as np
import pytest

from hf_vpdd.data.lerobot_writer import LeRobotWriter


LENGTHS = (7, 23, 1, 40, 12)  # frames per episode; episodes 0, 2, 4 are of task "open it", the others "close it"
FPS = 20


def numbered_frames(numbers, size: int = 48, seed: int = 0) -> np.ndarray:
    """uint8 (T, size, size, 3): a 4 by 4 board of black and white fields that spells each number in binary.

    It survives any codec; a smooth tint makes sure that whole pictures are compared, too.
    """
    numbers = np.asarray(numbers)
    bits = (numbers[:, None] >> np.arange(16)) & 1
    field = size // 4
    board = np.kron(bits.reshape(-1, 4, 4), np.ones((1, field, field)))
    tint = np.linspace(0, 40, size)[None, None, :, None] * np.array([1.0, 0.5, (seed % 3) / 2])
    return (40 + board[..., None] * 150 + tint).astype(np.uint8)


def read_numbers(frames: np.ndarray) -> np.ndarray:
    """The inverse of `numbered_frames`, from frames of any size divisible by 4."""
    field = frames.shape[1] // 4
    means = frames.reshape(len(frames), 4, field, 4, field, 3).mean(axis=(2, 4, 5))
    return ((means.reshape(-1, 16) > 125) << np.arange(16)).sum(axis=1)


def task_of(episode: int) -> str:
    return "open it" if episode % 2 == 0 else "close it"


def make_episodes(lengths=LENGTHS, cameras=("corner2",), size: int = 48, actions: bool = True) -> list[dict]:
    """Episodes for `LeRobotWriter.add_episode`; the board spells the frame's row in the dataset plus 1."""
    generator = np.random.default_rng(7)
    episodes, first = [], 1
    for length in lengths:
        numbers = np.arange(first, first + length)
        episode = {
            f"observation.images.{camera}": numbered_frames(numbers + 5000 * number, size, seed=number)
            for number, camera in enumerate(cameras)
        }
        episode["observation.state"] = generator.normal(size=(length, 3)).astype(np.float32)
        if actions:
            episode["action"] = generator.uniform(-1, 1, size=(length, 2)).astype(np.float32)
        episodes.append(episode)
        first += length
    return episodes


def write_dataset(root, episodes, **options):
    with LeRobotWriter(root, fps=FPS, robot_type="test arm", **options) as writer:
        for number, episode in enumerate(episodes):
            writer.add_episode(episode, task_of(number))
    return root


@pytest.fixture(scope="session")
def episodes() -> list[dict]:
    return make_episodes()


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory, episodes):
    """A finished dataset; tests that change something copy it."""
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", episodes)


@pytest.fixture(scope="session")
def store(tmp_path_factory, dataset_root):
    from hf_vpdd.data.frame_store import FrameStore

    return FrameStore.build(dataset_root, image_size=48, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)
