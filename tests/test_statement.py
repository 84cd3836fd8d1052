"""The statement folder on real files: what is read, and that everything else is refused with file, line and column."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from recon.domain import Fill, OpenOrder, Position, Side, Snapshot, Window
from recon.errors import Refused, UsageError
from recon.settings import Settings
from recon.venues import StatementExchange, TableExchange, open_exchange

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LOOKBACK = timedelta(hours=72)
FILLS = "fill_id,exchange_order_id,client_order_id,symbol,side,qty,price,fee,fee_currency,filled_at"
POSITIONS = "symbol,qty"
OPEN_ORDERS = "exchange_order_id,client_order_id,symbol,side,qty,filled_qty,created_at"
FILL = "f1,o1,c1,BTC/USD,buy,0.5,60000.10,0.001,BTC,2026-03-01T09:30:00.123456Z"

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a statement: `fills` and others are lines below the header; None leaves the file out."""

    def statement(
        *fills: str, positions: list[str] | None = None, orders: list[str] | None = None, about: object = None
    ) -> Path:
        (tmp_path / "fills.csv").write_text("\n".join([FILLS, *fills, ""]), encoding="utf-8")
        for name, header, rows in (("positions", POSITIONS, positions), ("open_orders", OPEN_ORDERS, orders)):
            if rows is not None:
                (tmp_path / f"{name}.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
        if about is not None:
            text = about if isinstance(about, str) else json.dumps(about)
            (tmp_path / "statement.json").write_text(text, encoding="utf-8")
        return tmp_path

    return statement


def fetch(
    folder: Path | str, profile_id: str = "main", *, window: Window | None = None, now: datetime = NOW
) -> Snapshot:
    return StatementExchange(str(folder)).fetch(profile_id, now=now, lookback=LOOKBACK, window=window)


def outcome(folder: Path | str) -> Snapshot | Refused:
    try:
        return fetch(folder)
    except Refused as refused:
        return refused


def refusal(folder: Path | str, profile_id: str = "main") -> str:
    """The message of the refusal; it always says what to do."""
    with pytest.raises(Refused) as caught:
        fetch(folder, profile_id)
    assert (caught.value.code, caught.value.exit_status) == ("evidence_unreadable", 3)
    return caught.value.message


def with_cell(column: str, text: str, header: str = FILLS, row: str = FILL) -> str:
    """`row` with another cell, quoted as CSV asks."""
    cells = dict(zip(header.split(","), row.split(","), strict=True)) | {column: text}
    out = io.StringIO()
    csv.writer(out).writerow(cells.values())
    return out.getvalue().removesuffix("\r\n")


def test_every_column_is_read(write: Writer) -> None:
    folder = write(
        FILL,
        "f2,o1,,BTC/USD, SELL ,1E-7,.5,,,2026-03-01T10:00:00+05:30",
        positions=["BTC/USD,-1.50", "ETH,0"],
        orders=["o9,,ETH,Sell,2,0.5,2026-03-01 08:00:00+00"],
    )
    snapshot = fetch(folder)
    late = datetime(2026, 3, 1, 9, 30, 0, 123456, tzinfo=UTC)
    early = datetime(2026, 3, 1, 4, 30, tzinfo=UTC)
    assert snapshot.fills == (
        Fill("f2", "o1", None, "BTC/USD", Side.SELL, Decimal("1E-7"), Decimal("0.5"), None, None, early),
        Fill("f1", "o1", "c1", "BTC/USD", Side.BUY, Decimal("0.5"), Decimal("60000.10"), Decimal("0.001"), "BTC", late),
    )
    assert str(snapshot.fills[1].price) == "60000.10"
    assert snapshot.positions == (Position("BTC/USD", Decimal("-1.50")), Position("ETH", Decimal(0)))
    created = datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert snapshot.open_orders == (OpenOrder("o9", None, "ETH", Side.SELL, Decimal(2), Decimal("0.5"), created),)
    assert snapshot.source == f"statement:{folder}"
    assert snapshot.notes == ()


def test_the_same_facts_give_the_same_snapshot_in_any_row_order(write: Writer) -> None:
    rows = [with_cell("fill_id", f"f{number}") for number in range(5)]
    first = fetch(write(*rows, positions=["ETH,1", "BTC,2", "BTC,-2"]))
    assert fetch(write(*reversed(rows), positions=["BTC,-2", "BTC,2", "ETH,1"])) == first


def test_columns_in_another_order_bom_crlf_blank_lines_and_quotes(tmp_path: Path) -> None:
    names = FILLS.split(",")[::-1]
    cells = FILL.split(",")[::-1]
    text = ",".join(names) + "\r\n\r\n" + ",".join(f'"{cell}"' for cell in cells) + "\r\n\r\n"
    (tmp_path / "fills.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [fill.fill_id for fill in fetch(tmp_path).fills] == ["f1"]


@pytest.mark.parametrize("name", ["a:b", "o'1", 'say "x"', "<b>x</b>", "🙂", "👩\u200d🚀", "=1+1", "x,y", "ключ"])
def test_odd_ids_work(write: Writer, name: str) -> None:
    (fill,) = fetch(write(with_cell("exchange_order_id", name))).fills
    assert fill.exchange_order_id == name


def test_missing_files_are_unknown_not_flat(write: Writer) -> None:
    snapshot = fetch(write(FILL))
    assert snapshot.positions is None
    assert snapshot.open_orders is None
    assert snapshot.notes == (
        "Positions are unknown: the statement has no positions.csv.",
        "Open orders were not checked: the statement has no open_orders.csv.",
    )


def test_empty_files_with_a_header_are_known(write: Writer) -> None:
    snapshot = fetch(write(positions=[], orders=[]))
    assert (snapshot.fills, snapshot.positions, snapshot.open_orders, snapshot.notes) == ((), (), (), ())


def test_equal_legs_are_kept_apart(write: Writer) -> None:
    snapshot = fetch(write(positions=["BTC,1", "BTC,-1", "BTC,1"]))
    assert snapshot.positions is not None
    assert [leg.qty for leg in snapshot.positions] == [-1, 1, 1]


def test_fills_csv_is_required(tmp_path: Path) -> None:
    assert f"fills.csv: expected this file in {tmp_path}, found none" in refusal(tmp_path)
    assert "found none" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("fill_id", "", "a text that is not empty, found nothing"),
        ("fill_id", " f1", "printable text without blanks around it, found ' f1'"),
        ("exchange_order_id", "", "a text that is not empty, found nothing"),
        ("exchange_order_id", "o\x001", "printable text"),
        ("client_order_id", " ", "printable text without blanks around it, found ' '"),
        ("symbol", "", "a text that is not empty"),
        ("symbol", "BTC\u200b", r"printable text without blanks around it, found 'BTC\u200b'"),
        ("symbol", "BTC\n", "printable text"),
        ("fee_currency", "\tBTC", "printable text"),
        ("side", "", "buy or sell, found nothing"),
        ("side", "long", "buy or sell, found 'long'"),
        ("side", "b", "buy or sell, found 'b'"),
        *(
            (column, text, "a number such as 0.25, at most 30 digits on each side of the point, found")
            for column in ("qty", "price", "fee")
            for text in (
                "x",
                "NaN",
                "Infinity",
                "-inf",
                "1,000.5",
                "1_000",
                " 1",
                "1 ",
                "0x1",
                "1.2.3",
                "--1",
                ".",
                "e5",
            )
        ),
        *((column, "", "a number such as 0.25") for column in ("qty", "price")),
        ("qty", "1E9999", "a number such as 0.25"),
        ("qty", "1E" + "9" * 30, "a number such as 0.25"),
        ("qty", "1E30", "at most 30 digits"),
        ("qty", "1E-31", "at most 30 digits"),
        ("qty", "٣", "a number such as 0.25"),
        ("qty", "0", "a number above zero, found '0'"),
        ("qty", "-0.5", "a number above zero, found '-0.5'"),
        ("price", "0.00", "a number above zero, found '0.00'"),
        *(
            ("filled_at", text, "a time with offset such as 2026-03-01T09:30:00.123456Z, at most six decimals, found")
            for text in (
                "",
                "yesterday",
                "2026-03-01",
                "2026-03-01T09:30:00",
                "2026-03-01T09:30:00.1234567Z",
                "2026-03-01T09:30:00,5Z",
                "2026-02-29T09:30:00Z",
                "2026-03-01T25:30:00Z",
                "2026-03-01T09:30:60Z",
                "2026-03-01T09:30:00+24:00",
                "0001-01-01T00:00:00+05:00",
                "2026-W09-7T09:30:00Z",
                "1772357400",
                " 2026-03-01T09:30:00Z",
            )
        ),
        (
            "filled_at",
            "2026-03-01T12:05:00.000001Z",
            "at most 5 minutes after now (2026-03-01T12:00:00.000000Z), found",
        ),
    ],
)
def test_a_bad_fill_cell_is_refused(write: Writer, column: str, text: str, expected: str) -> None:
    message = refusal(write(with_cell("fill_id", "f0"), with_cell(column, text)))
    assert message.startswith(f"fills.csv line 3, column {column}: expected ")
    assert expected in message
    assert message.endswith("; correct the statement and run again.")


@pytest.mark.parametrize(
    ("column", "text"),
    [("qty", "1e-7"), ("qty", "+5."), ("price", "9" * 30 + "." + "9" * 30), ("fee", "-0.5"), ("fee", "0"), ("fee", "")],
)
def test_plain_numbers_are_kept_exactly(write: Writer, column: str, text: str) -> None:
    (fill,) = fetch(write(with_cell(column, text))).fills
    assert getattr(fill, column) == (Decimal(text) if text else None)


def test_fills_up_to_five_minutes_ahead_are_accepted_and_move_the_end(write: Writer) -> None:
    snapshot = fetch(write(with_cell("filled_at", "2026-03-01T12:05:00Z")))
    end = NOW + timedelta(minutes=5)
    assert snapshot.window == Window(end - LOOKBACK, end)
    assert len(snapshot.fills) == 1


@pytest.mark.parametrize(
    ("file", "row", "place"),
    [
        ("positions", ",1", "positions.csv line 3, column symbol: expected a text that is not empty, found nothing"),
        ("positions", "BTC ,1", "positions.csv line 3, column symbol: expected printable text"),
        ("positions", "BTC,", "positions.csv line 3, column qty: expected a number such as 0.25"),
        ("positions", "BTC,flat", "positions.csv line 3, column qty: expected a number such as 0.25"),
        ("positions", "BTC,nan", "positions.csv line 3, column qty: expected a number such as 0.25"),
        (
            "open_orders",
            ",,ETH,buy,1,0,2026-03-01T08:00:00Z",
            "open_orders.csv line 3, column exchange_order_id: expected",
        ),
        ("open_orders", "o,,,buy,1,0,2026-03-01T08:00:00Z", "open_orders.csv line 3, column symbol: expected"),
        (
            "open_orders",
            "o,,ETH,both,1,0,2026-03-01T08:00:00Z",
            "open_orders.csv line 3, column side: expected buy or sell",
        ),
        (
            "open_orders",
            "o,,ETH,buy,-1,0,2026-03-01T08:00:00Z",
            "open_orders.csv line 3, column qty: expected zero or a number above",
        ),
        (
            "open_orders",
            "o,,ETH,buy,1,-1,2026-03-01T08:00:00Z",
            "open_orders.csv line 3, column filled_qty: expected zero or",
        ),
        (
            "open_orders",
            "o,,ETH,buy,1,,2026-03-01T08:00:00Z",
            "open_orders.csv line 3, column filled_qty: expected a number",
        ),
        (
            "open_orders",
            "o,,ETH,buy,1,0,2026-03-01T08:00:00",
            "open_orders.csv line 3, column created_at: expected a time",
        ),
    ],
)
def test_a_bad_cell_of_the_other_files_is_refused(write: Writer, file: str, row: str, place: str) -> None:
    good = {"positions": ["BTC,1"], "orders": ["o1,,ETH,buy,1,0,2026-03-01T08:00:00Z"]}
    good["positions" if file == "positions" else "orders"].append(row)
    message = refusal(write(**good))
    assert message.startswith(place)
    assert message.endswith("; correct the statement and run again.")


def test_identical_rows_count_once(write: Writer) -> None:
    """Identical in content: spelling of numbers, case of the side and the offset of the time do not matter."""
    same = "f1,o1,c1,BTC/USD,BUY,0.50,60000.1,1e-3,BTC,2026-03-01T10:30:00.123456+01:00"
    assert len(fetch(write(FILL, FILL, same)).fills) == 1


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("client_order_id", "c2"),
        ("client_order_id", ""),
        ("symbol", "BTCUSD"),
        ("side", "sell"),
        ("qty", "0.6"),
        ("price", "60000.11"),
        ("fee", ""),
        ("fee_currency", "USD"),
        ("filled_at", "2026-03-01T09:30:00.123457Z"),
    ],
)
def test_the_same_fill_with_other_content_is_refused(write: Writer, column: str, text: str) -> None:
    message = refusal(write(FILL, with_cell("fill_id", "f2"), with_cell(column, text)))
    assert message == (
        "fills.csv line 4: expected the content of fills.csv line 2, which has the same exchange_order_id and fill_id "
        f"('o1', 'f1'), found another {column}; correct the statement and run again."
    )


def test_a_fill_id_may_repeat_under_another_order(write: Writer) -> None:
    assert len(fetch(write(FILL, with_cell("exchange_order_id", "o2"))).fills) == 2


@pytest.mark.parametrize("file", ["fills.csv", "positions.csv", "open_orders.csv"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda header: "", "line 1: expected the columns {header}, found missing: '{first}'"),
        (lambda header: header.replace("symbol", "Symbol"), "found missing: 'symbol'; unknown: 'Symbol'"),
        (lambda header: header.replace("qty", "amount", 1), "missing: 'qty'; unknown: 'amount'"),
        (lambda header: header + ",note", "found unknown: 'note'"),
        (lambda header: header + ",", "found unknown: nothing"),
        (lambda header: header + ",symbol", "found there twice: 'symbol'"),
        (lambda header: header.replace(",", ";"), "missing: '{first}'"),
        (lambda header: header.replace(",", ", "), "unknown: ' "),
    ],
)
def test_other_columns_are_refused_by_name(
    write: Writer, file: str, change: Callable[[str], str], expected: str
) -> None:
    folder = write(positions=[], orders=[])
    header = (folder / file).read_text(encoding="utf-8").strip()
    (folder / file).write_text(change(header), encoding="utf-8")
    message = refusal(folder)
    assert message.startswith(f"{file} line 1: expected the columns {header.replace(',', ', ')}, found ")
    assert expected.format(header=header.replace(",", ", "), first=header.split(",")[0]) in message


@pytest.mark.parametrize("row", [FILL.rpartition(",")[0], FILL + ",", "f1", " "])
def test_a_row_with_too_few_or_too_many_cells_is_refused(write: Writer, row: str) -> None:
    message = refusal(write(FILL, row))
    assert message.startswith(f"fills.csv line 3: expected 10 cells, found {row.count(',') + 1};")


def test_lines_are_counted_as_an_editor_counts_them(write: Writer) -> None:
    """A quoted cell may hold a line break, and blank lines count."""
    broken = with_cell("fee_currency", "B\nTC")
    assert refusal(write(FILL, "", broken)).startswith("fills.csv line 4, column fee_currency: expected printable text")
    assert refusal(write("", with_cell("qty", "x"))).startswith("fills.csv line 3, column qty")
    assert refusal(write(FILL, broken, "f3")).startswith("fills.csv line 5: expected 10 cells, found 1;")


@pytest.mark.parametrize(
    ("row", "line"),
    [('"f1"x' + FILL[2:], 3), ('"' + FILL, 3), ("x" * 200_000 + FILL, 3)],
    ids=["quote", "open", "huge"],
)
def test_broken_csv_is_refused_with_its_line(write: Writer, row: str, line: int) -> None:
    assert refusal(write(FILL, row)).startswith(f"fills.csv line {line}: expected well-formed CSV, found: ")


@pytest.mark.parametrize("file", ["fills.csv", "positions.csv", "open_orders.csv", "statement.json"])
def test_another_encoding_is_refused_with_its_line(write: Writer, file: str) -> None:
    folder = write(FILL, positions=[], orders=[], about={})
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content + b"\n\xe4")
    line = content.count(b"\n") + 2
    assert refusal(folder).startswith(f"{file} line {line}: expected UTF-8, found ")


def test_a_file_that_cannot_be_opened_is_refused_not_skipped(write: Writer) -> None:
    folder = write(FILL)
    (folder / "positions.csv").mkdir()
    message = refusal(folder)
    assert message.startswith(f"positions.csv: expected a readable file in {folder}, found: {os.strerror(21)}")


def test_from_and_to_bound_the_window(write: Writer) -> None:
    times = [
        "2026-02-28T23:59:59.999999Z",
        "2026-03-01T00:00:00Z",
        "2026-03-01T10:00:00Z",
        "2026-03-01T10:00:00.000001Z",
    ]
    rows = [FILL.replace("f1", f"f{place}").rpartition(",")[0] + f",{time}" for place, time in enumerate(times)]
    about = {"venue": "demo", "account": "a-1", "from": "2026-03-01T00:00:00Z", "to": "2026-03-01T11:00:00+01:00"}
    snapshot = fetch(write(*rows, positions=[], orders=[], about=about))
    assert snapshot.window == Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 1, 10, tzinfo=UTC))
    assert [fill.fill_id for fill in snapshot.fills] == ["f1", "f2"]
    assert snapshot.notes == (
        "The statement describes itself: venue demo, account a-1.",
        "2 of 4 fills lie outside the window and are not evidence.",
    )


def test_the_lookback_bounds_what_from_leaves_open(write: Writer) -> None:
    about = {"from": "2020-01-01T00:00:00Z", "to": None}
    assert fetch(write(FILL, about=about)).window == Window(NOW - LOOKBACK, NOW)


def test_a_lookback_beyond_all_time_begins_with_it(write: Writer) -> None:
    exchange = StatementExchange(str(write(FILL)))
    snapshot = exchange.fetch("main", now=NOW, lookback=timedelta.max)
    assert snapshot.window.start == datetime(1, 1, 1, tzinfo=UTC)


def test_a_given_window_stands(write: Writer) -> None:
    """Apply reuses the window of the dry run, whatever the clock and the statement say by then."""
    window = Window(datetime(2026, 3, 1, 9, tzinfo=UTC), datetime(2026, 3, 1, 10, tzinfo=UTC))
    later = with_cell("fill_id", "f2").replace("T09:30", "T10:30")
    snapshot = fetch(write(FILL, later, about={"from": "2026-03-01T09:15:00Z"}), window=window)
    assert snapshot.window == window
    assert [fill.fill_id for fill in snapshot.fills] == ["f1"]


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ("", "statement.json: expected one JSON object, found "),
        ("{", "statement.json: expected one JSON object, found "),
        ("[]", "statement.json: expected one JSON object, found JSON of another kind (list)"),
        ('{"to": null, "to": null}', "statement.json: expected one JSON object, found a key that is there twice"),
        ("[" * 100_000, "statement.json: expected one JSON object, found JSON that is nested too deeply"),
        (
            {"form": "2026-03-01T00:00:00Z"},
            "statement.json: expected only the keys venue, account, from, to, fetched_at, ",
        ),
        ({"from": 1772357400}, "statement.json, key from: expected text in quotes, found '1772357400'"),
        ({"venue": ["x"]}, "statement.json, key venue: expected text in quotes, found "),
        ({"from": "2026-03-01T00:00:00"}, "statement.json, column from: expected a time with offset"),
        ({"to": "today"}, "statement.json, column to: expected a time with offset"),
        ({"fetched_at": "2026-03-01"}, "statement.json, column fetched_at: expected a time with offset"),
        (
            {"from": "2026-03-01T10:00:00Z", "to": "2026-03-01T09:59:59Z"},
            "statement.json, column from: expected a time not after `to` (2026-03-01T09:59:59Z), found '2026-03-01T10",
        ),
        (
            {"to": "2026-03-01T12:05:00.000001Z"},
            "statement.json, column to: expected a time at most 5 minutes after now (2026-03-01T12:00:00.000000Z)",
        ),
        (
            {"fetched_at": "2027-01-01T00:00:00Z"},
            "statement.json, column fetched_at: expected a time at most 5 minutes after now (2026-03-01T12:00:00",
        ),
        (
            {"from": "2026-03-01T12:00:01Z"},
            "statement.json, column from: expected a time that is not in the future, found",
        ),
        (
            {"profile_id": "other"},
            "statement.json, column profile_id: expected 'main', since one account serves one profile",
        ),
    ],
)
def test_a_bad_statement_json_is_refused(write: Writer, about: object, expected: str) -> None:
    message = refusal(write(FILL, about=about))
    assert message.startswith(expected)
    assert message.endswith("; correct the statement and run again.")


def test_a_statement_fetched_up_to_five_minutes_ahead_is_accepted(write: Writer) -> None:
    end = NOW + timedelta(minutes=5)
    ahead = end.isoformat()
    assert fetch(write(FILL, about={"to": ahead, "fetched_at": ahead})).window == Window(end - LOOKBACK, end)


def test_the_profile_of_the_statement_may_be_named(write: Writer) -> None:
    assert len(fetch(write(FILL, about={"profile_id": "main"})).fills) == 1


def test_the_folder_may_depend_on_the_profile(write: Writer) -> None:
    folder = write(FILL)
    template = str(folder.parent / "{profile_id}")
    snapshot = fetch(template, folder.name)
    assert len(snapshot.fills) == 1
    assert snapshot.source == f"statement:{template}"


@pytest.mark.parametrize("profile_id", ["", ".", "..", "../main", "a/b", "a\\b", "a..b", "a\0b", "/etc"])
def test_a_profile_cannot_leave_the_folder(tmp_path: Path, profile_id: str) -> None:
    message = refusal(tmp_path / "{profile_id}", profile_id)
    assert message.startswith(f"profile_id {profile_id!r} cannot stand for {{profile_id}} in statement:")


def test_without_the_placeholder_any_profile_may_ask(write: Writer) -> None:
    assert len(fetch(write(FILL), "../main").fills) == 1


def test_an_open_order_that_closes_whatever_is_held_has_no_quantity(write: Writer) -> None:
    folder = write(FILL, orders=["o,,ETH,sell,0,0,2026-03-01T08:00:00Z"])
    (order,) = fetch(folder).open_orders
    assert order.qty == 0


def test_what_recon_wrote_of_an_exchange_is_read_back(write: Writer) -> None:
    gap = {"symbol": "BTC/USD", "start": "2026-03-01T08:00:00Z", "end": "2026-03-01T09:00:00Z", "why": "down"}
    found = fetch(write(FILL, about={"coverage": {"gaps": [gap], "asked": ["BTC/USD"], "replaced": {"o2": "o1"}}}))
    assert [one.symbol for one in found.gaps] == ["BTCUSD"]
    assert (found.asked, found.replaced) == ({"BTCUSD"}, {"o2": "o1"})
    assert fetch(write(FILL, about={"coverage": None})).asked is None


@pytest.mark.parametrize(
    "coverage", [[], "lost", {"gap": []}, {"gaps": [{}]}, {"gaps": [{"symbol": None, "start": "x"}]}]
)
def test_coverage_that_is_not_understood_is_refused(write: Writer, coverage: object) -> None:
    with pytest.raises(Refused, match=r"statement\.json, key coverage: expected what `recon fetch` writes"):
        fetch(write(FILL, about={"coverage": coverage}))


def test_a_symbolic_link_is_followed(write: Writer, tmp_path: Path) -> None:
    folder = write(FILL)
    link = tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    assert len(fetch(link).fills) == 1


def named(spec: str | None) -> Settings:
    """Settings with this exchange."""
    return Settings(_env_file=None, recon_exchange=spec)  # type: ignore[call-arg]


def test_open_exchange_picks_the_source(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine("postgresql+psycopg://nowhere.invalid/none")
    folder = write(FILL)
    assert open_exchange(named(None), engine=engine) is None
    demo = open_exchange(named(None), engine=engine, demo_folder=folder)
    assert isinstance(demo, StatementExchange)
    assert demo.name == "statement of the demo"
    assert len(demo.fetch("main", now=NOW, lookback=LOOKBACK).fills) == 1
    table = open_exchange(named("table: a.fills , positions"), engine=engine, demo_folder=folder)
    assert isinstance(table, TableExchange)
    assert table.name == "table:a.fills,positions"
    below = Path(shutil.copytree(folder, folder / "below"))
    (folder / ".env").touch()
    for where, shown in ((folder, "below"), (Path("/"), below)):
        monkeypatch.chdir(where)
        found = open_exchange(named(f"statement: {below} "), engine=engine)
        assert found is not None
        assert found.name == f"statement:{shown}"
        assert len(found.fetch("main", now=NOW, lookback=LOOKBACK).fills) == 1
    live = open_exchange(named("ccxt: kraken"), engine=engine)
    assert live is not None
    assert (live.name, live.live) == ("ccxt:kraken", True)


@pytest.mark.parametrize(
    ("name", "said"),
    [("ccxt:nosuch", "ccxt knows no venue 'nosuch'"), ("ccxt:deribit", "expected one of alpaca, binance")],
)
def test_a_venue_that_cannot_be_read_to_the_end_is_a_usage_error(name: str, said: str) -> None:
    engine = create_engine("postgresql+psycopg://nowhere.invalid/none")
    with pytest.raises(UsageError, match=said) as caught:
        open_exchange(named(name), engine=engine)
    assert (caught.value.code, caught.value.exit_status) == ("exchange_unknown", 2)


@pytest.mark.parametrize(
    "spec", ["statement", "statement:", "statement: ", "table:a", "table:a,", "table:a,b,c", "ccxt:", "ccxt", "x:y"]
)
def test_an_unknown_source_is_a_usage_error(spec: str) -> None:
    engine = create_engine("postgresql+psycopg://nowhere.invalid/none")
    with pytest.raises(
        UsageError, match=r"expected ccxt:NAME, statement:DIR or table:FILLS,POSITIONS\. Correct"
    ) as caught:
        open_exchange(named(spec), engine=engine)
    assert (caught.value.code, caught.value.exit_status) == ("exchange_unknown", 2)


_printable = st.characters(exclude_categories=("C", "Z"))
_texts = st.text(_printable, min_size=1, max_size=12)
_amounts = st.builds(
    lambda digits, places: Decimal(digits).scaleb(-places), st.integers(1, 10**24), st.integers(-5, 30)
)
_fills = st.builds(
    Fill,
    fill_id=_texts,
    exchange_order_id=_texts,
    client_order_id=st.none() | _texts,
    symbol=_texts,
    side=st.sampled_from(Side),
    qty=_amounts,
    price=_amounts,
    fee=st.none() | _amounts | _amounts.map(lambda value: -value),
    fee_currency=st.none() | _texts,
    filled_at=st.datetimes(
        NOW.replace(tzinfo=None) - LOOKBACK, NOW.replace(tzinfo=None), timezones=st.just(UTC), allow_imaginary=False
    ),
)


@settings(max_examples=200)
@given(st.lists(_fills, max_size=8, unique_by=lambda fill: (fill.exchange_order_id, fill.fill_id)))
def test_fills_written_as_csv_are_the_fills_read(fills: list[Fill]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "fills.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(FILLS.split(","))
            for fill in [*reversed(fills), *fills[:2]]:
                cells = [getattr(fill, name) for name in FILLS.split(",")]
                cells[-1] = fill.filled_at.isoformat()
                writer.writerow(cells)
        snapshot = fetch(folder)
    assert sorted(snapshot.fills, key=repr) == sorted(fills, key=repr)


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Never another exception, whatever stands below the header."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "fills.csv").write_bytes(FILLS.encode() + b"\n" + content)
        answer = outcome(folder)
    if isinstance(answer, Refused):
        assert answer.code == "evidence_unreadable"
        assert re.match(r"fills\.csv line \d+", answer.message)


@pytest.mark.parametrize(("account", "fills", "legs"), [("acct-a", 563, 5), ("acct-b", 1430, 26), ("acct-g", 1430, 26)])
def test_real_account_exports_are_read_whole(replay: Path, account: str, fills: int, legs: int) -> None:
    snapshot = StatementExchange(str(replay / account)).fetch("main", now=NOW, lookback=timedelta(hours=200_000))
    assert len(snapshot.fills) == fills
    assert snapshot.positions is not None
    assert len(snapshot.positions) == legs
