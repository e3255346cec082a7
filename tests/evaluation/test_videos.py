import av
import numpy as np
import pytest

from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.episodes import Episode
from hf_vpdd.evaluation.rollout import Film
from hf_vpdd.evaluation.videos import FOOTER, GAP, HEADER, HOLD, PANEL, compose, load_film, save_film, write_video


EPISODE = Episode(
    "drawer-close-v3", 100000, "close the drawer, slowly and with a sentence far too long to fit", "light"
)


def film(imagined=True, steps=20):
    pictures = np.stack([np.full((8, 8, 3), 10 * (plan + 1), np.uint8) for plan in range(3)])
    return Film(EPISODE, True, np.zeros((steps, 4), np.float32), np.array([0, 8, 16]), pictures if imagined else None)


def frames(steps=20, every=2):
    """Frame of step t has the grey level 100 + t."""
    shown = [*range(0, steps, every), steps]
    return np.stack([np.full((PANEL, PANEL, 3), 100 + step, np.uint8) for step in shown])


def middle(picture, panel):
    x = GAP + panel * (PANEL + GAP) + PANEL // 2
    return int(picture[HEADER + PANEL // 2, x, 0])


def test_panels_show_now_imagined_and_what_came():
    out = compose(film(), frames(), ahead=6)
    assert out.shape == (11 + HOLD, HEADER + PANEL + FOOTER, 3 * PANEL + 4 * GAP, 3) and out.dtype == np.uint8
    assert [middle(picture, 0) for picture in out[:11]] == [100 + step for step in range(0, 21, 2)]
    # Plans at steps 0, 8 and 16: frames 0, 4 and 8. The last plan looks past the end: what came is the end.
    assert [middle(picture, 1) for picture in out[:11]] == [10] * 4 + [20] * 4 + [30] * 3
    assert [middle(picture, 2) for picture in out[:11]] == [106] * 4 + [114] * 4 + [120] * 3
    assert (out[11:] == out[11]).all()


def test_without_imagination_there_is_one_panel():
    out = compose(film(imagined=False), frames(), ahead=0)
    assert out.shape[2] < 2 * PANEL and out.shape[1] % 2 == out.shape[2] % 2 == 0


def test_videos_are_of_the_kind_that_browsers_play(tmp_path):
    path = write_video(tmp_path / "a.mp4", compose(film(), frames(), ahead=6))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(pictures) == 11 + HOLD
    assert abs(middle(pictures[5], 1) - 20) <= 3


def test_films_survive_the_disk(tmp_path):
    for one in (film(), film(imagined=False)):
        save_film(one, tmp_path / "f.npz")
        again = load_film(tmp_path / "f.npz")
        assert (again.episode, again.success) == (EPISODE, True)
        np.testing.assert_array_equal(again.plan_steps, one.plan_steps)
        assert (again.imagined is None) == (one.imagined is None)


def test_a_broken_film_is_named(tmp_path):
    (tmp_path / "f.npz").write_bytes(b"half")
    with pytest.raises(InputError, match="f.npz"):
        load_film(tmp_path / "f.npz")
