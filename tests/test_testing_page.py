"""docs/testing.md says what the tests are; here it is compared with them."""

import re
from pathlib import Path

from fuzz import driver

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/testing.md").read_text()


def rows(heading):
    """The rows of the table whose header begins so."""
    table = PAGE[PAGE.index(f"| {heading} |") :].split("\n\n")[0]
    return [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()[2:]]


def test_every_test_file_is_described():
    files = sorted(path.stem for path in (ROOT / "tests").glob("test_*.py"))
    assert [name for name, _ in rows("file")] == files


def test_the_classes_of_tries_are_those_of_the_fuzzer():
    assert rows("class") == driver.table()
