import os

import pytest

from hf_vpdd.envs import gl
from hf_vpdd.errors import InputError


@pytest.fixture
def linux_without_choice(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl.sys, "platform", "linux")


def test_a_set_backend_is_respected(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert gl.configure_gl() == "osmesa"
    assert os.environ["LP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("there", "chosen"), [({"egl", "osmesa"}, "egl"), ({"osmesa"}, "osmesa")])
def test_egl_comes_before_osmesa(monkeypatch, linux_without_choice, there, chosen):
    monkeypatch.setattr(gl, "_loads", lambda backend: backend in there)
    assert gl.configure_gl() == chosen == os.environ["MUJOCO_GL"]


def test_missing_libraries_are_named_with_their_packages(monkeypatch, linux_without_choice):
    monkeypatch.setattr(gl, "_loads", lambda backend: False)
    with pytest.raises(InputError, match="apt-get install -y libegl1 libgl1"):
        gl.configure_gl()
    report = gl.diagnose()
    assert not report["ok"]
    assert report["backend"] is None and report["rendered"] is None
    assert any("libegl1" in command for command in report["install"])


def test_a_driver_that_cannot_draw_is_found_out(monkeypatch):
    monkeypatch.setattr(gl, "_PROBE", "import sys; sys.exit('no such device')")
    report = gl.diagnose()
    assert not report["ok"]
    assert any("no such device" in problem for problem in report["problems"])


def test_this_machine_draws():
    report = gl.diagnose()
    if any(version is None for version in report["modules"].values()):
        pytest.skip("the simulator is not installed")
    assert report["ok"] and report["rendered"], report
