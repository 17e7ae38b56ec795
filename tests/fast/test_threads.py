"""fpn_neck.fast.cpu.threads: parts of one task on threads of their own."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fpn_neck.fast.cpu import threads as threads_module
from fpn_neck.fast.cpu import winograd
from fpn_neck.fast.cpu.threads import run_in_threads


def test_results_come_in_order_from_at_most_that_many_threads(threads):
    seen = set()

    def task(part):
        seen.add(threading.get_ident())
        return 10 * part

    assert run_in_threads(task, range(20)) == list(range(0, 200, 10))
    assert len(seen) <= threads
    assert (threading.get_ident() in seen) == (threads == 1)
    assert run_in_threads(task, []) == []


def test_each_thread_computes_alone_and_the_callers_number_stays(threads):
    numbers = run_in_threads(lambda _: torch.get_num_threads(), range(2 * threads))
    assert numbers == [1] * (2 * threads)
    assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(1) as other:  # a new thread of the user's
        assert other.submit(torch.get_num_threads).result() == threads


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
def test_a_forked_process_starts_threads_of_its_own():
    done = subprocess.run([sys.executable, "-c", FORK], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run(script):
    """Run code in another process; returns what it prints."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


SPREAD = """
import threading, time, torch
from fpn_neck.fast.cpu.threads import run_in_threads
torch.set_num_threads(2)
"""


@pytest.mark.parametrize("used_before", [False, True])
def test_a_thread_that_outlives_the_main_one(used_before):
    first = "run_in_threads(abs, [1, 2])\n" if used_before else ""
    late = "lambda: (time.sleep(1), print(run_in_threads(abs, [-1, -2])))"
    late = f"threading.Thread(target={late}).start()"
    assert run(SPREAD + first + late) == "[1, 2]\n"


OWN = """
import threading, torch
from fpn_neck.fast.cpu import threads as pools
from fpn_neck.fast.cpu.threads import run_in_threads
def ours():
    return [t for t in threading.enumerate() if t.name.startswith("fpn_neck")]
torch.set_num_threads(2)
"""


def test_users_threads_that_start_at_once_share_one_pool():
    at_once = """
barrier = threading.Barrier(8)
def user():
    barrier.wait()
    assert run_in_threads(abs, [-1, -2, -3]) == [1, 2, 3]
users = [threading.Thread(target=user) for _ in range(8)]
[t.start() for t in users], [t.join() for t in users]
print(len(ours()))
"""
    assert run(OWN + at_once) == "2\n"


def test_other_numbers_of_threads_leave_no_pool_behind():
    numbers = """
import time
for number in (3, 4, 5, 2):
    torch.set_num_threads(number)
    seen = set()
    def task(part):
        seen.add(threading.get_ident())
        return torch.get_num_threads()
    assert run_in_threads(task, range(20)) == [1] * 20
    assert len(seen) <= number and torch.get_num_threads() == number
for _ in range(100):
    time.sleep(0.05)
    if len(ours()) == 5:
        break
print(len(ours()))
"""
    assert run(OWN + numbers) == "5\n"


@pytest.mark.skipif(threads_module._thread_library is None, reason="torch's build cannot do it")
def test_other_threads_keep_their_number_while_the_pool_starts():
    """The process's number is what a new thread begins with."""
    stress = """
torch.set_num_threads(3)
found, over = [], threading.Event()
def stress():
    while not over.is_set():
        t = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        t.start(), t.join()
stressing = threading.Thread(target=stress)
stressing.start()
for _ in range(50):
    pools._start(3).shutdown()
over.set(), stressing.join()
print(len(found) > 10, set(found))
"""
    assert run(OWN + stress) == "True {3}\n"


def test_no_more_threads_to_be_had():
    refuse = """
start = threading.Thread.start
def limited(self):
    if threading.active_count() > 1:
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = limited
print(run_in_threads(abs, [-1, -2]), torch.get_num_threads())
"""
    assert run(SPREAD + refuse) == "[1, 2] 2\n"
