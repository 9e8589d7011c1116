"""README's table is that of docs/performance.md, in short."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # last: see test_report

from bench import readme, work


def test_the_table_of_readme_is_that_of_the_page_and_has_eight_rows():
    page = readme.PAGE.read_text()
    text = readme.README.read_text().split(f"{readme.BEGIN}\n")[1].split(f"\n{readme.END}")[0]
    assert text == readme.table(page)
    assert len(text.split("\n\n")[0].splitlines()) == 2 + len(work.BRIEF) == 10
    assert "**0." in text  # rows in which others are faster are among them


def test_a_row_of_readme_has_each_library_in_its_fastest_way():
    row = {"NumPy plain": 9.0, "NumPy in place": 3.25, "PyTorch fused": 0.5, "roof": 0.1, "JAX": 2}
    assert readme.line_of("a, compute=bfloat16, b", row) == [
        "a, b", "bfloat16 products, float32 sums", "3.2", "**0.50**", "2.0 (JAX)",
    ]  # fmt: skip
    assert readme.line_of("a", {"PyTorch": 20.0}) == ["a", "float32", "", "20", ""]


def test_few_digits_say_how_many_times_as_long():
    told = {0.62: "**0.62**", 1.999: "2.00", 9.94: "9.9", 12.4: "12"}
    assert {times: readme.short(times) for times in told} == told
