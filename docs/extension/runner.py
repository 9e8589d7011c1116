"""Run a program, then draw what it has found: python runner.py FILE, in the folder of the result.

docs/figures/NAME.py, if there is one, has `draw(found)`, where found are the names of NAME.py.
"""

import runpy
import sys
from pathlib import Path

FIGURES = Path(__file__).parents[1] / "figures"
LOOKS = {  # of text, lines and the space around them
    "light": ("#1c1c1c", "#ffffff"),
    "dark": ("#d8d8d8", "#131416"),
}


def draw(program: Path, found: dict) -> None:
    """NAME-light.png and NAME-dark.png, if there is a `draw` for this program."""
    path = FIGURES / program.name
    if not path.exists():
        return
    import matplotlib

    drawing = runpy.run_path(str(path))["draw"]
    for look, (ink, paper) in LOOKS.items():
        settings = dict.fromkeys(
            ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], ink
        )
        settings |= dict.fromkeys(["figure.facecolor", "axes.facecolor"], paper)
        settings |= {"axes.grid": True, "grid.alpha": 0.25, "legend.framealpha": 0.0}
        settings |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 11}
        with matplotlib.rc_context(settings):
            figure = drawing(found)
            figure.savefig(f"{program.stem}-{look}.png", dpi=110)


def main(program: Path) -> None:
    sys.argv = [str(program)]
    sys.path.insert(0, str(FIGURES))
    found = runpy.run_path(str(program), run_name="__main__")
    draw(program, found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
