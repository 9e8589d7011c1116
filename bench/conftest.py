"""The option of ``pytest bench``; see bench_rows.py."""

collect_ignore = ["contenders"]  # they need libraries that may not be here


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="small sizes and one thread only")
