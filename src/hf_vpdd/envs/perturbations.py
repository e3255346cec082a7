"""Changes of what the robot sees, to test how far a policy generalises. The physics stays the same to the last bit.

    camera         the camera orbits a few degrees around what it looks at
    camera_large   the same, 12 to 20 degrees
    light          dimmer, of a warm colour, from another direction
    table_color    a plain table of a random colour instead of wood
    distractor     coloured things on the table, away from all that matters to the task

Every change is drawn from (task, perturbation, seed): the same episode looks the same in every process. Paraphrased
instructions are no change of the scene; they are `TaskInfo.heldout_paraphrases`.
"""

import colorsys
import difflib
import zlib

import numpy as np

from ..errors import InputError
from .protocols import UPSIDE_DOWN, VPDD_CROP_FOVY


class Perturbation:
    """One kind of change.

    `edits_model` says whether the MuJoCo model must be built differently; then `edited` gives the class to build.
    """

    name: str
    edits_model = False

    def check(self, task: str, cameras: tuple[str, ...]) -> None:
        """Raises InputError if this change is not possible for a task or camera."""

    def edited(self, sim_class: type) -> type:
        """A subclass of a Meta-World environment whose model has what `apply` needs."""
        return sim_class

    def apply(self, model, data, task: str, cameras: tuple[str, ...], seed: int) -> None:
        """Changes the freshly reset model of one episode."""
        self._change(model, data, task, cameras, seed, np.random.default_rng([_crc(task), _crc(self.name), seed]))

    def _change(self, model, data, task, cameras, seed, generator) -> None:
        raise NotImplementedError


class CameraOrbit(Perturbation):
    """Turns fixed cameras around the point of the table they look at: sideways by an angle of `sideways` degrees
    (either way) and up or down by `tilt` degrees. Everything stays in view."""

    def __init__(self, name: str, sideways: tuple[float, float], tilt: tuple[float, float]) -> None:
        self.name, self._sideways, self._tilt = name, sideways, tilt

    def check(self, task, cameras):
        moving = [camera for camera in cameras if camera not in (*UPSIDE_DOWN, "topview")]
        if moving:
            raise InputError(f"perturbation '{self.name}' moves fixed cameras; {', '.join(moving)} hangs on the robot")

    def _change(self, model, data, task, cameras, seed, generator):
        import mujoco

        for camera in cameras:
            index = model.camera(camera).id
            side, up = (
                generator.choice([-1, 1]) * np.deg2rad(generator.uniform(*span))
                for span in (self._sideways, self._tilt)
            )
            frame = np.empty(9)
            mujoco.mju_quat2Mat(frame, model.cam_quat[index])
            right, ahead = frame.reshape(3, 3)[:, 0], -frame.reshape(3, 3)[:, 2]
            position = model.cam_pos[index].copy()
            centre = position - ahead * (position[2] - 0.05) / ahead[2]  # 5 cm above the table
            turn, lift, both = np.empty(4), np.empty(4), np.empty(4)
            mujoco.mju_axisAngle2Quat(lift, right, up)
            mujoco.mju_axisAngle2Quat(turn, np.array([0.0, 0.0, 1.0]), side)
            mujoco.mju_mulQuat(both, turn, lift)
            arm, pose = np.empty(3), np.empty(4)
            mujoco.mju_rotVecQuat(arm, position - centre, both)
            mujoco.mju_mulQuat(pose, both, model.cam_quat[index])
            model.cam_pos[index], model.cam_quat[index] = centre + arm, pose
        mujoco.mj_camlight(model, data)


class Light(Perturbation):
    """All lights at 50 to 80 % of their strength, tinted warm, the directional ones turned by 40 to 120 degrees."""

    name = "light"

    def _change(self, model, data, task, cameras, seed, generator):
        import mujoco

        warm = np.array([1.0, generator.uniform(0.82, 0.95), generator.uniform(0.6, 0.8)])
        tint = generator.uniform(0.5, 0.8) * warm
        head = model.vis.headlight
        for values in (head.ambient, head.diffuse, head.specular, model.light_diffuse, model.light_specular):
            values[:] = values * tint
        angle = generator.choice([-1, 1]) * np.deg2rad(generator.uniform(40, 120))
        cosine, sine = np.cos(angle), np.sin(angle)
        model.light_dir[:, :2] = model.light_dir[:, :2] @ np.array([[cosine, sine], [-sine, cosine]])
        mujoco.mj_camlight(model, data)


class TableColor(Perturbation):
    """The wood of the table gives way to one plain colour of any hue."""

    name = "table_color"

    def _change(self, model, data, task, cameras, seed, generator):
        color = colorsys.hsv_to_rgb(generator.uniform(), generator.uniform(0.25, 0.6), generator.uniform(0.35, 0.8))
        wood = model.geom_matid == model.material("table_wood").id
        # Textures were handed to the GPU for good; a geom without material shows its own colour instead.
        model.geom_matid[wood] = -1
        model.geom_rgba[wood] = [*color, 1.0]


class Distractor(Perturbation):
    """Three coloured solids, 2.5 to 4 cm, lie on the table in view of the first camera, clear of the objects, of the
    goal, of the straight ways between hand, object and goal, and not in front of them. They collide with nothing."""

    name = "distractor"
    edits_model = True
    _SHAPES = ("box", "cylinder", "ellipsoid")
    _COLORS = ((0.9, 0.75, 0.1), (0.6, 0.2, 0.7), (0.95, 0.5, 0.1), (0.1, 0.6, 0.6), (0.9, 0.4, 0.6), (0.9, 0.9, 0.9))
    _NO_ROOM = ("pick-out-of-hole-v3",)  # its table has a hole, and its boards count as objects: nothing fits in view
    _TABLE = ((-0.45, 0.45), (0.3, 0.92))  # x and y in metres that a robot hand or a camera gets to see

    def check(self, task, cameras):
        if task in self._NO_ROOM:
            raise InputError(f"perturbation '{self.name}' finds no free place on the table of {task}; leave it out")
        if cameras[0] in ("behindGripper", "gripperPOV"):
            raise InputError(f"perturbation '{self.name}' needs a fixed camera as the first one, not {cameras[0]}")

    def edited(self, sim_class):
        shapes = self._SHAPES

        class WithDistractors(sim_class):
            def _initialize_simulation(self):
                import mujoco

                spec = mujoco.MjSpec.from_file(self.fullpath)
                for number, shape in enumerate(shapes):
                    # In bodies of their own, at the end: the numbers of all other bodies and geoms stay as they are.
                    body = spec.worldbody.add_body(name=f"distractor{number}", pos=[0.0, 0.6, 0.03])
                    kind = getattr(mujoco.mjtGeom, f"mjGEOM_{shape.upper()}")
                    body.add_geom(name=body.name, type=kind, size=[0.03] * 3, contype=0, conaffinity=0, group=1)
                model = spec.compile()
                model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
                model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
                return model, mujoco.MjData(model)

        WithDistractors.__name__ = sim_class.__name__
        return WithDistractors

    def _change(self, model, data, task, cameras, seed, generator):
        import mujoco

        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        camera = cameras[0]
        solids, ways = _what_matters(model, data)
        solid_pixels = _project(model, data, camera, np.array([centre for centre, _ in solids]))
        placed: list[tuple[np.ndarray, float]] = []
        colors = generator.permutation(len(self._COLORS))
        for number in range(len(self._SHAPES)):
            size = generator.uniform(0.025, 0.04)
            for _ in range(500):
                spot = np.array([*(generator.uniform(*span) for span in self._TABLE), size])
                radius = size * 1.5
                pixel = _project(model, data, camera, spot[None])[0]
                if (
                    np.all(np.abs(pixel) < 0.9)
                    and all(np.linalg.norm(spot[:2] - c[:2]) > r + radius + 0.03 for c, r in solids + placed)
                    and all(_distance_to_way(spot[:2], a[:2], b[:2]) > radius + 0.05 for a, b in ways)
                    and np.linalg.norm(solid_pixels - pixel, axis=1).min() > 0.16  # 8 % of the picture's width
                ):
                    break
            else:
                raise InputError(
                    f"perturbation '{self.name}' finds no free place on the table of {task} with seed {seed} in view "
                    f"of {camera}; choose another camera or leave this episode out"
                )
            placed.append((spot, radius))
            body, geom = model.body(f"distractor{number}").id, model.geom(f"distractor{number}").id
            angle = generator.uniform(0, 2 * np.pi)
            model.body_pos[body] = spot
            model.body_quat[body] = [np.cos(angle / 2), 0, 0, np.sin(angle / 2)]
            # A cylinder reads (radius, half height, -); the others three half lengths.
            model.geom_size[geom] = [size, size, size] if number != 2 else [size * 1.4, size * 0.8, size]
            model.geom_rgba[geom] = [*self._COLORS[colors[number]], 1.0]
        mujoco.mj_kinematics(model, data)


_ALL = (
    CameraOrbit("camera", sideways=(3, 6), tilt=(1, 3)),
    CameraOrbit("camera_large", sideways=(12, 20), tilt=(3, 7)),
    Light(),
    TableColor(),
    Distractor(),
)
PERTURBATIONS: dict[str, Perturbation] = {perturbation.name: perturbation for perturbation in _ALL}


def get_perturbation(name: str) -> Perturbation:
    """The perturbation of a name.

    Raises:
        InputError: There is none of that name; names those there are.
    """
    key = str(name).strip().lower().replace("-", "_")
    if key not in PERTURBATIONS:
        near = difflib.get_close_matches(key, PERTURBATIONS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"there is no perturbation '{name}'; {hint}there are {', '.join(PERTURBATIONS)}")
    return PERTURBATIONS[key]


def _crc(word: str) -> int:
    return zlib.crc32(word.encode())  # the same in every process, unlike hash()


def _what_matters(model, data) -> tuple[list[tuple[np.ndarray, float]], list[tuple[np.ndarray, np.ndarray]]]:
    """What belongs to the task: [(centre, radius)] of things, goal and hand; [(from, to)] of the ways between them."""
    kept_out = set()  # bodies of the scene and of the robot
    for body in range(model.nbody):
        name = model.body(body).name
        if body == 0 or name in ("tablelink", "RetainingWall", "base", "mocap") or name.startswith("distractor"):
            kept_out.add(body)
        elif int(model.body_parentid[body]) in kept_out and int(model.body_parentid[body]) != 0:
            kept_out.add(body)
    things = [
        (data.geom_xpos[geom].copy(), float(model.geom_rbound[geom]))
        for geom in range(model.ngeom)
        if int(model.geom_bodyid[geom]) not in kept_out
    ]
    hand = data.body("hand").xpos.copy()
    goals = [data.site_xpos[site].copy() for site in range(model.nsite) if model.site(site).name.startswith("goal")]
    centre = np.mean([middle for middle, _ in things], axis=0) if things else hand
    solids = [*things, (hand, 0.05), *((goal, 0.03) for goal in goals)]
    return solids, [(hand, centre), *((centre, goal) for goal in goals), *((hand, goal) for goal in goals)]


def _distance_to_way(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    way = end - start
    share = np.clip(np.dot(point - start, way) / max(np.dot(way, way), 1e-12), 0, 1)
    return float(np.linalg.norm(point - start - share * way))


def _project(model, data, camera: str, points: np.ndarray) -> np.ndarray:
    """Where points (N, 3) appear in the picture: (N, 2), from -1 to 1 across it; behind the camera: far outside."""
    index = model.camera(camera).id
    local = (points - data.cam_xpos[index]) @ data.cam_xmat[index].reshape(3, 3)
    fovy = min(model.cam_fovy[index], VPDD_CROP_FOVY) if camera == "corner2" else model.cam_fovy[index]
    depth = -local[:, 2:]
    return np.where(depth > 0.01, local[:, :2] / np.maximum(depth, 0.01) / np.tan(np.deg2rad(fovy) / 2), 1e3)
