"""Many environments in a few processes, driven by messages.

The parent owns *seats*; each seat is one running episode in one worker. It sends `begin` (an episode) or `act` (a
chunk of actions) for a seat and receives what the robot saw afterwards. A worker runs its messages in order and keeps
its environments for reuse: building one costs half a second, resetting it six milliseconds. Images travel through the
pipe: 27 kB take about 0.02 ms, rendering them takes 5 ms.

Workers are spawned, never forked (a GL context does not survive a fork), ignore Ctrl-C (the parent ends them) and end
by themselves when the parent is gone.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from ..envs.registry import Simulator
from ..errors import InputError
from .episodes import PROTOCOLS, Episode


MAX_IDLE_ENVS = 8  # per worker and beyond those in use; each holds a model and a GL context, 70 to 95 MB


@dataclass(frozen=True)
class View:
    """What the policy wants to see: the same for all episodes of a run.

    Attributes:
        protocol: Name in `PROTOCOLS`.
        cameras: Names of the cameras.
        image_size: Height and width in pixels; None is the protocol's own.
        max_steps: Steps after which an episode has failed; None is the protocol's own.
        history_frames: Images per camera and plan, oldest first, this one included.
        history_stride: Steps between two of them: of the environment, or of the simulator on the way between two
            keyframes.
        state_history: States come with their history too, one for each image.
    """

    protocol: str = "lean"
    cameras: tuple[str, ...] = ("corner2",)
    image_size: int | None = None
    max_steps: int | None = None
    history_frames: int = 1
    history_stride: int = 1
    state_history: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InputError(f"unknown protocol {self.protocol!r}; there are {', '.join(PROTOCOLS)}")
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"max_steps must be at least 1; got {self.max_steps}")

    @property
    def simulator(self) -> Simulator:
        return PROTOCOLS[self.protocol].simulator


@dataclass
class Seen:
    """A worker's answer: what came of the last message for one seat.

    Attributes:
        seat: Which.
        images: Camera -> uint8 (H, W, 3), or (T, H, W, 3) of the T <= history_frames images there are yet, oldest
            first, if the view asks for more than one. None when the episode is over.
        state: float32 (Ds,), or (T, Ds) if the view asks for it. None when the episode is over.
        frame_steps: Environment step of each of the T images; None where they come without (no history, or one that
            the environment keeps).
        steps: Environment steps since the episode began.
        success: It succeeded at some step.
        over: It succeeded, failed, or ran out of steps.
        reward: Sum of the simulator's rewards since the last message.
        actions: What was done, float32 (n, A): only of the scripted expert, whose actions are made in the worker.
        frames: Of `film`, and at the end of an episode that was begun to be filmed: uint8 (N, H, W, 3).
        instruction: What the simulator says is to be done.
        failure: Why it ended before its time, if it did.
        ticks: Pictures since the episode began of which `frames` holds every so many: environment steps, but where the
            steps are keyframes, simulator steps between them.
    """

    seat: int
    images: dict[str, np.ndarray] | None = None
    state: np.ndarray | None = None
    steps: int = 0
    success: bool = False
    over: bool = False
    reward: float = 0.0
    actions: np.ndarray | None = None
    frames: np.ndarray | None = None
    instruction: str = ""
    failure: str | None = None
    ticks: int = 0
    frame_steps: tuple[int, ...] | None = None


class Stage:
    """The environments of one process, and the messages they understand."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._idle: dict[tuple, list] = {}  # (task, scene, image size) -> environments; oldest key first
        self._running: dict[int, _Running] = {}

    def handle(self, message: tuple) -> Seen:
        kind, seat, *arguments = message
        return getattr(self, kind)(seat, *arguments)

    def begin(
        self, seat: int, task: str, seed: int, scene: str | None, variation: int | None = None, film_every: int = 0
    ) -> Seen:
        """Starts an episode on a seat and returns what it looks like.

        Args:
            film_every: Keep the first camera's picture of every so many ticks, for the last answer; 0 keeps none.
        """
        self._leave(seat)
        env = self._environment(task, scene, self.view.image_size)
        key = (task, scene, self.view.image_size)
        running = self._running[seat] = _Running(env, key, self.view, film_every)
        observation, _ = env.reset(seed=seed, options=None if variation is None else {"variation": variation})
        running.remember(observation)
        return self._seen(seat)

    def act(self, seat: int, actions: np.ndarray) -> Seen:
        """Runs a chunk of actions, float32 (n, A); it ends early at the first success or at the step limit."""
        running = self._running[seat]
        reward = running.act(actions)
        return self._seen(seat, reward=reward)

    def play_expert(self, seat: int) -> Seen:
        """Lets the scripted expert play the episode to its end, unseen."""
        running = self._running[seat]
        actions, reward = [], 0.0
        while not running.over:
            actions.append(running.env.expert_action())
            reward += running.act(actions[-1][None], look=False)
        return self._seen(seat, reward=reward, actions=np.stack(actions))

    def film(
        self, seat: int, task: str, seed: int, scene: str | None, actions: np.ndarray, image_size: int, every: int
    ) -> Seen:
        """Runs a finished episode again with the same actions, float32 (n, A), and films it.

        The simulator is deterministic, so this is the episode itself. frames[i] shows the first camera after i *
        `every` steps; the last frame shows the end.
        """
        key = (task, scene, image_size)
        env = self._environment(*key)
        camera = self.view.cameras[0]
        observation, _ = env.reset(seed=seed)
        frames = [observation["images"][camera]]
        success = False
        for step, action in enumerate(actions, start=1):
            show = step % every == 0 or step == len(actions)
            observation, _, _, _, info = env.step(action, render=show)
            success = success or info["success"]
            if show:
                frames.append(observation["images"][camera])
        self._put_back(key, env)
        return Seen(seat, steps=len(actions), success=success, over=True, frames=np.stack(frames))

    def prepare(self, seat: int, keys: Sequence[tuple[str, str | None]]) -> Seen:
        """Builds environments ahead of time: one per (task, scene) given, besides those there are."""
        built = [((*key, self.view.image_size), self._environment(*key, self.view.image_size)) for key in keys]
        for key, env in built:
            env.reset(seed=0)  # the first render makes the GL context
            self._put_back(key, env)
        return Seen(seat)

    def close(self) -> None:
        for seat in list(self._running):
            self._leave(seat)
        for envs in self._idle.values():
            for env in envs:
                env.close()
        self._idle.clear()

    def _seen(self, seat: int, reward: float = 0.0, actions: np.ndarray | None = None) -> Seen:
        running = self._running[seat]
        seen = Seen(
            seat,
            steps=running.steps,
            success=running.success,
            over=running.over,
            reward=reward,
            actions=actions,
            instruction=running.instruction,
            failure=running.failure,
            ticks=running.ticks,
        )
        if running.over:
            seen.frames = running.film()
            self._leave(seat)
        else:
            seen.images, seen.state, seen.frame_steps = running.look()
        return seen

    def _environment(self, task: str, scene: str | None, image_size: int):
        key = (task, scene, image_size)
        if key in self._idle:
            env = self._idle[key].pop()
            if not self._idle[key]:  # no key without an environment: `_put_back` closes those of the oldest one
                del self._idle[key]
            return env
        return self.view.simulator.make(
            task,
            cameras=self.view.cameras,
            image_size=image_size,
            protocol=self.view.protocol,
            max_steps=self.view.max_steps,
            perturbation=scene,
            history_frames=self.view.history_frames,
            history_stride=self.view.history_stride,
        )

    def _leave(self, seat: int) -> None:
        running = self._running.pop(seat, None)
        if running is not None:
            self._put_back(running.key, running.env)

    def _put_back(self, key: tuple, env) -> None:
        envs = self._idle.pop(key, [])
        self._idle[key] = [*envs, env]  # at the end: used last
        while sum(map(len, self._idle.values())) > MAX_IDLE_ENVS:
            oldest = next(iter(self._idle))
            self._idle[oldest].pop().close()
            if not self._idle[oldest]:
                del self._idle[oldest]


class _Running:
    """One episode under way."""

    def __init__(self, env, key: tuple, view: View, film_every: int = 0) -> None:
        self.env, self.key, self.view = env, key, view
        self.steps, self.success, self.over = 0, False, False
        self.failure: str | None = None
        self.instruction = ""
        # Such an environment's pictures come with their history, and with those of the way to a keyframe.
        self._own_history = getattr(env, "keeps_history", False)
        self._film_every, self._frames = film_every, []  # frames of all ticks so far, the first one at the start
        span = (view.history_frames - 1) * view.history_stride + 1
        self._past: deque[tuple[int, dict[str, np.ndarray], np.ndarray]] = deque(maxlen=span)  # (step, images, state)

    @property
    def ticks(self) -> int:
        return self.env.ticks if self._own_history else self.steps

    def remember(self, observation: dict[str, Any]) -> None:
        self._past.append((self.steps, observation["images"], observation["state"]))
        self.instruction = observation["instruction"]
        if self._film_every and not self._frames:
            self._frames.append(self.env.render())

    def film(self) -> np.ndarray | None:
        """uint8 (N, H, W, 3) of the episode: frame i after i * film_every ticks, the last one at the end."""
        if not self._film_every:
            return None
        last = len(self._frames) - 1
        chosen = [*range(0, last, self._film_every), last]
        return np.stack([self._frames[index] for index in chosen])

    def act(self, actions: np.ndarray, look: bool = True) -> float:
        """Steps through a chunk, rendering only the frames that the next plan will ask for."""
        actions = np.asarray(actions, np.float32)
        count, reward = len(actions), 0.0
        # A plan at step k * count looks back at the steps before it, across chunks: frame i of its history lies i
        # strides earlier.
        back = [i * self.view.history_stride for i in range(self.view.history_frames)]
        stops = [step for step in range(1, count + 1) if any((step + steps) % count == 0 for steps in back)]
        stops = stops if look and not self._own_history else [count]
        start = 0
        for stop in stops:
            observation, gained, terminated, truncated, info = self.env.step_chunk(
                actions[start:stop], render=look, collect_frames=bool(self._film_every)
            )
            self.steps = self.env.steps
            reward += gained
            self.success = self.success or info["success"]
            self.failure = info.get("failure")
            self.over = self.success or terminated or truncated
            if self._film_every:
                self._frames += list(info["frames"][self.view.cameras[0]])
            if self.over:
                break
            if look:
                self.remember(observation)
            start = stop
        return reward

    def look(self) -> tuple[dict[str, np.ndarray], np.ndarray, tuple[int, ...] | None]:
        """Images, state, and the step of each image; see `Seen`."""
        if self.view.history_frames == 1 or self._own_history:
            return *self._past[-1][1:], None
        wanted = {self.steps - i * self.view.history_stride for i in range(self.view.history_frames)}
        steps, images, states = zip(*(moment for moment in self._past if moment[0] in wanted))
        images = {camera: np.stack([one[camera] for one in images]) for camera in images[0]}
        return images, np.stack(states) if self.view.state_history else states[-1], steps


class Simulators:
    """Worker processes with their seats; `with Simulators(view, workers=2, seats=16) as simulators: …`.

    Args:
        view: What the policy wants to see.
        workers: Processes; 0 runs everything in this one, one message at a time.
        seats: Episodes that run side by side, over all workers; one each where a simulator fills its process.
    """

    def __init__(self, view: View, workers: int = 2, seats: int = 16) -> None:
        if workers < 0 or seats < 1:
            raise InputError(f"workers must be at least 0 and seats at least 1; got {workers} and {seats}")
        self.view = view
        self.workers = min(workers, seats)
        if not view.simulator.shares_process:
            seats = max(1, self.workers)
        self.seats = range(seats)
        self._stage = Stage(view) if self.workers == 0 else None
        self._answers: deque[Seen] = deque()
        self._pipes: list[Connection] = []
        self._processes: list = []
        self._pending: list[int] = [0] * max(1, self.workers)

    def __enter__(self) -> "Simulators":
        context = multiprocessing.get_context("spawn")
        try:
            for index in range(self.workers):
                here, there = context.Pipe()
                process = context.Process(
                    target=_work, args=(there, self.view), name=f"simulator-{index}", daemon=True
                )
                with _light_import():
                    process.start()
                there.close()  # so that a dead worker is seen as the end of its pipe
                self._pipes.append(here)
                self._processes.append(process)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def worker_of(self, seat: int) -> int:
        """The process that a seat belongs to, 0..workers-1."""
        return seat % max(1, self.workers)

    @property
    def outstanding(self) -> int:
        """Messages without an answer yet."""
        return sum(self._pending)

    def send(self, kind: str, seat: int, *arguments: Any) -> None:
        """Sends a seat one of `Stage`'s messages. Never waits for its answer."""
        worker = self.worker_of(seat)
        self._pending[worker] += 1
        if self._stage is not None:
            self._answers.append(self._stage.handle((kind, seat, *arguments)))
            return
        try:
            self._pipes[worker].send((kind, seat, *arguments))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died(worker) from error

    def receive(self, block: bool = True) -> list[Seen]:
        """The answers that have arrived; waits for at least one if `block` and any is outstanding.

        Raises:
            InputError: A worker refused what it was told (unknown camera, bad action …).
            RuntimeError: A worker failed or died.
        """
        if self._stage is not None:
            answers = list(self._answers)
            self._answers.clear()
            self._pending[0] -= len(answers)
            return answers
        if not self.outstanding:
            return []
        answers = []
        for pipe in wait(self._pipes, timeout=None if block else 0):
            worker = self._pipes.index(pipe)
            try:
                while pipe.poll():
                    answer = pipe.recv()
                    if isinstance(answer, BaseException):
                        raise answer
                    self._pending[worker] -= 1
                    answers.append(answer)
            except (EOFError, ConnectionResetError) as error:
                raise self._died(worker) from error
        return answers

    def prepare(self, episodes: Sequence[Episode]) -> None:
        """Builds the environments of these episodes before they start, one each, on seat after seat; waits for
        them."""
        keys: dict[int, list] = {}
        for index, episode in enumerate(episodes):
            keys.setdefault(self.worker_of(index % len(self.seats)), []).append((episode.task, episode.scene))
        for worker, wanted in keys.items():
            self.send("prepare", worker, wanted)
        while self.outstanding:
            self.receive()

    def close(self) -> None:
        """Ends the workers at once; what they were doing is lost."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()
        self._pipes, self._processes = [], []
        if self._stage is not None:
            self._stage.close()

    def _died(self, worker: int) -> RuntimeError:
        process = self._processes[worker]
        process.join(timeout=2)
        return RuntimeError(
            f"{process.name} ended unexpectedly (exit code {process.exitcode}; -9 is often a lack of memory: try "
            "fewer --envs). Finished episodes are kept: run again with --resume"
        )


@contextmanager
def _light_import() -> Iterator[None]:
    """Spawned here, a worker takes itself for the `hf-vpdd` command (`registration.inside_the_command`): importing the
    package then loads no torch and no transformers, which no simulator needs and which take seconds and 400 MB."""
    argv = sys.argv
    sys.argv = ["hf-vpdd"]
    try:
        yield
    finally:
        sys.argv = argv


def _work(pipe: Connection, view: View) -> None:
    """The main function of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stage = Stage(view)
    try:
        while True:
            pipe.send(stage.handle(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except InputError as error:
        pipe.send(error)
    except BaseException:
        pipe.send(RuntimeError(f"a simulator process failed:\n{traceback.format_exc()}"))
    finally:
        pipe.close()
        os._exit(0)  # GL libraries crash now and then in their own clean-up at exit
