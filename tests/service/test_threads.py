"""How many cores a thread may use."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from service.engine.threads import use_threads


def test_a_thread_keeps_its_number_whatever_others_are_told() -> None:
    usual = torch.get_num_threads()
    told, others_told = threading.Event(), threading.Event()

    def threads_of_an_engine() -> int:
        use_threads(3)
        told.set()
        assert others_told.wait(30)
        return torch.get_num_threads()

    try:
        with ThreadPoolExecutor() as engine:
            counted = engine.submit(threads_of_an_engine)
            assert told.wait(30)
            with ThreadPoolExecutor(initializer=use_threads, initargs=(1,)) as workers:
                assert workers.submit(torch.get_num_threads).result() == 1
                others_told.set()
                assert counted.result() == 3
                assert workers.submit(torch.get_num_threads).result() == 1
    finally:
        use_threads(usual)


def test_none_leaves_a_thread_what_it_has() -> None:
    usual = torch.get_num_threads()
    assert use_threads(None) == usual
    assert torch.get_num_threads() == usual
