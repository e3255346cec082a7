"""The example runs on any policy and writes a video of the length it promises."""

import runpy
import sys
from pathlib import Path

from hf_vpdd.data.video import decode_video
from hf_vpdd.evaluation.videos import EVERY, HOLD
from hf_vpdd.saving import save_policy
from tests.pipelines.tiny_policy import tiny_policy


SCRIPT = Path(__file__).parents[2] / "examples" / "imagine.py"


def test_imagine(tmp_path, monkeypatch, capsys):
    model, processor = tiny_policy()
    save_policy(tmp_path / "policy", model, processor)
    out = tmp_path / "new folder" / "film.mp4"
    words = f"--model {tmp_path / 'policy'} --clips 2 --sampler halton --task drawer-close".split()
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words, "--out", str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out.strip() == str(out)
    film = decode_video(out)
    assert film.shape == (1 + 2 * model.config.predict_ahead // EVERY + HOLD, 252, 608, 3)
    middle, last = film[5, 40:220, 210:390], film[20, 40:220, 210:390]  # the imagined picture, of clip 1 and clip 2
    assert abs(middle.astype(float) - last.astype(float)).mean() > 1
