"""`pyoptk.mpi` in one process, and under mpiexec with 1 to 4 ranks: the jobs of tests/ranks."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from alarm import needs_timer
from ranks import __main__ as jobs

import pyoptk
from pyoptk import mpi
from pyoptk.mpi import shards

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # last, so that an installed pyoptk is found before the source folder

from bench import network

RANKS = (1, 2, 3, 4)
MPIEXEC = shutil.which("mpiexec", path=sysconfig.get_path("scripts")) or shutil.which("mpiexec")
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="no MPI here: pip install mpi4py mpich",
)


def start(ranks, *command, **options):
    """Runs a Python program on so many ranks; the finished process."""
    command = [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, command)]
    pipes = {"capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(command, check=False, **pipes, **options)


def run(ranks, names, folder):
    """Runs jobs on so many ranks."""
    return start(ranks, "-m", "mpi4py", jobs.__file__, names, folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the jobs found, by name and number of ranks; 0: in this process, without MPI."""
    folder = tmp_path_factory.mktemp("ranks")
    jobs.main("bits", folder, True)
    for names in ("bits,memory,load", "resume,wrong"):
        for ranks in RANKS:
            done = run(ranks, names if ranks > 1 else names.removesuffix(",wrong"), folder)
            assert done.returncode == 0, done.stderr
    jobs.main("resume", folder, True)
    results = {}
    for path in folder.glob("*.json"):
        name, ranks = path.stem.split("-")
        results.setdefault(name, {})[int(ranks)] = json.loads(path.read_text())
    return results


# ---- one process ---------------------------------------------------------------------------------


def tree_sum(leaves):
    """The sum by halves, the left one a power of two."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    return tree_sum(leaves[:half]) + tree_sum(leaves[half:])


PLAIN = [name for name, (*_, change) in jobs.CASES.items() if change is None]


@pytest.mark.parametrize("name", PLAIN)
def test_one_process_has_the_bits_of_the_plain_optimizer(name, tmp_path):
    optimizer, micro, given, _ = jobs.CASES[name]
    dtype = given.get("dtype", np.float32)
    sharded, params = jobs.params_of(dtype), jobs.params_of(dtype)
    opt = jobs.made(None, name, sharded)
    jobs.train(None, name, range(jobs.STEPS), opt, dtype)
    own = {k: v for k, v in given.items() if k not in ("bucket", "reduction", "nested")}
    if own.get("dtype") != "bfloat16":  # else a hyper-parameter
        own.pop("dtype", None)
    plain = optimizer(params, **own)
    factor = 1.0 if given.get("reduction") == "sum" else 1 / micro
    for step in range(jobs.STEPS):
        every = [jobs.gradients(step, k, dtype) for k in range(micro)]
        plain.grad_scale = own.get("grad_scale", 1.0) * factor
        every = [{key: jobs.numbers(grad) for key, grad in g.items()} for g in every]
        plain.step({key: np.array(tree_sum([g[key] for g in every])) for key in params})
        assert plain.grad_norm == opt.grad_norm or step < jobs.STEPS - 1
    plain.grad_scale = own.get("grad_scale", 1.0)
    for key in params:
        assert np.array_equal(params[key], sharded[key]), key
    pyoptk.save(tmp_path / "plain.npz", params=params, opt=plain)
    mpi.save(tmp_path / "sharded.npz", params=sharded, opt=opt)
    assert (tmp_path / "plain.npz").read_bytes() == (tmp_path / "sharded.npz").read_bytes()


@pytest.mark.parametrize("kind", [list, tuple, iter, np.array])
def test_parameters_may_be_an_array_or_a_sequence(kind):
    params = np.ones((2, 3)) if kind is np.array else (np.ones(2), np.ones(3))
    opt = mpi.Sharded(pyoptk.SGD, params if kind is np.array else kind(params), micro=2, lr=1.0)
    grads = np.full((2, 3), 2.0) if isinstance(params, np.ndarray) else [p * 2 for p in params]
    opt.add(grads)
    opt.step(grads)
    for param in [params] if isinstance(params, np.ndarray) else params:
        assert np.array_equal(param, np.full(param.shape, -1.0))


def test_hyper_parameters_are_attributes():
    opt = mpi.Sharded(pyoptk.Adam, {"w": np.ones(3)}, micro=1, lr=0.5, groups={"w": {"lr": 0.25}})
    opt.lr = 0.125
    opt.groups = {"w": {"lr": 0.75}}
    assert (opt.lr, opt.value("lr", "w"), opt.beta1, opt.skipped) == (0.125, 0.75, 0.9, 0)
    with pytest.raises(AttributeError, match="no hyper-parameter 'rate'"):
        opt.rate = 1
    with pytest.raises(AttributeError, match="no attribute 'state'"):
        print(opt.state)
    assert repr(opt) == "Sharded(Adam(lr=0.125, groups={'w': {'lr': 0.75}}), rank 0 of 1)"


G = np.ones((2, 3), np.float32)
# What is called with grads, and the message.
REFUSED = {
    "shape": ({"w": G.T}, r"ValueError: grads\['w'\]: expected float32 \(2, 3\), got .* \(3, 2\)"),
    "dtype": ({"w": G.astype("f8")}, r"TypeError: grads\['w'\]: expected float32 .*, got float64"),
    "list": ({"w": [1.0]}, r"TypeError: grads\['w'\]: expected float32 \(2, 3\), got list"),
    "masked": ({"w": np.ma.array(G)}, r"TypeError: grads\['w'\]: expected float32 \(2, 3\), got"),
    "key": ({"v": G}, r"ValueError: grads: expected keys of params, got 'v'"),
    "structure": ([G], r"TypeError: grads: expected a dict like params, got list"),
    "strided": (
        {"w": np.ones((3, 2), np.float32).T},
        r"ValueError: grads\['w'\]: expected a writable C-contiguous array, because zero_grad",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_gradient_that_does_not_fit_is_refused_before_anything_is_added(case):
    grads, message = REFUSED[case]
    params = {"b": np.ones(2, np.float32), "w": np.ones((2, 3), np.float32)}
    opt = mpi.Sharded(pyoptk.SGD, params, micro=2, lr=1.0, zero_grad=True)
    first = np.ones(2, np.float32)
    with pytest.raises((TypeError, ValueError)) as error:
        opt.add({"b": first, **grads} if isinstance(grads, dict) else grads)
    assert re.match(message, f"{error.typename}: {error.value}")
    assert first.tolist() == [1, 1]
    for _ in range(2):
        opt.add({"b": np.ones(2, np.float32), "w": G.copy()})
    with pytest.raises(ValueError, match=r"grads\['b'\]: expected 2 micro-batches .* got more"):
        opt.add({"b": np.ones(2, np.float32)})
    opt.step()
    assert params["w"].tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer_class": pyoptk.LAMB}, "optimizer_class: expected one that works element by"),
        ({"optimizer_class": pyoptk.SWA}, "optimizer_class: expected a class of optimizers, got"),
        ({"cautious": True}, "cautious: expected False, because its mean is over a whole array"),
        ({"max_norm_per_array": True, "max_norm": 1}, "max_norm_per_array: expected False, becau"),
        ({"groups": {"*": {"cautious": True}}}, "cautious: expected False, because its mean is"),
        ({"micro": 0}, "micro: expected an integer >= 1, got 0"),
        ({"bucket": 100}, "bucket: expected an integer >= 4,096, got 100"),
        ({"reduction": "max"}, "reduction: expected one of mean, sum, got 'max'"),
        ({"lr": -1.0}, "lr: expected a finite number >= 0, got -1.0"),
    ],
)
def test_what_cannot_be_divided_is_refused_by_name(given, message):
    optimizer = given.pop("optimizer_class", pyoptk.Adam)
    with pytest.raises((TypeError, ValueError), match=message):
        mpi.Sharded(optimizer, {"w": np.ones(3)}, **given)


def test_assignments_that_cannot_be_divided_are_refused():
    opt = mpi.Sharded(pyoptk.Adam, {"w": np.ones(3)})
    with pytest.raises(ValueError, match="cautious: expected False"):
        opt.cautious = True
    assert opt.cautious is False


def test_a_parameter_that_was_replaced_is_refused():
    params = {"w": np.ones(3), "b": memoryview(np.ones(2))}
    opt = mpi.Sharded(pyoptk.SGD, params, micro=2, lr=1.0)
    for _ in range(2):
        opt.add({"w": np.ones(3), "b": np.ones(2)})
    before = params["w"]
    params["w"] = before + 1
    with pytest.raises(ValueError, match=r"params\['w'\]: expected the array that it was at firs"):
        opt.step()
    params["w"] = before
    opt.step()
    assert before.tolist() == [0, 0, 0]
    assert params["b"].tolist() == [0, 0]


def test_save_asks_for_a_sharded_optimizer(tmp_path):
    with pytest.raises(ValueError, match="parts: expected a Sharded among them, got none"):
        mpi.save(tmp_path / "x.npz", w=np.ones(3))


# ---- shards --------------------------------------------------------------------------------------

SIZES = [0, 1, 4095, 4096, 4097, 30_000, 3, 1_000_000, 16_384, 50]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("most", [4096, 20_000, 1 << 20])
def test_every_element_belongs_to_one_rank_and_pieces_begin_at_blocks(ranks, most):
    owners = [np.zeros(size, int) for size in SIZES]
    for bucket in shards.divide(SIZES, ranks, most):
        assert bucket.size < most + shards.GRAIN
        assert len(bucket.counts) == len(bucket.shards) == ranks
        for shard, count, start in zip(bucket.shards, bucket.counts, bucket.starts, strict=True):
            assert sum(end - begin for _, begin, end, _ in shard) == count
            assert not shard or shard[0].at == start
            for param, begin, end, _ in shard:
                assert begin % shards.GRAIN == 0
                owners[param][begin:end] += 1
    assert all((owner == 1).all() for owner in owners)


@pytest.mark.parametrize("micro", [1, 2, 6, 7, 8, 13])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, 20])
def test_sums_of_ranks_make_up_the_tree(micro, ranks):
    root, covered, seen = (0, micro), [], []
    for rank in range(ranks):
        leaves = shards.leaves_of(rank, ranks, micro)
        seen += leaves
        nodes = shards.cover(root, leaves)
        covered += [leaf for lo, hi in nodes for leaf in range(lo, hi)]
        assert len(leaves) - sum(shards.merges(root, leaves)) == len(nodes)
    assert seen == covered == list(range(micro))


def test_a_bucket_of_few_grains_is_spread_over_many_ranks():
    buckets = shards.divide([1 << 24], 64, 1 << 17)  # 32 grains for 64 ranks
    owned = np.sum([bucket.counts for bucket in buckets], axis=0)
    assert owned.min() > 0.8 * owned.mean()
    assert owned.max() < 1.2 * owned.mean()


def test_the_table_of_the_page_is_that_of_the_model():
    page = (ROOT / "docs/mpi.md").read_text()
    assert "\n".join([network.BEGIN, *network.table(), network.END]) in page
    alone = network.step(10**9, 1, *network.NETWORKS["10 Gbit/s"])
    assert [name for name, seconds in alone.items() if seconds] == ["step"]


# ---- several ranks -------------------------------------------------------------------------------


@needs_mpi
@pytest.mark.parametrize("name", jobs.CASES)
@pytest.mark.parametrize("ranks", RANKS)
def test_bits_do_not_depend_on_the_number_of_ranks(name, ranks, found):
    """Parameters, the bytes of the checkpoint, norms, skipped steps."""
    assert found["bits"][ranks][name] == found["bits"][0][name]


@needs_mpi
@pytest.mark.parametrize("name", jobs.RESUMED)
@pytest.mark.parametrize("saved", RANKS)
def test_a_checkpoint_resumes_on_any_number_of_ranks(name, saved, found):
    wanted = found["resume"][0][f"{name}-1"]
    assert [found["resume"][r][f"{name}-{saved}"] for r in (0, *RANKS)] == [wanted] * 5


@needs_mpi
@needs_timer
@pytest.mark.parametrize("ranks", RANKS)
def test_an_exception_while_a_state_is_loaded_leaves_all_of_it_or_nothing(ranks, found):
    assert found["load"][ranks] == 0


@needs_mpi
@pytest.mark.parametrize("ranks", RANKS)
def test_states_take_their_share_of_memory(ranks, found):
    """Those of float32, and those of 8 bits: 2.03 bytes an element for Adam."""
    for shares in zip(*found["memory"][ranks]["shares"], strict=True):
        assert max(shares) < 1.05 / ranks
        assert min(shares) > 0.95 / ranks


@needs_mpi
def test_averages_are_those_of_all_ranks(found):
    assert len({tuple(found["memory"][ranks]["averages"]) for ranks in RANKS}) == 1


@needs_mpi
def test_optimizers_that_were_dropped_leave_their_communicators_to_others(tmp_path):
    """5,000; MPI has room for some 2,000."""
    done = run(2, "many", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "many-2.json").read_text()) < 20


@needs_mpi
@pytest.mark.parametrize("ranks", RANKS[1:])
@pytest.mark.parametrize(
    ("case", "argument"),
    [
        ("lr", "lr"),
        ("micro", "micro"),
        ("class", "optimizer_class"),
        ("shape", "params"),
        ("dtype", "params"),
    ],
)
def test_all_ranks_say_which_argument_differs_and_where(case, argument, ranks, found):
    message = f"{argument}: expected the same on all ranks, got another on rank {ranks - 1} than"
    assert found["wrong"][ranks][case] == [f"ValueError: {message} on rank 0"]


@needs_mpi
@pytest.mark.parametrize("ranks", RANKS[1:])
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "RuntimeError: step: expected "),
        ("folder", "FileNotFoundError: "),
        ("part", "TypeError: x: expected an array, dict, list, Generator or an object with"),
        ("raise", "FloatingPointError: grads['out.weight']: expected finite elements, got ones"),
    ],
)
def test_errors_are_raised_on_all_ranks(case, message, ranks, found):
    told = found["wrong"][ranks][case]
    assert len(told) == 1 or case == "missing"  # ranks miss different numbers of micro-batches
    assert all(one.startswith(message) for one in told)


@needs_mpi
@pytest.mark.parametrize("job", ["crash", "crash_looking", "crash_norm"])
def test_an_exception_in_one_rank_ends_all_with_its_message(job, tmp_path):
    done = run(3, job, tmp_path)
    assert done.returncode != 0
    assert "ValueError: the data of this rank are wrong" in done.stderr


@needs_mpi
def test_a_run_whose_rank_was_killed_resumes_with_the_bits_of_one_that_was_not(tmp_path, found):
    assert run(3, "kill", tmp_path).returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["killed.npz"]
    assert run(2, "after_kill", tmp_path).returncode == 0
    jobs.main("after_kill", tmp_path, True)
    for ranks in (0, 2):
        after = json.loads((tmp_path / f"after_kill-{ranks}.json").read_text())
        assert after == {"clip": found["bits"][0]["clip"][0], "from": 1}


@needs_mpi
def test_the_demo_trains_the_same_weights_on_any_number_of_ranks(tmp_path):
    command = ("-m", "pyoptk", "demo", "--mpi", "--epochs", "2", "--no-plot")
    shown = [start(ranks, *command, cwd=tmp_path).stdout for ranks in (1, 3)]
    weights = [re.findall(r"weights    CRC-32 (\w{8}), on \d ranks?\n", text) for text in shown]
    assert weights[0] == weights[1]
    assert len(weights[0]) == 1


@needs_mpi
def test_the_example_trains_and_saves_the_same_bits_on_any_number_of_ranks(tmp_path):
    example = ROOT / "examples/several_machines.py"
    assert len(example.read_text().splitlines()) < 40
    for ranks in (1, 2):
        done = start(ranks, "-m", "mpi4py", example, tmp_path / f"{ranks}.npz")
        assert f"{ranks} ranks, 99." in done.stdout
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


def test_shared_arrays_are_copies_in_the_same_structure():
    given = {
        "a": {"b": np.arange(6.0).reshape(2, 3)},
        "none": np.zeros((0, 4)),
        "one": np.array(2.0),
    }
    copies = mpi.shared(given)
    copies["a"]["b"] *= 2
    copies["one"][...] = 3
    assert given["one"] == 2
    assert np.array_equal(copies["a"]["b"], 2 * given["a"]["b"])
    assert (copies["none"].shape, copies["one"].shape) == ((0, 4), ())
    halves = mpi.shared([np.ones(3, np.float16), np.ones(2, np.uint16)])
    assert [half.dtype for half in halves] == [np.float16, np.uint16]
    assert all(half.flags.writeable and half.flags.aligned for half in halves)
    with pytest.raises(TypeError, match=r"params\['w'\]: expected .* got list"):
        mpi.shared({"w": [1.0]})


def test_mpi_is_not_loaded_with_pyoptk():
    code = "import sys, pyoptk; print([m for m in sys.modules if 'mpi' in m.split('.')[-1][:4]])"
    shown = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    assert shown.stdout.strip() == b"[]"
