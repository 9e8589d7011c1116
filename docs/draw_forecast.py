"""docs/forecast.png, README's picture: the first panel of the demo's. Needs the extra `demo`."""

import tempfile
from pathlib import Path

from PIL import Image

from pyoptk.__main__ import main

PANEL = 0, 0, 1080, 428  # of the demo's picture: left, top, right, bottom

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "demo.png"
        if main(["demo", "--output", str(picture)]):
            raise SystemExit("the demo failed")
        panel = Image.open(picture).convert("RGB").crop(PANEL)
        panel.quantize(32).save(Path(__file__).with_name("forecast.png"), optimize=True)
