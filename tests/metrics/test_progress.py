"""Progress on a terminal and in a log file."""

import io

import pytest
import rich.console

from vitfm.metrics import progress


def console(*, terminal):
    return rich.console.Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def lines(where):
    return where.file.getvalue().splitlines()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_log_file_gets_a_line_each_twentieth_and_the_last():
    log = console(terminal=False)
    shown = progress.make(1010, console=log)
    for step in range(1, 1011):
        shown.update(step, loss=2.5, images_per_second=1234.5, data_wait=0.031)
    shown.close()
    assert len(lines(log)) == 20
    assert lines(log)[0].startswith("step 51/1,010  loss 2.5  1,234 images/s  3% data wait")
    assert lines(log)[-1].startswith("step 1,010/1,010")


def test_a_slow_run_gets_a_line_each_ten_seconds_with_the_time_left():
    log, clock = console(terminal=False), Clock()
    shown = progress.Lines(100_000, 500, log, clock)
    for step in range(501, 531):
        clock.now += 1
        shown.update(step, loss=1.0 if step == 501 else None)
    shown.close()
    assert [line.split()[1] for line in lines(log)] == ["510/100,000", "520/100,000", "530/100,000"]
    assert "loss 1" in lines(log)[-1]
    assert lines(log)[-1].endswith("1 d 3 h left")


def test_closing_says_the_last_step_once():
    log = console(terminal=False)
    shown = progress.make(1000, console=log)
    shown.update(3)
    shown.close()
    shown.close()
    assert [line.split()[1] for line in lines(log)] == ["3/1,000"]


def test_notes_are_whole_lines_without_markup():
    note = "saved [bold]checkpoint[/bold] " + "x" * 200
    for terminal in (False, True):
        log = console(terminal=terminal)
        shown = progress.make(10, console=log)
        shown.note(note)
        shown.close()
        assert "[bold]checkpoint[/bold]" in log.file.getvalue()
        assert terminal or note in lines(log)


def test_a_terminal_gets_a_bar():
    screen = console(terminal=True)
    shown = progress.make(2000, initial_step=500, console=screen)
    assert isinstance(shown, progress.Bar)
    shown.update(1000, loss=0.1234, images_per_second=80, data_wait=0.5)
    shown.update(1500)
    shown.close()
    last = screen.file.getvalue()
    for part in ("1,500/2,000", "75%", "loss 0.1234", "80 images/s", "50% data wait"):
        assert part in last


@pytest.mark.parametrize("terminal", [False, True])
def test_the_final_table(terminal):
    screen = console(terminal=terminal)
    progress.table("Final [1]", {"test/knn/top1": 0.5534, "loss": 1.23456, "device": "4 x [TPU]"}, screen)
    text = screen.file.getvalue()
    for part in ("Final", "test/knn/top1", "55.3%", "1.235", "4 x [TPU]"):
        assert part in text


def test_an_empty_table_is_its_title():
    log = console(terminal=False)
    progress.table("Final", {}, log)
    assert lines(log) == ["Final"]
