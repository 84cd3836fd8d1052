"""Ids and canonical text. Invariant 11: the same facts give the same bytes."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from recon.domain import Side
from recon.errors import UsageError
from recon.identity import (
    BASE_FEE,
    DUST,
    advisory_key,
    backfill_order_id,
    base_asset,
    canonical_decimal,
    canonical_json,
    canonical_symbol,
    canonical_time,
    check_batch_id,
    digest,
    identity_text,
)

INSTANT = datetime(2026, 3, 1, 9, 30, 0, 123000, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def test_the_id_of_a_known_row_is_the_md5_that_md5sum_prints():
    """`printf 'alpha:T-1:X9:2026-03-01T09:30:00.123000Z' | md5sum`"""
    assert backfill_order_id("alpha", "T-1", "X9", INSTANT) == "BFILL-e33071d315b8fc5b9ef907b25149f3f1"


@pytest.mark.parametrize(
    ("stands_for", "known"),
    [(DUST, "82f94a489473a0b159d4a57e21337c41"), (BASE_FEE, "fe869adad751bfb61cf842e52afa06a4")],
)
def test_dust_and_fee_rows_have_known_ids_too(stands_for, known):
    assert backfill_order_id("alpha", "T-1", stands_for, INSTANT) == f"BFILL-{known}"


def test_the_words_for_dust_and_fee_are_fixed():
    assert (DUST, BASE_FEE) == ("DUST", "FEE")


def test_the_id_hashes_utf8_of_the_runbooks_text():
    text = "prof:T'1 <b>\U0001f680:x:y:2026-03-01T09:30:00.123000Z"
    assert identity_text("prof", "T'1 <b>\U0001f680", "x:y", INSTANT) == text
    expected = hashlib.md5(text.encode("utf-8")).hexdigest()
    assert backfill_order_id("prof", "T'1 <b>\U0001f680", "x:y", INSTANT) == f"BFILL-{expected}"


def test_every_component_counts():
    base = backfill_order_id("p", "t", "x", INSTANT)
    others = {
        backfill_order_id("q", "t", "x", INSTANT),
        backfill_order_id("p", "u", "x", INSTANT),
        backfill_order_id("p", "t", "y", INSTANT),
        backfill_order_id("p", "t", "x", INSTANT + timedelta(microseconds=1)),
    }
    assert len(others) == 4
    assert base not in others


def test_components_with_colons_can_share_one_text_and_so_one_id():
    assert identity_text("p", "a:b", "c", INSTANT) == identity_text("p", "a", "b:c", INSTANT)
    assert backfill_order_id("p", "a:b", "c", INSTANT) == backfill_order_id("p", "a", "b:c", INSTANT)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (INSTANT, "2026-03-01T09:30:00.123000Z"),
        (datetime(2026, 3, 1, 9, 30, tzinfo=UTC), "2026-03-01T09:30:00.000000Z"),
        (datetime(2026, 3, 1, 9, 30, 0, 1, tzinfo=UTC), "2026-03-01T09:30:00.000001Z"),
        (datetime(2026, 3, 1, 15, 15, tzinfo=timezone(timedelta(hours=5, minutes=45))), "2026-03-01T09:30:00.000000Z"),
        (datetime(2026, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=2))), "2026-02-28T22:30:00.000000Z"),
        (datetime(2026, 7, 1, 12, tzinfo=BERLIN), "2026-07-01T10:00:00.000000Z"),
        (datetime(2026, 1, 1, 12, tzinfo=BERLIN), "2026-01-01T11:00:00.000000Z"),
        (datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN, fold=0), "2025-10-26T00:30:00.000000Z"),
        (datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN, fold=1), "2025-10-26T01:30:00.000000Z"),
        (datetime(987, 6, 5, 4, 3, 2, tzinfo=UTC), "0987-06-05T04:03:02.000000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_an_instant_is_utc_with_six_digits_and_z(instant, text):
    assert canonical_time(instant) == text


def test_an_instant_without_a_time_zone_is_refused():
    with pytest.raises(ValueError, match="without a time zone"):
        canonical_time(datetime(2026, 3, 1))  # noqa: DTZ001 - that is the point


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1.50", "1.5"),
        ("15E-1", "1.5"),
        ("100", "100"),
        ("1E+2", "100"),
        ("1E+30", "1" + "0" * 30),
        ("1E-18", "0.000000000000000001"),
        ("-0.10", "-0.1"),
        ("10.0", "10"),
        ("0", "0"),
        ("-0.00", "0"),
        ("0E-20", "0"),
        ("0E+5", "0"),
        ("123456789012345678901234567890.123456789012345678901234567890", None),
    ],
)
def test_a_decimal_is_plain_text_without_exponent_or_trailing_zero(value, text):
    assert canonical_decimal(Decimal(value)) == (text or value.rstrip("0"))


@pytest.mark.parametrize("spelling", ["BTC/USD", "BTCUSD", "BTC-USD", "btc_usd", "BTC:USD", "bTc-/_:usd"])
def test_every_spelling_of_a_symbol_is_one_symbol(spelling):
    assert canonical_symbol(spelling) == "BTCUSD"


@pytest.mark.parametrize("symbol", ["@107", "1000.PEPE", "BTC USD", "BTC+USD", "BTC~USD", "BTC.USD"])
def test_other_characters_of_a_symbol_stay(symbol):
    assert canonical_symbol(symbol) == symbol


@pytest.mark.parametrize(
    ("symbol", "base"),
    [
        ("BTC/USD", "BTC"),
        ("eth-usdt", "ETH"),
        ("BTC/USDT-PERP", "BTC"),
        ("1INCH-A/B", "1INCH"),
        ("@107", "@107"),
        ("BTCUSD", "BTCUSD"),
        ("BTC_USD", "BTC_USD"),
        ("BTC:USD", "BTC:USD"),
    ],
)
def test_the_base_asset_is_the_part_before_slash_or_hyphen(symbol, base):
    assert base_asset(symbol) == base


def test_canonical_json_sorts_keys_and_writes_utf8_without_spaces():
    value = {"b": Decimal("1.500"), "a": [INSTANT, None, True, 3], "é": (Side.SELL, "\U0001f680")}
    expected = '{"a":["2026-03-01T09:30:00.123000Z",null,true,3],"b":"1.5","é":["sell","\U0001f680"]}'
    assert canonical_json(value) == expected.encode("utf-8")


def test_canonical_json_takes_tuples_for_lists_and_orders_keys_by_code_point():
    assert canonical_json((1, (2,))) == canonical_json([1, [2]])
    assert canonical_json({"a": 1, "B": 2, "ä": 3}) == '{"B":2,"a":1,"ä":3}'.encode()


@pytest.mark.parametrize("value", [1.5, [0.1], {"a": {"b": (float("nan"),)}}])
def test_canonical_json_refuses_a_float_at_any_depth(value):
    with pytest.raises(TypeError, match="float has no canonical text"):
        canonical_json(value)


def test_the_digest_is_sha256_over_the_canonical_bytes():
    value = {"qty": Decimal("2.0")}
    assert digest(value) == hashlib.sha256(b'{"qty":"2"}').hexdigest()


def test_the_advisory_key_is_the_head_of_a_known_hash_as_a_signed_number():
    """`printf 'recon:alpha' | sha256sum` begins with c116417b31ac14ff."""
    assert advisory_key("alpha") == 0xC116417B31AC14FF - 2**64


def test_the_advisory_key_fits_a_bigint_and_tells_profiles_apart():
    keys = {advisory_key(f"profile-{number}") for number in range(200)}
    assert len(keys) == 200
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert any(key > 0 for key in keys)


@pytest.mark.parametrize("batch_id", ["a", "7", "2026-03-01-ghosts", "A.b_c-1", "x" * 64, "a..b"])
def test_a_batch_id_that_is_a_safe_folder_name_is_returned(batch_id):
    assert check_batch_id(batch_id) == batch_id


@pytest.mark.parametrize(
    "batch_id",
    ["", "../../x", ".hidden", "-rf", "_x", "a/b", "a b", "a\n", "x" * 65, "ä", "a\x00", "a:b", "a%2e", "a\\b"],
)
def test_a_malformed_batch_id_is_a_usage_error(batch_id):
    with pytest.raises(UsageError) as refusal:
        check_batch_id(batch_id)
    assert (refusal.value.code, refusal.value.exit_status) == ("malformed_batch_id", 2)
    assert repr(batch_id) in refusal.value.message
