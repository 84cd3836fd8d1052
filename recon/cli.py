"""The command line: arguments in, an exit status out; everything else is done elsewhere.

Exit status: 0 done or GO, 1 error, 2 usage, 3 NO_GO or refused. With `--json` standard output holds one JSON
object and nothing else. Progress goes to standard error, and only to a terminal.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from recon import audit, batches
from recon.agreement import NOT_COMPARED, database_checks
from recon.approval import holds
from recon.database import transaction
from recon.doctor import examine
from recon.domain import Check, Stage, State
from recon.doors.access import for_reading
from recon.doors.roles import create_doors, role_script
from recon.errors import ReconError
from recon.fetch import fetch_evidence
from recon.identity import check_batch_id
from recon.incident import commit_outcome, exact
from recon.reporting.result import console_text, printable
from recon.reporting.verify import verify_folder
from recon.settings import Settings, load_settings
from recon.sign_off import sign_report
from recon.signatures import readable
from recon.stages.approve import approve, approve_rollback
from recon.stages.release import Approval
from recon.workspace import open_workspace

WIDTH = 100
"""Columns that the settings of `recon doctor` take at most, but for a value that is longer by itself."""

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output, nothing else."
)
batch_option = click.option("--batch-id", required=True, metavar="B", help="The batch: one incident on one profile.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="recon", message="%(version)s")
def cli() -> None:
    """Find ghost positions, prove from the exchange's fills what closed them, and repair them auditably.

    Without any setting everything runs on an embedded PostgreSQL with a demo incident: start with `recon demo`.
    Exit status: 0 done or GO, 1 error, 2 usage, 3 NO_GO or refused.
    """


@cli.command("demo")
@as_json
def demo_command(as_json: bool) -> None:
    """Run the whole demo incident on embedded PostgreSQL. The last line is the report's path."""
    from recon.demo_run import run_demo  # slow to import, as are the two below: they bring papermill

    finished = run_demo(load_settings(), progress=_progress())
    _say(as_json, finished.document(), finished.lines())
    sys.exit(finished.exit_status)


@cli.command("init")
@click.option("--print", "print_only", is_flag=True, help="Print the SQL and change nothing.")
@click.option("--roles", is_flag=True, help="Also make the roles to grant to people, and the doors that hold them.")
def init_command(print_only: bool, roles: bool) -> None:
    """Create recon's own tables beside `orders`. An existing audit table gets the columns that it lacks.

    With --roles, PostgreSQL itself refuses whatever is not in an approved plan. That takes a superuser, or a user that
    may create roles and owns `orders` and its schema; --print gives the SQL for one, as one transaction.
    """
    with transaction(open_workspace().engine) as connection:
        if roles:
            statements = role_script(connection) if print_only else create_doors(connection)
        elif print_only:
            statements = audit.ddl(connection) + audit.trail_ddl(connection)
        else:
            statements = audit.create_tables(connection)
    lines = [printable(one) if one.startswith("--") else f"{one};" for one in statements]
    _print("\n".join(lines) or "-- recon's tables are complete; nothing to do")


@cli.command("doctor")
@click.option("--profile-id", metavar="P", help="Also read this profile's pause state and exchange evidence.")
@as_json
def doctor_command(profile_id: str | None, as_json: bool) -> None:
    """Show what is configured, reachable and permitted. Each failure says what to do about it."""
    _report_checks(examine(load_settings(), profile_id), as_json)


@cli.command("run")
@click.argument("stage", metavar="STAGE", type=click.Choice([stage.value for stage in Stage]))
@click.option("--profile-id", required=True, metavar="P", help="Whose orders.")
@batch_option
@click.option("--trade-id", "trade_ids", multiple=True, metavar="T", help="dry-run: only this trade; may be repeated.")
@click.option("--symbol", "symbols", multiple=True, metavar="S", help="dry-run: only this symbol; may be repeated.")
@as_json
def run_command(
    stage: str, profile_id: str, batch_id: str, trade_ids: Sequence[str], symbols: Sequence[str], as_json: bool
) -> None:
    """Run one stage's notebook and keep it as the report.

    STAGE is one of detect, dry-run, apply, validate, rollback. Running a stage again is safe.
    """
    from recon.reporting.runner import run_stage

    this = Stage(stage)
    if (trade_ids or symbols) and this is not Stage.DRY_RUN:
        raise click.UsageError("--trade-id and --symbol narrow the batch when it is planned; use them with dry-run.")
    check_batch_id(batch_id)
    settings = load_settings()
    with _interrupts_told(this, settings, batch_id):
        with transaction(open_workspace(this, settings).engine, read_only=True):
            pass
        outcome = run_stage(
            this, profile_id, batch_id, settings=settings, trade_ids=trade_ids, symbols=symbols, progress=_progress()
        )
    result = outcome.result
    for problem in outcome.problems:
        click.echo(f"recon: {printable(problem)}", err=True)
    _say(as_json, result, [console_text(result)])
    sys.exit(1 if outcome.problems else {"GO": 0, "DONE": 0, "FAILED": 1, "NO_GO": 3}[result["verdict"]])


@cli.command("fetch")
@click.option("--profile-id", required=True, metavar="P", help="Whose evidence.")
@click.option("--out", "folder", required=True, metavar="DIR", type=click.Path(path_type=Path), help="A new folder.")
@as_json
def fetch_command(profile_id: str, folder: Path, as_json: bool) -> None:
    """Write the exchange's evidence as a statement folder.

    It is what a dry run would ask for; RECON_EXCHANGE=statement:DIR plans from it again.
    """
    work = open_workspace()
    with exact():
        fetched = fetch_evidence(work, profile_id, folder, progress=_progress())
    _say(as_json, fetched.document(), [printable(line) for line in fetched.lines()])


@cli.command("approve")
@batch_option
@click.option("--by", required=True, metavar="NAME", help="Who approves; recorded in every later report.")
@click.option("--key", metavar="PATH", type=click.Path(path_type=Path), help="Sign the approval with this SSH key.")
@click.option(
    "--acknowledge",
    multiple=True,
    metavar="TRADE_ID=WHY",
    help="Accept a NO_GO or dust-only trade as the plan treats it, and say why; may be repeated.",
)
@click.option("--rollback", is_flag=True, help="Approve that the rows which the batch wrote be canceled.")
@as_json
def approve_command(
    batch_id: str, by: str, key: Path | None, acknowledge: Sequence[str], rollback: bool, as_json: bool
) -> None:
    """Release the rows of the batch's plan, for as long as RECON_APPROVAL_TTL_HOURS says.

    A new dry run voids the approval. What is approved is shown before it is signed and recorded.
    """
    check_batch_id(batch_id)
    if rollback and acknowledge:
        raise click.UsageError("--acknowledge is for the plan; a rollback has nothing to acknowledge.")
    work = open_workspace()

    def show(approval: Approval) -> None:
        how = f"to be signed with {key}" if key else "without a signature"
        if not as_json:
            _print("\n".join(printable(line) for line in [*approval.lines(), f"by {approval.by}, {how}"]))

    with exact():
        if rollback:
            approval = approve_rollback(work, batch_id, by, key=key, show=show)
        else:
            approval = approve(work, batch_id, by, acknowledge, key=key, show=show)
        _say(as_json, approval.data(), [printable(f"approved by {approval.by}, {approval.told}")])


@cli.command("status")
@click.option("--profile-id", metavar="P", help="Only this profile's batches.")
@as_json
def status_command(profile_id: str | None, as_json: bool) -> None:
    """List the batches with their states and the next command for each."""
    settings = load_settings()
    work = open_workspace(settings=settings)
    with transaction(for_reading(work.engine), read_only=True) as connection:
        found = batches.every(connection, profile_id)
        now = work.now(connection)
    document = [
        {
            "batch_id": batch.batch_id,
            "profile_id": batch.profile_id,
            "state": batch.state,
            "plan_digest": batch.plan_digest,
            "updated_at": f"{batch.updated_at:%Y-%m-%dT%H:%M:%S.%fZ}",
            "updated_by": batch.updated_by,
            "next": batch.next_command(
                settings.recon_reports_dir,
                key=settings.recon_require_signature,
                now=now,
                void=batch.state is State.APPROVED and not holds(batch, settings, now),
            ),
        }
        for batch in found
    ]
    lines = [
        printable(f"{one['batch_id']}  {one['profile_id']}  {one['state']}  {one['updated_at']}  {one['next']}")
        for one in document
    ]
    _say(as_json, {"batches": document}, lines or ["no batch yet; start with `recon run detect`"])


@cli.command("sign")
@batch_option
@click.option("--key", required=True, metavar="PATH", type=click.Path(path_type=Path), help="The SSH key to sign with.")
@click.option("--by", metavar="NAME", help="Who signs; by default whom the allowed-signers file names, else the actor.")
@as_json
def sign_command(batch_id: str, key: Path, by: str | None, as_json: bool) -> None:
    """Sign the report of a validated or rolled back batch, which closes the incident.

    First the report is verified, offline and against the database, and refused unless all of it holds. The signature
    (ssh-keygen -Y sign, namespace recon-report) is written beside manifest.json. A stage that runs later makes a new
    manifest, to be signed again.
    """
    signed = sign_report(load_settings(), check_batch_id(batch_id), key, by)
    _say(as_json, signed.document(), [printable(line) for line in signed.lines()])


@cli.command("verify")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--allowed-signers",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Whose signatures count, in place of RECON_ALLOWED_SIGNERS.",
)
@click.option("--require-signature", is_flag=True, help="Fail unless the report and its approvals are signed.")
@as_json
def verify_command(directory: Path, allowed_signers: Path | None, require_signature: bool, as_json: bool) -> None:
    """Check that a report folder is untouched, by whom it is signed, and that the database agrees with it.

    Without the database: every file has the sum that SHA256SUMS and manifest.json name; no other file is there;
    every notebook ran to its end and is sealed; each manifest follows the one that it replaced; signatures, of the
    report and of the approvals in it, are those of people whom the allowed-signers file names.

    With it: the batch, each of its audit rows and each of its rows in orders are as reported and recorded. A folder
    that does not hold by itself is not held against the database; one that lacks a required signature is.

    Each failure names the file or the row. Exit status: 0 all checks hold, 1 one does not, 2 there is no DIR, or
    FILE or that of RECON_ALLOWED_SIGNERS cannot be read.
    """
    settings = load_settings()
    allowed = allowed_signers or settings.recon_allowed_signers
    if allowed is not None:
        readable(allowed)
    signed = settings.recon_require_signature
    checks = verify_folder(directory, allowed, require_signature=require_signature, require_approvals=signed)
    if all(check.ok or check.is_demand for check in checks):
        checks += database_checks(settings, directory)
    else:
        checks.append(NOT_COMPARED)
    _report_checks(checks, as_json)


@cli.command("lab", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[JUPYTER OPTIONS]...")
def lab_command(arguments: Sequence[str]) -> None:
    """Open JupyterLab on the notebooks, with this configuration. Options such as --no-browser go to JupyterLab."""
    from recon.lab import open_lab

    open_lab(load_settings(), arguments)


@contextmanager
def _interrupts_told(stage: Stage, settings: Settings, batch_id: str) -> Iterator[None]:
    """Says of an interrupted apply or rollback what became of it, if its report does not."""
    try:
        yield
    except KeyboardInterrupt:
        if said := commit_outcome(stage, settings, batch_id):
            raise ReconError("interrupted", f"Interrupted. {said}") from None
        raise


def _progress() -> bool:
    return sys.stderr.isatty()


def _say(as_json: bool, document: Mapping[str, Any], lines: Sequence[str]) -> None:
    text = "\n".join(lines)
    _print(json.dumps(document) if as_json else text, text)


def _print(text: str, otherwise: str | None = None) -> None:
    """Write to standard output; where that fails, tell it (or `otherwise`) on standard error, and end with 1."""
    try:
        click.echo(text)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # at its end Python would try once more
        click.echo(otherwise or text, err=True)
        sys.exit(_fail(False, "error", f"Standard output cannot be written ({error.strerror}); this was for it.", 1))


def _report_checks(checks: Sequence[Check], as_json: bool) -> None:
    good = all(check.ok for check in checks)
    document = {"ok": good, "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks]}
    _say(as_json, document, [line for check in checks for line in _check_lines(check)])
    sys.exit(0 if good else 1)


def _check_lines(check: Check) -> list[str]:
    """A check on one line; but the settings, which are many, by their origins and no wider than WIDTH."""
    line = printable(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
    if check.name != "settings":
        return [line]
    first, *others = line.split("; ")
    return [*_wrapped(first, ""), *(row for other in others for row in _wrapped(other, " " * 5))]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False
    )


def main() -> None:
    """Run the command line and end the process with the documented exit status."""
    wants_json = "--json" in sys.argv[1:]
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # a terminal that cannot show an id must not fail what was done
                stream.reconfigure(errors="backslashreplace")
        cli.main(_arguments(), standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message(), err=True)
        sys.exit(2)
    except ReconError as error:
        sys.exit(_fail(wants_json, error.code, error.message, error.exit_status))
    except click.UsageError as error:
        said = " ".join(error.format_message().split())
        where = f" See `{error.ctx.command_path} --help`." if error.ctx else ""
        sys.exit(_fail(wants_json, "usage", f"{said}{'' if said.endswith(('.', '?')) else '.'}{where}", 2))
    except click.ClickException as error:
        sys.exit(_fail(wants_json, "error", error.format_message(), 1))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_fail(wants_json, "interrupted", "Interrupted; `recon status` shows where each batch stands.", 1))


def _arguments() -> list[str]:
    """The arguments; one that is not text in the terminal's encoding could be neither stored nor printed."""
    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError:
        raise click.UsageError("An argument is not text in this terminal's encoding; expected UTF-8.") from None
    return sys.argv[1:]


def _fail(wants_json: bool, code: str, message: str, status: int) -> int:
    line = printable(f"recon: {code}: {message}")
    if wants_json:
        _print(json.dumps({"code": code, "message": message}), line)
    else:
        click.echo(line, err=True)
    return status
