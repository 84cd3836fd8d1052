"""Settings: exact names, exact defaults, `.env` at the project's root, and no value in any refusal."""

from __future__ import annotations

import json
import os
import re
from decimal import Decimal
from pathlib import Path

import pytest
from console import clean_environment

from recon.database import connect
from recon.errors import UsageError
from recon.lab import configuration
from recon.reporting.strike import struck_json
from recon.settings import Settings, load_settings, project_root

RUNBOOK_FLAGS = {
    "ENABLE_RECON_EXIT_BACKFILL": False,
    "RECON_EXIT_BACKFILL_DRY_RUN": True,
    "RECON_EXIT_BACKFILL_REQUIRE_PAUSE": True,
    "RECON_EXIT_BACKFILL_DUST_ABS_QTY": Decimal("0.001"),
    "RECON_EXIT_BACKFILL_DUST_REL_PCT": Decimal("0.002"),
    "RECON_EXIT_BACKFILL_LOOKBACK_HOURS": 72,
    "EXCHANGE_STATE_MISMATCH_THROTTLE_MS": 300_000,
}
OWN = {
    "RECON_DATABASE_URL": None,
    "RECON_EXCHANGE": None,
    "RECON_TRADING_STATUS_URL": None,
    "RECON_TRADING_STATUS_TOKEN": None,
    "RECON_EXIT_BACKFILL_BASE_FEE": False,
    "RECON_MAX_BATCH_ROWS": 10_000,
}
FLAGS = [name for name, value in (RUNBOOK_FLAGS | OWN).items() if isinstance(value, bool)]
HIDDEN = "s3cret-maybe"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to start in, and none of recon's settings in the environment."""
    kept = clean_environment()
    for name in set(os.environ) - set(kept):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(**environment: str) -> str:
    """The message of the refusal; it never repeats a value."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(UsageError) as caught:
            load_settings()
    assert (caught.value.code, caught.value.exit_status) == ("settings_invalid", 2)
    assert HIDDEN not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(("name", "value"), (RUNBOOK_FLAGS | OWN).items())
def test_the_default_is_the_safe_one(name, value) -> None:
    assert getattr(load_settings(), name.lower()) == value


def test_where_things_lie_by_default(project) -> None:
    settings = load_settings()
    assert settings.recon_reports_dir == project / "reports"
    assert settings.recon_home.is_absolute()
    assert settings.recon_actor
    assert settings.is_demo


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("TRUE", True), ("1", True), ("false", False), ("0", False)]
)
def test_a_flag_is_read_under_its_exact_name(monkeypatch, name, text, value) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(load_settings(), name.lower()) is value


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_that_is_neither_yes_nor_no_is_refused_by_name(name) -> None:
    assert refused(**{name: HIDDEN}).startswith(f"These settings do not parse: {name}: ")


@pytest.mark.parametrize(
    ("name", "texts"),
    {
        "RECON_EXIT_BACKFILL_DUST_ABS_QTY": ["-0.001", "nan", "inf", HIDDEN, "1,5"],
        "RECON_EXIT_BACKFILL_DUST_REL_PCT": ["-0.1", "1.1", "NaN", "0.2%"],
        "RECON_EXIT_BACKFILL_LOOKBACK_HOURS": ["0", "-1", "1.5", "72h", "10000001", "9" * 20],
        "EXCHANGE_STATE_MISMATCH_THROTTLE_MS": ["-1", "0.5", "9" * 20],
        "RECON_MAX_BATCH_ROWS": ["0", "-3", "many"],
    }.items(),
)
def test_a_number_outside_its_range_is_refused_by_name(name, texts) -> None:
    for text in texts:
        assert refused(**{name: text}).startswith(f"These settings do not parse: {name}: "), text


@pytest.mark.parametrize("name", ["RECON_APPROVAL_TTL_HOURS", "RECON_EXIT_BACKFILL_LOOKBACK_HOURS"])
@pytest.mark.parametrize("text", ["nan", "0.001", "0", "-1", "24h", "10000001"])
def test_hours_are_whole_and_the_refusal_says_so(name, text) -> None:
    said = f"These settings do not parse: {name}: expected a whole number of hours, from 1 to 10000000. Correct them."
    assert refused(**{name: text}) == said


@pytest.mark.parametrize("name", [" ", "\t", "\u00a0 "])
def test_an_actor_without_a_name_is_refused(name) -> None:
    assert refused(RECON_ACTOR=name).startswith("These settings do not parse: RECON_ACTOR: ")


def test_every_setting_that_does_not_parse_is_named_at_once() -> None:
    message = refused(ENABLE_RECON_EXIT_BACKFILL="maybe", RECON_EXIT_BACKFILL_BASE_FEE=HIDDEN, RECON_MAX_BATCH_ROWS="0")
    assert re.findall(r"[A-Z_]{12,}", message) == [
        "ENABLE_RECON_EXIT_BACKFILL", "RECON_EXIT_BACKFILL_BASE_FEE", "RECON_MAX_BATCH_ROWS",
    ]  # fmt: skip


def test_amounts_are_taken_as_they_are_written(monkeypatch) -> None:
    monkeypatch.setenv("RECON_EXIT_BACKFILL_DUST_ABS_QTY", "0.10000000000000000000000000000000000001")
    settings = load_settings()
    assert settings.recon_exit_backfill_dust_abs_qty == Decimal("0.10000000000000000000000000000000000001")
    assert settings.flags()["RECON_EXIT_BACKFILL_DUST_ABS_QTY"] == "0.10000000000000000000000000000000000001"


def test_the_flags_of_the_run_card_are_the_runbooks_and_those_that_decide_beside_them() -> None:
    flags = load_settings().flags()
    assert set(flags) == {
        *RUNBOOK_FLAGS,
        "RECON_REQUIRE_SIGNATURE",
        "RECON_REQUIRE_SECOND_PERSON",
        "RECON_APPROVAL_TTL_HOURS",
        "RECON_EXIT_BACKFILL_BASE_FEE",
        "RECON_MAX_BATCH_ROWS",
    }
    assert (flags["ENABLE_RECON_EXIT_BACKFILL"], flags["RECON_EXIT_BACKFILL_DUST_REL_PCT"]) == ("false", "0.002")


def test_an_empty_value_counts_as_unset(monkeypatch) -> None:
    monkeypatch.setenv("RECON_DATABASE_URL", "")
    monkeypatch.setenv("RECON_EXIT_BACKFILL_DRY_RUN", "")
    settings = load_settings()
    assert settings.is_demo
    assert settings.recon_exit_backfill_dry_run is True


def test_an_empty_value_in_the_environment_wins_over_the_env_file(project, monkeypatch) -> None:
    """`RECON_DATABASE_URL= recon status` must not act on the configured database."""
    (project / ".env").write_text("RECON_DATABASE_URL=postgresql://u@h/production\nRECON_MAX_BATCH_ROWS=7\n")
    assert not load_settings().is_demo
    monkeypatch.setenv("RECON_DATABASE_URL", "")
    settings = load_settings()
    assert (settings.is_demo, settings.recon_max_batch_rows) == (True, 7)
    assert "recon_database_url" not in settings.model_fields_set


def test_settings_do_not_change_once_read() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.enable_recon_exit_backfill = True  # type: ignore[misc]


@pytest.mark.parametrize("name", ["RECON_TRADING_STATUS_TOKEN", "RECON_EXCHANGE_API_KEY", "RECON_EXCHANGE_SECRET"])
def test_a_secret_that_may_be_a_word_is_refused_and_not_repeated(monkeypatch, name) -> None:
    for short in ("zqxjkv7", " " * 8, "  zqxjkv7 "):
        monkeypatch.setenv(name, short)
        with pytest.raises(UsageError) as caught:
            load_settings()
        assert (caught.value.code, caught.value.exit_status) == ("settings_invalid", 2)
        assert caught.value.message == (
            f"These settings do not parse: {name}: expected a secret of at least 8 characters, blanks around it not "
            "counted, found a shorter one. Correct them."
        )
    monkeypatch.setenv(name, "zqxjkv78")
    load_settings()
    monkeypatch.setenv(name, "")
    load_settings()


def test_a_short_password_is_that_of_the_server_and_takes_no_name_out_of_a_report() -> None:
    given = Settings(_env_file=None, recon_database_url="postgresql://u:abc@h/d")  # type: ignore[call-arg, arg-type]
    assert struck_json("trade 'abc' at u:abc@h with password=abc", given) == "trade 'abc' at u***h with ***"
    longer = Settings(_env_file=None, recon_database_url="postgresql://u:abcd@h/d")  # type: ignore[call-arg, arg-type]
    assert struck_json("trade 'abcd' of abcd", longer) == "trade *** of abcd"
    blank = Settings(_env_file=None, recon_exchange_password=" " * 9)  # type: ignore[call-arg, arg-type]
    indented = json.dumps({"a": {"b": {"c": 1}}}, indent=9)
    assert struck_json(indented, blank) == indented


def test_no_secret_shows_in_the_text_of_the_settings(monkeypatch) -> None:
    monkeypatch.setenv("RECON_DATABASE_URL", f"postgresql://u:{HIDDEN}@h/d")
    monkeypatch.setenv("RECON_TRADING_STATUS_URL", f"http://u:{HIDDEN}@h")
    monkeypatch.setenv("RECON_TRADING_STATUS_TOKEN", HIDDEN)
    settings = load_settings()
    assert not settings.is_demo
    assert HIDDEN not in f"{settings!r} {settings} {settings.model_dump_json()}"


# The project's root


def test_the_env_file_of_the_nearest_folder_above_is_read(project, monkeypatch) -> None:
    (project / ".env").write_text(
        "RECON_MAX_BATCH_ROWS=7\nRECON_REPORTS_DIR=kept here\nRECON_HOME=home\nOTHER=1\n"
        "RECON_ALLOWED_SIGNERS=ops/signers\n"
    )
    below = project / "notebooks" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    settings = load_settings()
    assert settings.recon_max_batch_rows == 7
    assert settings.recon_reports_dir == project / "kept here"
    assert settings.recon_home == project / "home"
    assert settings.recon_allowed_signers == project / "ops" / "signers"


def test_the_environment_goes_before_the_env_file(project, monkeypatch) -> None:
    (project / ".env").write_text("RECON_MAX_BATCH_ROWS=7\nRECON_ACTOR=from the file\n")
    monkeypatch.setenv("RECON_MAX_BATCH_ROWS", "8")
    settings = load_settings()
    assert (settings.recon_max_batch_rows, settings.recon_actor) == (8, "from the file")


def test_a_flag_in_the_env_file_is_refused_in_the_same_way(project) -> None:
    (project / ".env").write_text(f"RECON_EXIT_BACKFILL_DRY_RUN={HIDDEN}\n")
    assert "RECON_EXIT_BACKFILL_DRY_RUN" in refused()


@pytest.mark.parametrize("content", [b"RECON_ACTOR=\xff\xfe\n", b"\x80"])
def test_an_env_file_that_is_not_text_is_refused(project, content) -> None:
    (project / ".env").write_bytes(content)
    assert refused().startswith(f"{project / '.env'} cannot be read: ")


def test_absolute_folders_and_the_users_home_stay_what_they_are(project, monkeypatch, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("HOME", str(elsewhere))
    (project / ".env").write_text(f"RECON_REPORTS_DIR={elsewhere}/reports\nRECON_HOME=~/recon\n")
    settings = load_settings()
    assert settings.recon_reports_dir == elsewhere / "reports"
    assert settings.recon_home == elsewhere / "recon"
    monkeypatch.setenv("RECON_REPORTS_DIR", "~/audits")
    assert load_settings().recon_reports_dir == elsewhere / "audits"
    assert load_settings().recon_allowed_signers is None
    monkeypatch.setenv("RECON_ALLOWED_SIGNERS", "~/signers")
    assert load_settings().recon_allowed_signers == elsewhere / "signers"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("RECON_REPORTS_DIR", ""), ("RECON_HOME", ""), ("RECON_ALLOWED_SIGNERS", ""), ("RECON_EXCHANGE", "statement:")],
)
def test_the_home_of_nobody_is_refused(name, kind) -> None:
    assert name in refused(**{name: f"{kind}~nobody-known-here/x"})


def test_the_folder_of_a_statement_is_made_absolute_from_the_root(project, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/analyst")
    for named, folder in {
        "st/{profile_id}": project / "st" / "{profile_id}",
        " . ": project,
        "/mnt/{profile_id}/st": Path("/mnt/{profile_id}/st"),
        "~/st": Path("/home/analyst/st"),
    }.items():
        monkeypatch.setenv("RECON_EXCHANGE", f"statement:{named}")
        assert load_settings().recon_exchange == f"statement:{folder}"
    for other in ("table:fills,positions", "statement:", "ccxt:kraken"):
        monkeypatch.setenv("RECON_EXCHANGE", other)
        assert load_settings().recon_exchange == other


def test_the_kernels_of_jupyterlab_read_the_same_settings_whatever_lies_where_they_start(project, monkeypatch) -> None:
    """The notebooks lie elsewhere, below another `.env` and beside another statement."""
    (project / "ops").mkdir()
    (project / "ops" / ".env").write_text("RECON_EXCHANGE=statement:st/{profile_id}\nRECON_MAX_BATCH_ROWS=7\n")
    (project / "checkout").mkdir()
    (project / "checkout" / ".env").write_text(
        "RECON_DATABASE_URL=postgresql://u@h/other\nRECON_EXCHANGE=statement:x\n"
    )
    monkeypatch.chdir(project / "ops")
    settings = load_settings()
    for name, value in configuration(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project / "checkout")
    assert load_settings().model_dump() == settings.model_dump()
    assert settings.recon_exchange == f"statement:{project}/ops/st/{{profile_id}}"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:1", "htp://h", "http://", "http://u:sesame/x@h:1", "http://u:sesame\u2100@h", "http://u:sesame a@h",
     "http://[::1", "http://h:99999", "http://h:0"],
)  # fmt: skip
def test_an_exchange_address_that_could_be_misread_is_refused_and_not_repeated(monkeypatch, address) -> None:
    monkeypatch.setenv("RECON_EXCHANGE_BASE_URL", address)
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert caught.value.code == "settings_invalid"
    assert "RECON_EXCHANGE_BASE_URL: expected http://HOST:PORT" in caught.value.message
    assert "sesame" not in caught.value.message
    monkeypatch.setenv("RECON_EXCHANGE_BASE_URL", "https://u:sesame@h:1/path")
    assert "sesame" not in repr(load_settings())


def test_a_checkout_of_recon_is_a_root_and_another_project_is_not(project) -> None:
    inner = project / "another" / "folder"
    inner.mkdir(parents=True)
    assert project_root(inner) == inner
    (project / "another" / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert project_root(inner) == inner
    (project / "pyproject.toml").write_text('[project]\nname = "recon"\n')
    assert project_root(inner) == project
    (project / "another" / "pyproject.toml").write_bytes(b'author = "\xe9"\n')
    assert project_root(inner) == project
    (inner / ".env").mkdir()  # a folder of that name holds no settings
    assert project_root(inner) == project


def test_a_working_folder_that_was_deleted_is_told(project, monkeypatch) -> None:
    gone = project / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert caught.value.code == "no_folder"


# Database URLs


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "",
        f"mysql://u:{HIDDEN}@h/d",
        f"postgresql://u:{HIDDEN}@h:port/d",
        f"postgresql://u:{HIDDEN}@[::1/d",
        f"postgresql://u:{HIDDEN}@ss@h/d",
        f"postgresql://u:pa@{HIDDEN}/word@h:5432/d",
        f"postgresql://h:5432/d?user=u&password=pa@{HIDDEN}",
    ],
)
def test_a_url_that_cannot_be_one_is_refused_without_being_repeated(url) -> None:
    with pytest.raises(UsageError) as caught:
        connect(url)
    assert caught.value.code == "database_url_invalid"
    assert HIDDEN not in caught.value.message


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_spelling_of_postgresql_is_driven_by_psycopg_3(scheme) -> None:
    engine = connect(f"{scheme}://u:open%40sesame@h:6543/d?sslmode=require")
    assert engine.url.drivername == "postgresql+psycopg"
    assert (engine.url.password, engine.url.host, engine.url.port) == ("open@sesame", "h", 6543)
    assert engine.url.query["sslmode"] == "require"


def test_the_model_reads_no_file_unless_it_is_named(project) -> None:
    """Tests and the demo build settings without `.env`."""
    (project / ".env").write_text("RECON_MAX_BATCH_ROWS=7\n")
    assert Settings(_env_file=None).recon_max_batch_rows == 10_000  # type: ignore[call-arg]
