"""Ctrl-C and its like: heard from the first moment, held off while a report is written, told in the documented form."""

from __future__ import annotations

import importlib.abc
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

import recon
from recon import __main__ as entry
from recon import cli
from recon.interrupts import INTERRUPTS, heard, held_off, listen


@pytest.fixture(autouse=True)
def handlers():
    """Listening, as the program does; the handlers of the test run come back."""
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", INTERRUPTS)
def test_each_signal_interrupts_and_waits_while_it_is_held_off(number) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt(number)
    done = []

    def hold_off() -> None:
        with held_off():
            interrupt(number)
            done.append("the block")
            with pytest.raises(KeyboardInterrupt), heard():
                interrupt(number)
            interrupt(number)
            done.append("its end")

    with pytest.raises(KeyboardInterrupt):
        hold_off()
    assert done == ["the block", "its end"]
    with pytest.raises(KeyboardInterrupt):
        interrupt(number)


def test_what_was_heard_inside_is_not_raised_again() -> None:
    with held_off(), pytest.raises(KeyboardInterrupt), heard():
        interrupt(signal.SIGINT)


def test_what_is_ignored_stays_ignored() -> None:
    """nohup, and jobs in the background."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    listen()
    with held_off(), heard():
        interrupt(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_thread_has_nothing_to_hold_off() -> None:
    done = []

    def work() -> None:
        with held_off(), heard():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


# Before anything began


class Interrupting(importlib.abc.MetaPathFinder):
    """Is interrupted while it looks for the command line."""

    def find_spec(self, fullname, path, target=None) -> None:
        if fullname == "recon.cli":
            interrupt(signal.SIGINT)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_an_interrupt_while_the_program_starts_is_told_in_the_documented_form(monkeypatch, capsys, words) -> None:
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    monkeypatch.setattr(recon, "cli", cli)
    monkeypatch.delattr(recon, "cli")
    monkeypatch.delitem(sys.modules, "recon.cli")
    monkeypatch.setattr(sys, "argv", ["recon", "status", *words])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    if words:
        assert (json.loads(out)["code"], err) == ("interrupted", "")
    else:
        assert (out, err.startswith("recon: interrupted: Interrupted before anything began; ")) == ("", True)


def test_nothing_that_takes_its_time_is_imported_before_interrupts_are_heard() -> None:
    slow = "{'sqlalchemy', 'pydantic', 'click', 'pandas', 'recon.incident', 'recon.cli'}"
    script = f"import sys, recon.__main__; print({slow} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"


def test_every_name_for_notebooks_is_there_and_no_other() -> None:
    assert {getattr(recon, name).__name__ for name in recon.__all__} == set(recon.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = recon.no_such_name
