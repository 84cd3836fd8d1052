"""`table:FILLS,POSITIONS` on a real PostgreSQL: the same rules as the statement, read exactly and without writing."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from recon.domain import Fill, Position, Side, Snapshot, Window
from recon.errors import Refused
from recon.venues import StatementExchange, TableExchange

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LOOKBACK = timedelta(hours=72)
FILLED_AT = datetime(2026, 3, 1, 9, 30, 0, 123456, tzinfo=UTC)
COLUMNS = "fill_id, exchange_order_id, client_order_id, symbol, side, qty, price, fee, fee_currency, filled_at"
FILLS = """CREATE TABLE fills (profile_id text, fill_id text, exchange_order_id text, client_order_id text, symbol text,
    side text, qty numeric, price numeric, fee numeric, fee_currency text, filled_at timestamptz, note text)"""
POSITIONS = "CREATE TABLE positions (profile_id text, symbol text, qty numeric)"


def connect(url: str, options: str = "-c TimeZone=Asia/Kolkata -c DateStyle=SQL,DMY") -> sa.Engine:
    """By default in a time zone other than UTC, so that nothing may lean on it."""
    return sa.create_engine(url, poolclass=sa.NullPool, connect_args={"options": options})


@pytest.fixture
def engine(database_url: str) -> sa.Engine:
    return connect(database_url)


@pytest.fixture
def engine_each_version(database_url_each_version: str) -> sa.Engine:
    return connect(database_url_each_version)


def run(engine: sa.Engine, *statements: str, **parameters: object) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement), parameters)


def add_fill(engine: sa.Engine, table: str = "fills", **cells: object) -> None:
    """One good fill, but for the cells given."""
    row = {
        "profile_id": "main", "fill_id": "f1", "exchange_order_id": "o1", "client_order_id": None, "symbol": "BTC/USD",
        "side": "sell", "qty": Decimal("0.5"), "price": Decimal("60000.10"), "fee": None, "fee_currency": None,
        "filled_at": FILLED_AT,
    } | cells  # fmt: skip
    run(engine, f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})", **row)


def fetch(engine: sa.Engine, tables: str = "fills,positions", profile_id: str = "main", **options: object) -> Snapshot:
    window = options.get("window")
    assert window is None or isinstance(window, Window)
    return TableExchange(engine, *tables.split(",")).fetch(profile_id, now=NOW, lookback=LOOKBACK, window=window)


def refusal(engine: sa.Engine, tables: str = "fills,positions", profile_id: str = "main") -> str:
    with pytest.raises(Refused) as caught:
        fetch(engine, tables, profile_id)
    assert (caught.value.code, caught.value.exit_status) == ("evidence_unreadable", 3)
    return caught.value.message


def test_rows_of_the_profile_are_read_exactly(engine: sa.Engine) -> None:
    run(
        engine,
        FILLS,
        POSITIONS,
        "INSERT INTO positions VALUES ('main', 'BTC', -0.00), ('main', 'BTC', 1e-9), ('x', 'E', 1)",
    )
    add_fill(engine, qty=Decimal("123456789012345678.123456789012"), fee=Decimal("-0.10"), client_order_id="c")
    add_fill(engine, profile_id="other", exchange_order_id="o2", qty=Decimal("NaN"))
    snapshot = fetch(engine)
    qty = Decimal("123456789012345678.123456789012")
    assert snapshot.fills == (
        Fill("f1", "o1", "c", "BTC/USD", Side.SELL, qty, Decimal("60000.1"), Decimal("-0.1"), None, FILLED_AT),
    )
    assert snapshot.positions == (Position("BTC", Decimal(0)), Position("BTC", Decimal("0.000000001")))
    assert snapshot.open_orders is None
    assert snapshot.source == "table:fills,positions"
    assert snapshot.notes == ("Open orders were not checked: a table source does not list them.",)


def test_schemas_views_and_other_types(engine_each_version: sa.Engine) -> None:
    """uuid profile, double precision amounts, enum side and a bare timestamp, behind a view in a schema of its own."""
    engine, profile = engine_each_version, "7f1c2f6e-4a57-4c39-9f0e-1a2b3c4d5e6f"
    run(
        engine,
        "CREATE SCHEMA venue",
        "CREATE TYPE venue.way AS ENUM ('BUY', 'SELL')",
        """CREATE TABLE venue.raw (profile_id uuid, fill_id bigint, exchange_order_id uuid, client_order_id varchar(9),
            symbol char(8), side venue.way, qty double precision, price real, fee int, fee_currency text,
            filled_at timestamp)""",
        "CREATE VIEW venue.fills AS SELECT * FROM venue.raw",
        'CREATE TABLE venue."Positions" (profile_id uuid, symbol char(8), qty double precision)',
        f"INSERT INTO venue.\"Positions\" VALUES ('{profile}', 'ETH', 0.1)",
        f"""INSERT INTO venue.raw VALUES
            ('{profile}', 0, '{profile}', '', 'ETH', 'BUY', 0.1, 2.5, 0, NULL, '2026-03-01 09:30:00.123456')""",
    )
    snapshot = fetch(engine, "venue.fills,venue.Positions", profile)
    number = Decimal
    assert snapshot.fills == (
        Fill("0", profile, None, "ETH", Side.BUY, number("0.1"), number("2.5"), number(0), None, FILLED_AT),
    )
    assert snapshot.positions == (Position("ETH", Decimal("0.1")),)
    assert "Column filled_at of table venue.fills has no time zone and is read as UTC." in snapshot.notes
    assert fetch(engine, "venue.fills,venue.Positions", "no uuid").positions is None
    run(engine, 'UPDATE venue."Positions" SET qty = qty + 0.2')
    assert fetch(engine, "venue.fills,venue.Positions", profile).positions == (Position("ETH", Decimal("0.3")),)


def test_nothing_is_written_and_one_snapshot_is_read(engine: sa.Engine) -> None:
    """The view writes into a log when it is read: the READ ONLY transaction refuses that."""
    run(
        engine,
        FILLS,
        POSITIONS,
        "CREATE TABLE log (at text)",
        "CREATE FUNCTION noted() RETURNS boolean LANGUAGE sql AS $$ INSERT INTO log VALUES ('read') RETURNING true $$",
        "CREATE VIEW noisy AS SELECT * FROM positions WHERE noted()",
        """CREATE VIEW told AS SELECT profile_id, 1 AS qty,
            current_setting('transaction_isolation') || ',' || current_setting('transaction_read_only') AS symbol
            FROM positions""",
        "INSERT INTO positions VALUES ('main', 'BTC', 0)",
    )
    assert fetch(engine, "fills,told").positions == (Position("repeatable read,on", Decimal(1)),)
    message = refusal(engine, "fills,noisy")
    assert message.startswith(
        "table:fills,noisy: expected readable tables, found: cannot execute INSERT in a read-only transaction"
    )
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM (SELECT * FROM noisy) AS r")) == 1, "the control"


def test_an_unfit_table_is_refused_by_name(engine: sa.Engine) -> None:
    run(engine, FILLS, "CREATE TABLE positions (profile_id text, symbol text, amount numeric)")
    message = refusal(engine)
    assert message == (
        "table positions: expected a table or view with the columns profile_id, symbol, qty, found no qty; "
        "correct the table and run again."
    )
    message = refusal(engine, "deals,positions")
    assert message == (
        f"table deals: expected a table or view with the columns profile_id, {COLUMNS}, found none of that name; "
        "correct the name in RECON_EXCHANGE or create it and run again."
    )
    assert refusal(engine, "nowhere.fills,positions").startswith("table nowhere.fills: expected a table or view with")
    run(engine, "ALTER TABLE fills DROP COLUMN profile_id, DROP COLUMN fee")
    assert "found no profile_id, fee; correct the table" in refusal(engine)


@pytest.mark.parametrize("type_", ["text", "date", "bigint"])
def test_a_time_without_a_time_type_is_refused(engine: sa.Engine, type_: str) -> None:
    run(engine, FILLS, POSITIONS, "ALTER TABLE fills DROP COLUMN filled_at", f"ALTER TABLE fills ADD filled_at {type_}")
    assert refusal(engine) == (
        f"table fills, column filled_at: expected timestamptz or timestamp (UTC), found {type_.upper()}; "
        "correct the table and run again."
    )


def test_a_table_that_may_not_be_read_is_refused(engine: sa.Engine) -> None:
    run(
        engine,
        FILLS,
        POSITIONS,
        "CREATE VIEW broken AS SELECT profile_id, symbol, 1 / (qty - qty) AS qty FROM positions",
    )
    run(engine, "INSERT INTO positions VALUES ('main', 'BTC', 1)")
    message = refusal(engine, "fills,broken")
    assert message.startswith("table:fills,broken: expected readable tables, found: division by zero")
    role = f"stranger_{engine.url.database}"
    run(engine, f'CREATE ROLE "{role}"')
    message = refusal(connect(engine.url.render_as_string(hide_password=False), f"-c role={role}"))
    run(engine, f'DROP ROLE "{role}"')
    assert message.startswith(
        "table:fills,positions: expected readable tables, found: permission denied for table fills"
    )


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("fill_id", None, "a text that is not empty, found nothing"),
        ("fill_id", "", "a text that is not empty, found nothing"),
        ("exchange_order_id", None, "a text that is not empty, found nothing"),
        ("symbol", None, "a text that is not empty, found nothing"),
        ("symbol", " BTC", "printable text without blanks around it, found ' BTC'"),
        ("side", None, "buy or sell, found nothing"),
        ("side", "short", "buy or sell, found 'short'"),
        ("qty", None, "a number such as 0.25, at most 30 digits on each side of the point, found nothing"),
        ("qty", Decimal("NaN"), "a number such as 0.25, at most 30 digits on each side of the point, found 'NaN'"),
        ("qty", Decimal("-Infinity"), "a number such as 0.25, at most 30 digits on each side of the point, found '-I"),
        ("qty", Decimal(0), "a number above zero, found '0'"),
        ("qty", Decimal("-0.5"), "a number above zero, found '-0.5'"),
        ("price", None, "a number such as 0.25"),
        ("price", Decimal(0), "a number above zero"),
        ("fee", Decimal("NaN"), "a number such as 0.25"),
        (
            "filled_at",
            None,
            "a time with offset such as 2026-03-01T09:30:00.123456Z, at most six decimals, found nothing",
        ),
        (
            "filled_at",
            "infinity",
            "a time with offset such as 2026-03-01T09:30:00.123456Z, at most six decimals, found",
        ),
        (
            "filled_at",
            NOW + timedelta(minutes=5, microseconds=1),
            "a time at most 5 minutes after now (2026-03-01T12:00:00",
        ),
    ],
)
def test_a_bad_cell_is_refused(engine: sa.Engine, column: str, value: object, expected: str) -> None:
    run(engine, FILLS, POSITIONS)
    add_fill(engine, fill_id="f0")
    add_fill(engine, **{column: value})
    message = refusal(engine)
    key = {"fill_id": "f1", "exchange_order_id": "o1"} | ({column: value or ""} if column.endswith("_id") else {})
    place = f"table fills, fill {key['fill_id']!r} of order {key['exchange_order_id']!r}, column {column}: expected "
    assert message.startswith(place + expected)
    assert message.endswith("; correct the table and run again.")


@pytest.mark.parametrize(
    ("symbol", "qty", "column"), [(None, 1, "symbol"), ("B", None, "qty"), ("B", Decimal("NaN"), "qty")]
)
def test_a_bad_position_is_refused(engine: sa.Engine, symbol: str | None, qty: object, column: str) -> None:
    run(engine, FILLS, POSITIONS)
    run(engine, "INSERT INTO positions VALUES ('main', :symbol, :qty)", symbol=symbol, qty=qty)
    assert refusal(engine).startswith(f"table positions, symbol {symbol or ''!r}, column {column}: expected ")


def test_amounts_kept_as_text_are_judged_like_those_of_a_file(engine: sa.Engine) -> None:
    run(engine, FILLS, POSITIONS, "ALTER TABLE fills ALTER qty TYPE text")
    add_fill(engine, qty="1e-3")
    assert fetch(engine).fills[0].qty == Decimal("0.001")
    add_fill(engine, fill_id="f2", qty="1,5")
    assert "fill 'f2' of order 'o1', column qty: expected a number such as 0.25" in refusal(engine)


def test_identical_rows_count_once_and_contradicting_ones_are_refused(engine: sa.Engine) -> None:
    run(engine, FILLS, POSITIONS)
    add_fill(engine)
    add_fill(engine, side="SELL", qty=Decimal("0.500"))
    assert len(fetch(engine).fills) == 1
    add_fill(engine, qty=Decimal("0.6"))
    assert "(same exchange_order_id" not in (message := refusal(engine))
    assert (
        "which has the same exchange_order_id and fill_id ('o1', 'f1'), found another qty; correct the table" in message
    )


def test_the_window_is_settled_by_the_clock_and_the_lookback(engine: sa.Engine) -> None:
    run(engine, FILLS, POSITIONS)
    start = NOW - LOOKBACK
    for name, instant in (("edge", start), ("old", start - timedelta(microseconds=1)), ("now", NOW)):
        add_fill(engine, fill_id=name, filled_at=instant)
    snapshot = fetch(engine)
    assert snapshot.window == Window(start, NOW)
    assert [fill.fill_id for fill in snapshot.fills] == ["edge", "now"]
    assert len(snapshot.notes) == 1, "older rows are not even read"
    add_fill(engine, fill_id="ahead", filled_at=NOW + timedelta(minutes=5))
    snapshot = fetch(engine)
    assert snapshot.window == Window(start + timedelta(minutes=5), NOW + timedelta(minutes=5))
    assert [fill.fill_id for fill in snapshot.fills] == ["now", "ahead"]
    window = Window(start - timedelta(days=1), NOW - timedelta(hours=1))
    snapshot = fetch(engine, window=window)
    assert snapshot.window == window
    assert [fill.fill_id for fill in snapshot.fills] == ["old", "edge"]
    assert "2 of 4 fills lie outside the window and are not evidence." in snapshot.notes


def test_a_profile_that_no_table_knows_is_unknown_not_flat(engine: sa.Engine) -> None:
    run(engine, FILLS, POSITIONS, "INSERT INTO positions VALUES ('other', 'BTC', 1)")
    snapshot = fetch(engine)
    assert snapshot.positions is None
    assert "Positions are unknown: neither table has a row of this profile within the window." in snapshot.notes
    add_fill(engine)
    assert fetch(engine).positions == ()


@pytest.mark.parametrize("profile_id", ["a:b", "o'1", "' OR true --", "<b>", "🙂", "%s", ":x"])
def test_odd_profile_ids_work(engine: sa.Engine, profile_id: str) -> None:
    run(engine, FILLS, POSITIONS)
    add_fill(engine, profile_id=profile_id)
    add_fill(engine, profile_id="other", fill_id="not mine")
    assert [fill.fill_id for fill in fetch(engine, profile_id=profile_id).fills] == ["f1"]


def test_a_real_account_reads_the_same_from_tables_and_from_files(engine_each_version: sa.Engine, replay: Path) -> None:
    engine, folder = engine_each_version, replay / "acct-a"
    run(engine, FILLS, POSITIONS)
    for name in ("fills", "positions"):
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]
        with engine.begin() as connection:
            names = ", ".join(rows[0])
            values = ", ".join(f":{column}" for column in rows[0])
            connection.execute(sa.text(f"INSERT INTO {name} (profile_id, {names}) VALUES ('main', {values})"), rows)
    lookback = timedelta(hours=200_000)
    from_tables = TableExchange(engine, "fills", "positions").fetch("main", now=NOW, lookback=lookback)
    from_files = StatementExchange(str(folder)).fetch("main", now=NOW, lookback=lookback)
    assert len(from_tables.fills) == 563
    assert from_tables.fills == from_files.fills
    assert from_tables.positions == from_files.positions
    assert from_tables.window == from_files.window
