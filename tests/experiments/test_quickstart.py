from pathlib import Path

from hf_vpdd.experiments.quickstart import RECIPE


def test_the_recipe_inside_the_package_is_the_one_a_reader_is_shown():
    """`hf-vpdd quickstart` must find its recipe in an installed package; the README uses its twin in recipes/."""
    shown = Path(__file__).resolve().parents[2] / "recipes" / "metaworld_tiny.yaml"
    assert RECIPE.read_text(encoding="utf-8") == shown.read_text(encoding="utf-8")
