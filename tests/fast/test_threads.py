"""fpn_neck.fast.cpu.threads: parts of one task in torch's own threads."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fpn_neck.fast.cpu import threads as threads_module
from fpn_neck.fast.cpu import winograd
from fpn_neck.fast.cpu.threads import run_in_threads

needs_openmp = pytest.mark.skipif(
    threads_module._openmp is None, reason="torch's build has no OpenMP of GCC's interface"
)


def test_results_come_in_order_from_at_most_that_many_threads(threads):
    seen = set()

    def task(part):
        seen.add(threading.get_ident())
        return 10 * part

    assert run_in_threads(task, range(20)) == list(range(0, 200, 10))
    assert len(seen) <= threads
    assert run_in_threads(task, []) == []


@needs_openmp
def test_the_parts_run_at_once(threads):
    """Each waits until all have begun."""
    barrier = threading.Barrier(threads)
    assert len(set(run_in_threads(lambda _: barrier.wait(30), range(threads)))) == threads


@needs_openmp
def test_the_threads_are_torchs_and_operators_inside_start_no_others(threads):
    """The system's number of threads does not grow."""
    x = torch.randn(64, 3, 200, 200)
    x.add(1)  # starts torch's threads
    run_in_threads(lambda _: x @ x, range(2 * threads))
    before = system_threads()
    run_in_threads(lambda _: (x + 1, x @ x, torch.conv2d(x, x[:4, :, :3, :3])), range(2 * threads))
    assert system_threads() == before and torch.get_num_threads() == threads


def system_threads():
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Threads"))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_no_gradients_and_the_callers_inference_mode(threads, mode):
    with mode():
        target = torch.zeros(4)
        state = [torch.is_inference_mode_enabled()] * 4

        def task(i):
            target[i] = torch.ones((), requires_grad=True) * i
            assert not torch.is_grad_enabled()
            return torch.is_inference_mode_enabled()

        assert run_in_threads(task, range(4)) == state
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert target.tolist() == [0, 1, 2, 3] and not target.requires_grad


def test_an_error_reaches_the_caller_and_the_threads_go_on(threads):
    def task(part):
        if part == 3:
            raise ZeroDivisionError("part 3")
        return part

    with pytest.raises(ZeroDivisionError, match="part 3"):
        run_in_threads(task, range(5))
    assert run_in_threads(task, range(3)) == [0, 1, 2]


def test_several_threads_of_the_user_at_once(threads):
    with ThreadPoolExecutor(4) as users:
        results = users.map(lambda i: run_in_threads(lambda part: part * i, range(6)), range(8))
        assert list(results) == [[part * i for part in range(6)] for i in range(8)]


def test_gradients_are_the_same_to_the_bit_every_time(threads):
    x, grad = torch.randn(2, 8, 61, 70), torch.randn(2, 9, 61, 70)
    first = winograd.weight_gradient(x, grad)
    assert all(torch.equal(first, winograd.weight_gradient(x, grad)) for _ in range(3))


FORK = """
import os, sys, torch
from fpn_neck.fast.cpu.threads import run_in_threads
torch.set_num_threads(2)
assert run_in_threads(lambda i: i, [1, 2]) == [1, 2]
child = os.fork()
if child == 0:
    torch.set_num_threads(2)
    os._exit(run_in_threads(lambda i: i, [3, 4]) != [3, 4])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not():
    done = subprocess.run([sys.executable, "-c", FORK], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


LATE = """
import threading, time, torch
from fpn_neck.fast.cpu.threads import run_in_threads
torch.set_num_threads(2)
"""


@pytest.mark.parametrize("used_before", [False, True])
def test_a_thread_that_outlives_the_main_one(used_before):
    first = "run_in_threads(abs, [1, 2])\n" if used_before else ""
    late = "lambda: (time.sleep(1), print(run_in_threads(abs, [-1, -2])))"
    command = [sys.executable, "-c", f"{LATE}{first}threading.Thread(target={late}).start()"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1, 2]\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_an_interruption_ends_the_call():
    """By the signal of Ctrl-C, which reaches the main thread wherever that is."""
    script = f"""{LATE}
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(1, signal.raise_signal, [signal.SIGINT]).start()
try:
    run_in_threads(lambda _: time.sleep(0.01), range(10**5))
except KeyboardInterrupt:
    print("interrupted", run_in_threads(abs, [-1, -2]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, text=True
    )
    assert done.stdout == "interrupted [1, 2]\n", done.stderr


def test_without_such_threads_the_parts_run_one_after_the_other(threads, monkeypatch):
    monkeypatch.setattr(threads_module, "_openmp", None)
    assert threads_module.available_threads() == 1
    seen = run_in_threads(lambda part: (part, threading.get_ident()), range(3))
    assert seen == [(part, threading.get_ident()) for part in range(3)]
