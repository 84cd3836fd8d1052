"""`recon doctor`: what is configured, reachable and permitted; each failure says what to do. Writes nothing.

Entry point: `examine`. A check fails only for what would stop a repair; everything else is told in its sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

from recon.doctor.database import database_checks
from recon.doctor.exchange import exchange_checks
from recon.doctor.folder import reports_check
from recon.doctor.origins import settings_told
from recon.doctor.rights import RIGHTS
from recon.doctor.signing import signatures_check
from recon.domain import Check
from recon.errors import ReconError, UsageError
from recon.pause import PauseState
from recon.settings import Settings
from recon.workspace import Workspace, open_workspace

__all__ = ["RIGHTS", "examine"]


def examine(settings: Settings, profile_id: str | None) -> list[Check]:
    """Every check in order; with a profile its pause state and its evidence are read too. Reads only."""
    told = settings_told(settings)
    try:
        work = open_workspace(settings=settings)
    except UsageError as error:
        return [Check("settings", False, f"{error.code}: {error.message} What is set, {told}")]
    except ReconError as error:
        return [Check("settings", True, told), Check("database", False, f"{error.code}: {error.message}")]
    database = list(database_checks(work))
    return [
        Check("settings", True, told),
        *database,
        *(exchange_checks(work, profile_id) if database[0].ok else ()),
        *_pause(work, profile_id),
        signatures_check(settings),
        reports_check(settings.recon_reports_dir),
    ]


def _pause(work: Workspace, profile_id: str | None) -> Iterator[Check]:
    if work.status_url is None:
        yield Check("pause_switch", False, "RECON_TRADING_STATUS_URL is unset, so the pause is unknown; set it.")
    elif profile_id is None:
        yield Check("pause_switch", True, "configured; give --profile-id to read it")
    else:
        answer = work.pause(profile_id, attempts=1)
        yield Check("pause_switch", answer.state is not PauseState.UNKNOWN, f"{answer.state.value}: {answer.detail}")
