"""Flags and settings: read once from the environment or `.env` into a frozen model.

The runbook's seven flags keep their exact names and defaults. A value that does not parse is refused by
name; its text is not repeated, since it might be a secret.
"""

from __future__ import annotations

import getpass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import (
    Field,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from recon.errors import UsageError

DEFAULT = "by default"
"""The origin of a setting that nobody set."""

OWN_PREFIXES = ("recon_", "enable_recon_")
"""How the names of settings begin; another name that begins so is most likely a misspelt one."""

INTERNAL = ("recon_run", "recon_test_")
"""And how those that are no settings begin: what the runner passes to its kernels, and what tests read."""

SHORTEST_SECRET = 8
"""Characters of a token or key, which reports strike out. Others decide how long passwords are; they may be shorter."""


def project_root(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` that holds `.env` or recon's `pyproject.toml`, else `start`.

    Raises `UsageError` (no_folder) when the working folder was deleted.
    """
    try:
        here = (start or Path.cwd()).resolve()
    except FileNotFoundError:
        raise UsageError("no_folder", "The working folder was deleted. Change to one that exists.") from None
    for folder in (here, *here.parents):
        if (folder / ".env").is_file():
            return folder
        project = folder / "pyproject.toml"
        if project.is_file() and 'name = "recon"' in project.read_text(encoding="utf-8", errors="replace"):
            return folder
    return here


def _names_a_host(address: str) -> bool:
    try:
        parsed = urlsplit(address)
        port = parsed.port  # raises, and quotes, what is no number
    except ValueError:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.hostname) and port != 0 and " " not in address


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


MOST_HOURS = 10_000_000


class Settings(BaseSettings):
    """All settings; field names are the environment names in lower case."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    enable_recon_exit_backfill: bool = False
    recon_exit_backfill_dry_run: bool = True
    recon_exit_backfill_require_pause: bool = True
    recon_exit_backfill_dust_abs_qty: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] = Decimal("0.001")
    recon_exit_backfill_dust_rel_pct: Annotated[Decimal, Field(ge=0, le=1, allow_inf_nan=False)] = Decimal("0.002")
    recon_exit_backfill_lookback_hours: Annotated[int, Field(gt=0, le=MOST_HOURS)] = 72
    exchange_state_mismatch_throttle_ms: Annotated[int, Field(ge=0, le=10**12)] = 300_000

    recon_database_url: SecretStr | None = None
    recon_exchange: str | None = None
    recon_exchange_api_key: SecretStr | None = None
    recon_exchange_secret: SecretStr | None = None
    recon_exchange_password: SecretStr | None = None
    recon_exchange_sandbox: bool = False
    recon_exchange_base_url: SecretStr | None = None
    recon_exchange_market: Literal["spot", "swap", "future", "margin"] | None = None
    recon_trading_status_url: SecretStr | None = None
    recon_trading_status_token: SecretStr | None = None
    recon_reports_dir: Path = Path("reports")
    recon_actor: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(default_factory=_actor)
    recon_allowed_signers: Path | None = None
    recon_require_signature: bool = False
    recon_require_second_person: bool = False
    recon_approval_ttl_hours: Annotated[int, Field(gt=0, le=MOST_HOURS)] = 24
    recon_exit_backfill_base_fee: bool = False
    recon_max_batch_rows: Annotated[int, Field(gt=0)] = 10_000
    recon_home: Path = Field(default_factory=lambda: user_data_path("recon"))

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("recon_approval_ttl_hours", "recon_exit_backfill_lookback_hours", mode="wrap")
    @classmethod
    def _is_whole_hours(cls, value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"expected a whole number of hours, from 1 to {MOST_HOURS}") from None

    @field_validator("recon_exchange_base_url")
    @classmethod
    def _is_address(cls, value: SecretStr | None) -> SecretStr | None:
        """Scheme, host and port, so that nothing of it is taken for something else and quoted."""
        if value is not None and not _names_a_host(value.get_secret_value()):
            raise ValueError("expected http://HOST:PORT or https://HOST")
        return value

    @field_validator("recon_trading_status_token", "recon_exchange_api_key", "recon_exchange_secret")
    @classmethod
    def _is_unlike_a_word(cls, value: SecretStr | None) -> SecretStr | None:
        """A secret that may be a word of a report would take that word out of it, wherever it stands."""
        if value is not None and len(value.get_secret_value().strip()) < SHORTEST_SECRET:
            raise ValueError(
                f"expected a secret of at least {SHORTEST_SECRET} characters, blanks around it not counted, found a "
                "shorter one"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        """An empty value counts as unset; it has already won over the one in `.env`."""
        return {name: value for name, value in values.items() if value != ""}

    def origin(self, name: str) -> str:
        """Where the field's value came from: the environment, a `.env` by its path, the default, or the program."""
        return self._origins.get(name, "given by the program" if name in self.model_fields_set else DEFAULT)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names, as in the environment, that look like a setting of recon and are none; misspelt ones, most likely."""
        return tuple(sorted(name.upper() for name in self._origins if name not in type(self).model_fields))

    @property
    def is_demo(self) -> bool:
        """Whether no database was named, so that the embedded demo stands in for everything unset."""
        return self.recon_database_url is None

    def flags(self) -> dict[str, str]:
        """The deciding flags by their exact names, as text for reports."""
        names = (
            "enable_recon_exit_backfill",
            "recon_exit_backfill_dry_run",
            "recon_exit_backfill_require_pause",
            "recon_exit_backfill_dust_abs_qty",
            "recon_exit_backfill_dust_rel_pct",
            "recon_exit_backfill_lookback_hours",
            "exchange_state_mismatch_throttle_ms",
            "recon_require_signature",
            "recon_require_second_person",
            "recon_approval_ttl_hours",
            "recon_exit_backfill_base_fee",
            "recon_max_batch_rows",
        )
        return {name.upper(): str(getattr(self, name)).lower() for name in names}


def load_settings() -> Settings:
    """Read the environment, then `.env` at the project's root; relative folders are made absolute from that root.

    Raises `UsageError` (settings_invalid) that names each setting that does not parse, or a `.env` that cannot be read.
    """
    root = project_root()
    try:
        settings = Settings(_env_file=root / ".env")  # type: ignore[call-arg]
    except ValidationError as error:
        problems = "; ".join(
            "".join(f"{str(name).upper()}: " for name in problem["loc"][:1])
            + problem["msg"].removeprefix("Value error, ")
            for problem in error.errors(include_input=False, include_url=False)
        )
        raise UsageError("settings_invalid", f"These settings do not parse: {problems}. Correct them.") from None
    except (UnicodeDecodeError, OSError):
        raise UsageError(
            "settings_invalid", f"{root / '.env'} cannot be read: expected a readable file in UTF-8. Correct it."
        ) from None
    return _absolute(settings, root)


def _absolute(settings: Settings, root: Path) -> Settings:
    """The settings with absolute folders: a kernel, or JupyterLab, starts in another one and must find the same."""
    kind, _, statement = (settings.recon_exchange or "").strip().partition(":")
    folders: dict[str, Any] = {}
    try:
        for name in ("recon_reports_dir", "recon_home"):
            folders[name] = root / getattr(settings, name).expanduser()
        if settings.recon_allowed_signers is not None:
            folders["recon_allowed_signers"] = root / settings.recon_allowed_signers.expanduser()
        if kind == "statement" and statement.strip():
            folders["recon_exchange"] = f"statement:{root / Path(statement.strip()).expanduser()}"
    except RuntimeError:
        raise UsageError(
            "settings_invalid",
            "RECON_REPORTS_DIR, RECON_HOME, RECON_ALLOWED_SIGNERS or RECON_EXCHANGE begins with the ~ of nobody known "
            "here. Correct it.",
        ) from None
    found = settings.model_copy(update=folders)
    found._origins = _origins(root / ".env")
    return found


def _origins(file: Path) -> dict[str, str]:
    """Where each field's value comes from, by field; and names that look like a field and are none."""
    sources = {
        f"from {file}": DotEnvSettingsSource(Settings, env_file=file),
        "from the environment": EnvSettingsSource(Settings),
    }
    found = dict.fromkeys(Settings.model_fields, DEFAULT)
    for origin, source in sources.items():
        given = {name: value for name, value in source().items() if name in Settings.model_fields}
        found |= {name: DEFAULT if value == "" else origin for name, value in given.items()}
        alike = (name for name in source.env_vars if name.startswith(OWN_PREFIXES) and not name.startswith(INTERNAL))
        found |= dict.fromkeys((name for name in alike if name not in Settings.model_fields), origin)
    return found
