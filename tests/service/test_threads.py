"""The number of threads that a thread computes with."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from service.engine.threads import use_threads


def test_a_thread_keeps_its_number_whatever_other_threads_set() -> None:
    usual = torch.get_num_threads()
    engine_set, others_set = threading.Event(), threading.Event()

    def count_threads_of_the_engine() -> int:
        use_threads(3)
        engine_set.set()
        assert others_set.wait(30)
        return torch.get_num_threads()

    try:
        with ThreadPoolExecutor() as engine:
            counted = engine.submit(count_threads_of_the_engine)
            assert engine_set.wait(30)
            with ThreadPoolExecutor(initializer=use_threads, initargs=(1,)) as workers:
                assert workers.submit(torch.get_num_threads).result() == 1
                others_set.set()
                assert counted.result() == 3
                assert workers.submit(torch.get_num_threads).result() == 1
    finally:
        use_threads(usual)


def test_none_leaves_the_number_of_a_thread() -> None:
    usual = torch.get_num_threads()
    assert use_threads(None) == usual
    assert torch.get_num_threads() == usual
