"""Libraries are imported without garbage collection, once, and it is on again afterwards."""

import gc
import sys

import pytest

from rmt.commands.libraries import import_quickly


@pytest.fixture
def frozen(monkeypatch) -> list[bool]:
    """Whether collection was on at each call of `gc.freeze`, which is not called in earnest."""
    calls: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append(gc.isenabled()))
    return calls


def test_collection_pauses_until_torch_is_imported_even_after_an_error(frozen, monkeypatch):
    def fail() -> None:
        with import_quickly():
            assert not gc.isenabled()
            raise ImportError

    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "torch", raising=False)
        with pytest.raises(ImportError):
            fail()
    assert gc.isenabled() and frozen == [False]


def test_it_stays_on_once_torch_is_there_and_off_where_the_caller_has_turned_it_off(frozen, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", gc)
    with import_quickly():
        assert gc.isenabled()
    monkeypatch.delitem(sys.modules, "torch")
    gc.disable()
    try:
        with import_quickly():
            pass
        assert not gc.isenabled() and frozen == []
    finally:
        gc.enable()
