"""CALVIN's server with a toy in the place of the simulator: the real loop and the real frames, a world of a few lines.

The environment variable CALVIN_STANDIN makes it misbehave: "die" or "hang" at a step, "crash" (an exception at a
step), "nonsense" or "flood" (bytes that are no frame, a frame beyond the limits) at a step, "lack" (a missing package
at the start), "mute" (exits without a word).
"""

import importlib.util
import os
import struct
import sys
import time
from pathlib import Path

import numpy as np


FOLDER = Path(__file__).resolve().parents[2] / "src" / "hf_vpdd" / "envs"
MOOD = os.environ.get("CALVIN_STANDIN", "")
SENTENCES = {
    "open_drawer": "pull the handle to open the drawer",
    "close_drawer": "push the handle to close the drawer",
}


def load_server():
    spec = importlib.util.spec_from_file_location("calvin_server", FOLDER / "calvin_server.py")
    server = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server)
    return server


class Toy:
    """The drawer opens by 0.02 for each unit that the arm moves along -y; pictures are as bright as it is open."""

    def __init__(self, root, cameras, renderer, dataset=None, scene="D", stale=False):
        if MOOD == "lack":
            import no_such_package_of_calvin  # noqa: F401
        if renderer == "egl":
            raise SystemExit("no OpenGL here")
        print("toy: started", settings := (root, renderer, dataset, scene, stale))
        self.cameras, self.worlds, self.settings = cameras, 0, settings
        self.description = {
            "cameras": {name: [200, 200] if name == "static" else [84, 84] for name in cameras},
            "tasks": list(SENTENCES),
            "sentences": SENTENCES,
            "training_sentences": {task: [f"please {said}", f"now {said}"] for task, said in SENTENCES.items()},
            "config": "scene: toy\n",
            "versions": {"python": sys.version.split()[0], "has_path": "PYTHONPATH" in os.environ},
        }

    def reset(self, seed=None, robot_obs=None, scene_obs=None):
        drawn = np.random.default_rng(seed).uniform(size=24)
        drawn[:6] = 0
        self.scene_obs = drawn if scene_obs is None else scene_obs.copy()
        self.robot_obs = np.r_[np.zeros(14), 1.0] if robot_obs is None else robot_obs.copy()
        self.worlds += 1
        self.begin(None)
        return self._see()

    def begin(self, task):
        self.since = self.scene_obs[1]
        return {}, {}

    def step(self, action, render=True):
        assert action.dtype == np.float32
        if MOOD == "die":
            print("toy: dying")
            os._exit(7)
        if MOOD == "hang":
            time.sleep(60)
        if MOOD == "crash":
            raise ArithmeticError("the toy broke")
        self.robot_obs[:6] += action[:6] * 0.02
        self.robot_obs[14] = 1 if action[6] > 0 else -1
        self.scene_obs[1] -= 0.02 * action[1]
        moved = float(self.scene_obs[1] - self.since)
        message, arrays = self._see(render)
        solved = ["open_drawer"] * (moved > 0.12) + ["close_drawer"] * (moved < -0.12)
        return {**message, "solved": solved}, arrays

    def look(self):
        return self._see()

    def _see(self, render=True):
        arrays = {"robot_obs": self.robot_obs, "scene_obs": self.scene_obs, "target": self.robot_obs[:6]}
        if render:
            grey = round(100 * float(np.clip(self.scene_obs[1], 0, 2)))
            for name, size in self.description["cameras"].items():
                arrays[f"rgb_{name}"] = np.full((*size, 3), grey, np.uint8)
        return {"worlds": self.worlds}, arrays


class RawConnection:
    """The socket, but its answer to a step is not what it should be."""

    def __init__(self, connection):
        self.connection, self.answers = connection, 0

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def send(self, data):
        self.answers += 1
        if self.answers == 3:  # start, reset, then the step
            bad = b"GET / HTTP/1.1\r\n" * 4 if MOOD == "nonsense" else struct.pack(">4sIQ", b"CLV1", 10, 1 << 40)
            self.connection.sendall(bad)
            time.sleep(0.2)
        return self.connection.send(data)


if __name__ == "__main__":
    if MOOD == "mute":
        os._exit(0)
    server = load_server()
    server.Table = Toy
    if MOOD in ("nonsense", "flood"):
        serve = server.serve
        server.serve = lambda connection, wire: serve(RawConnection(connection), wire)
    server.main(sys.argv[1:])
