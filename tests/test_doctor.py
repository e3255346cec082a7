"""`hf-vpdd doctor` against machines that lack things."""

import sys
from pathlib import Path

import pytest

from hf_vpdd import cli
from hf_vpdd.commands import doctor
from hf_vpdd.envs import gl


def state(**changes):
    healthy = {
        "ok": True, "backend": "egl", "libraries": {"egl": True, "osmesa": False}, "modules": {}, "rendered": True,
        "problems": [], "install": [],
    }  # fmt: skip
    return {**healthy, **changes}


@pytest.mark.parametrize("topic", sorted(doctor.HOW_TO))
def test_simulators_are_explained(topic, capsys, monkeypatch):
    monkeypatch.delenv("HF_VPDD_CALVIN_PYTHON", raising=False)  # else the simulator would be tried out
    assert cli.main(["doctor", topic]) == 0
    assert "pip" in capsys.readouterr().out


def test_the_wrong_pyrep_is_named(capsys):
    cli.main(["doctor", "rlbench"])
    assert "`pyrep` on PyPI is an unrelated project" in capsys.readouterr().out.replace("\n", " ")


def test_missing_libraries_are_named_as_packages(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "_loads", lambda backend: False)
    assert cli.main(["doctor", "--missing-packages"]) == 0
    assert capsys.readouterr().out == "libegl1 libgl1\n"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    cli.main(["doctor", "--missing-packages"])
    assert capsys.readouterr().out == "libosmesa6\n"


def test_nothing_is_missing_where_one_backend_loads(monkeypatch, capsys):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "_loads", lambda backend: backend == "osmesa")
    cli.main(["doctor", "--missing-packages"])
    assert capsys.readouterr().out == "\n"


def test_a_machine_without_opengl_cannot_run_the_demo(monkeypatch, capsys):
    monkeypatch.setattr(gl, "diagnose", lambda render=True: state(ok=False, problems=["no OpenGL"], install=["apt X"]))
    monkeypatch.setattr(doctor, "_imports", lambda: doctor.Finding("import", "works"))
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "no OpenGL" in printed
    assert "-> apt X" in printed
    assert "cannot run" in printed and "rendering" in printed.splitlines()[-1]


def test_a_healthy_machine_is_told_to_go_on(monkeypatch, capsys, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1000)
    monkeypatch.setattr(doctor, "DEFAULT_CHECKPOINT", tmp_path)
    monkeypatch.setattr(doctor, "_imports", lambda: doctor.Finding("import", "works"))
    monkeypatch.setattr(gl, "diagnose", lambda render=True: state())
    assert cli.main(["doctor"]) == 0
    assert "hf-vpdd demo" in capsys.readouterr().out.splitlines()[-1]


def test_an_incomplete_install_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "DEFAULT_CHECKPOINT", tmp_path / "gone")
    finding = doctor._checkpoint()
    assert finding.blocks_demo and "reinstall" in finding.fix


def test_packages_absent_or_too_old(monkeypatch):
    real = doctor.metadata.version

    def version(name):
        if name == "metaworld":
            raise doctor.metadata.PackageNotFoundError(name)
        return {"transformers": "4.57.6", "peft": "0.1"}.get(name) or real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    findings = {finding.name: finding for finding in doctor._packages()}
    assert findings["metaworld"].fix == "pip install 'hf-vpdd[metaworld]'"
    assert findings["metaworld"].blocks_demo
    assert findings["transformers"].found.startswith("4.57.6, but")
    assert findings["transformers"].blocks_demo
    assert findings["peft"].fix and not findings["peft"].blocks_demo  # an extra that the demo does without


def test_this_environment_meets_its_own_bounds():
    assert [finding for finding in doctor._packages() if finding.fix] == []
    assert "torch" in dict(doctor.requirements())
    assert "metaworld" in dict(doctor.requirements("metaworld"))
    assert "metaworld" not in dict(doctor.requirements())


def test_a_foreign_torchvision_is_recognised():
    found, fix = doctor.diagnose_import("Traceback ...\nRuntimeError: operator torchvision::nms does not exist\n", 1)
    assert found == "RuntimeError: operator torchvision::nms does not exist"
    assert "pip uninstall torchvision" in fix
    found, fix = doctor.diagnose_import("", -11)
    assert found == "exit status -11" and "reinstall" in fix


def test_a_full_disk_is_noted_but_does_not_block(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1e8}))
    finding = doctor._disk(Path("."))
    assert "make room" in finding.fix and not finding.blocks_demo


def test_the_import_check_really_imports():
    assert "works" in doctor._imports().found


def test_what_there_is_of_rlbench(monkeypatch, tmp_path, capsys):
    from tests.envs import rlbench_world

    rlbench_world.install(monkeypatch, tmp_path)
    assert cli.main(["doctor", "rlbench"]) == 0
    report = capsys.readouterr().out.split("What this machine has of it:")[1]
    assert "4.1.0.3" in report and "1.2.0" in report and "DISPLAY=:99" in report and "->" not in report
    assert [(one.found, one.fix) for one in doctor._other_simulators() if one.name == "rlbench"] == [("installed", "")]
    monkeypatch.delenv("DISPLAY")
    (rlbench,) = (one for one in doctor._other_simulators() if one.name == "rlbench")
    assert "not ready: display" in rlbench.fix and not rlbench.blocks_demo
    cli.main(["doctor", "rlbench"])
    assert "no X server" in capsys.readouterr().out
    rlbench_world.forget()


def test_pypis_pyrep_is_noted(monkeypatch, tmp_path):
    from tests.envs import rlbench_world

    rlbench_world.forget()
    (tmp_path / "pyrep").mkdir()
    (tmp_path / "pyrep" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    findings = {one.name: one for one in doctor._other_simulators()}
    assert "pip uninstall pyrep" in findings["pyrep"].fix
    assert "not installed" in findings["rlbench"].found


def test_what_there_is_of_calvin(monkeypatch, tmp_path, capsys):
    from hf_vpdd.envs import calvin_setup

    for variable in (calvin_setup.PYTHON_VARIABLE, calvin_setup.ROOT_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    (calvin,) = (one for one in doctor._other_simulators() if one.name == "calvin")
    assert "not installed" in calvin.found and not calvin.fix
    assert cli.main(["doctor", "calvin"]) == 0
    report = capsys.readouterr().out.split("What this machine has of it:")[1]
    assert "git clone --recurse-submodules" in report and "python3.11 -m venv" in report and "Trying" not in report
    # A checkout whose submodule did not come, and a Python without CALVIN's packages: ours.
    monkeypatch.setenv(calvin_setup.ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setenv(calvin_setup.PYTHON_VARIABLE, sys.executable)
    (tmp_path / calvin_setup.ANNOTATIONS).parent.mkdir(parents=True)
    (tmp_path / calvin_setup.ANNOTATIONS).touch()
    cli.main(["doctor", "calvin"])
    report = capsys.readouterr().out.split("What this machine has of it:")[1]
    assert f"git -C {tmp_path} submodule update --init calvin_env" in report
    assert f"{sys.executable} -m pip install 'pybullet==3.2.7'" in report and "'numpy<2'" in report
    (calvin,) = (one for one in doctor._other_simulators() if one.name == "calvin")
    assert "not ready: calvin_env, packages" in calvin.fix and not calvin.blocks_demo
