"""Signatures that anyone can check: OpenSSH's, made and verified by `ssh-keygen -Y` itself (8.7 or later).

Entry points: `sign`, `signer`. No key and no passphrase passes through this program. Rules: rules.md 12.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from recon.errors import ReconError, Refused, UsageError

PLAN = "recon-plan"
"""The namespace in which approvals are signed: a signature made for one purpose does not pass for another."""

REPORT = "recon-report"
"""The namespace in which reports are signed."""

SECONDS = 60
"""How long ssh-keygen may take where nobody can answer it; an agent or a key in hardware may wait for a touch."""

_PATTERN = frozenset("*?!")

_QUOTED = re.compile(rb'"(?:\\"|[^"])*"')

_FIELDS = re.compile(
    rb'\s*(?:"(?P<quoted>[^"]*)"|(?P<plain>[^\s"]\S*))\s*(?P<options>(?:\\"|' + _QUOTED.pattern + rb'|[^\s"])*)'
)
"""The principals of a line and the field after them: options, or else the kind of the key."""


def sign(data: bytes, key: Path, namespace: str) -> str:
    """The armoured signature of exactly these bytes; writes nothing that stays.

    `key` is a private key's file, or a public one's whose private half is in the agent or beside it. A passphrase is
    asked by ssh-keygen on the terminal; where there is none, the key must do without. Raises `Refused` (key_unusable)
    and `ReconError` (ssh_keygen_missing).
    """
    try:
        where = key.expanduser().absolute()
    except RuntimeError:
        where = key.absolute()
    with TemporaryDirectory(prefix="recon-") as folder:
        document = Path(folder, "document")
        document.write_bytes(data)
        ran = _ssh_keygen("sign", ["-f", str(where), "-n", namespace, str(document)], ask=_has_terminal())
        signature = Path(folder, "document.sig")
        made = signature.read_bytes() if signature.is_file() else b""
        if ran.returncode or not made.isascii() or not made:
            asks = "" if _has_terminal() else " There is no terminal to ask for a passphrase: use one, or ssh-agent."
            raise Refused(
                "key_unusable",
                f"Nothing was signed with {where}: {_said(ran, where)}. Expected a private key that only its owner can "
                f"read, or a public one whose private half is in ssh-agent.{asks}",
            )
        return made.decode("ascii")


def signer(data: bytes, signature: str, namespace: str, allowed_signers: Path, *, at: datetime | None = None) -> str:
    """Who signed exactly these bytes: the principal that the allowed-signers file gives the key; reads only.

    The key must be allowed `at` that instant, by default now, and for this namespace. A line of the file that gives a
    pattern names nobody. Raises `Refused` (signature_invalid), `UsageError` (allowed_signers_unreadable) and
    `ReconError` (ssh_keygen_missing).
    """
    content = readable(allowed_signers)
    when = ["-O", f"verify-time={at.astimezone():%Y%m%d%H%M%S}"] if at else []
    with TemporaryDirectory(prefix="recon-") as folder:
        kept, naming, every = (Path(folder, name) for name in ("signature", "naming", "every"))
        kept.write_text(signature, encoding="utf-8", errors="backslashreplace")
        naming.write_bytes(b"\n".join(line if _names(line) else b"" for line in content.split(b"\n")))
        every.write_bytes(content)
        rest = ["-s", str(kept), "-f", str(naming), *when]
        persons = [name for name in _principals(rest)[0] if not _PATTERN & set(name)]
        if not persons:
            patterns, found = _principals(["-s", str(kept), "-f", str(every), *when])
            if patterns:
                raise _invalid(f"{allowed_signers} gives its key to the pattern {patterns[0]!r}, which names nobody")
            said = _said(found, kept).replace(str(every), str(allowed_signers))
            raise _invalid(f"its key is not one of {allowed_signers}: {said}")
        told = ""
        for person in persons:
            checked = _ssh_keygen("verify", ["-n", namespace, "-I", person, *rest], data)
            if checked.returncode == 0:
                return person
            told = told or _said(checked, kept).replace(str(naming), str(allowed_signers))
        raise _invalid(f"it does not verify for {persons[0]} in the namespace {namespace}: {told}")


def _names(line: bytes) -> bool:
    """Whether a line of the file gives a name, not patterns alone: ssh-keygen stops at the first line of a key.

    One of a certificate authority may give patterns: the certificate gives the name. That option is read as ssh-keygen
    reads it, in any case of letters, and nowhere but among the options.
    """
    found = _FIELDS.match(line)
    if found is None:
        return True
    names = (found["quoted"] or found["plain"] or b"").decode(errors="replace").split(",")
    options = _QUOTED.sub(b"", found["options"]).lower().split(b",")
    return b"cert-authority" in options or not all(_PATTERN & set(name) for name in names)


def _principals(arguments: Sequence[str]) -> tuple[list[str], subprocess.CompletedProcess[bytes]]:
    """The names and patterns that the first line with the key gives, and what ssh-keygen said."""
    found = _ssh_keygen("find-principals", arguments)
    given = [] if found.returncode else found.stdout.decode(errors="replace").splitlines()
    return [name for name in given if name], found


def fingerprint(signature: str) -> str | None:
    """Which key an armoured signature names, as `ssh-keygen -l` writes it; None when it is no signature.

    Of a certificate it is that of the certificate itself, not of the key in it. Whether the signature holds, and whose
    the key is, is for `signer` to say.
    """
    lines = signature.strip().splitlines()
    try:
        data = base64.b64decode("".join(lines[1:-1]), validate=True)
        start = len(b"SSHSIG") + 8  # the version, and the length of the key
        key = data[start : start + int.from_bytes(data[start - 4 : start], "big")]
    except ValueError:
        return None
    if not data.startswith(b"SSHSIG") or not key:
        return None
    return f"SHA256:{base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip('=')}"


def readable(allowed_signers: Path) -> bytes:
    """What the allowed-signers file holds. Raises `UsageError` (allowed_signers_unreadable) if it cannot be read."""
    try:
        return allowed_signers.read_bytes()
    except OSError as error:
        raise UsageError(
            "allowed_signers_unreadable",
            f"The allowed-signers file {allowed_signers} cannot be read ({error.strerror}). Expected lines such as "
            "`NAME ssh-ed25519 AAAA...`; write it, or name another.",
        ) from None


def _invalid(why: str) -> Refused:
    return Refused(
        "signature_invalid",
        f"The signature is not valid: {why}. Let a person that the file names sign again, or correct the file.",
    )


def _has_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def _ssh_keygen(
    action: str, arguments: Sequence[str], data: bytes = b"", *, ask: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """Run `ssh-keygen -Y ACTION`. Unless it may `ask`, it has no terminal, so it fails where it would wait."""
    program = shutil.which("ssh-keygen")
    if program is None:
        raise ReconError(
            "ssh_keygen_missing",
            "There is no ssh-keygen on the PATH; it makes and verifies signatures. Install OpenSSH 8.7 or later.",
        )
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "SSH_ASKPASS")}
    try:
        return subprocess.run(
            [program, "-Y", action, *arguments],
            input=None if ask else data,
            env=environment | {"SSH_ASKPASS_REQUIRE": "never", "LC_ALL": "C"},
            start_new_session=not ask,
            capture_output=True,
            timeout=None if ask else SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess([], 255, b"", f"it gave no answer in {SECONDS} seconds".encode())


def _said(ran: subprocess.CompletedProcess[bytes], mine: Path) -> str:
    """What ssh-keygen said, in one line, without its banner, its prompt and the names of temporary files."""
    lines = [line.strip() for line in ran.stderr.decode(errors="replace").splitlines()]
    told = [line.removeprefix("Enter passphrase: ").rstrip(".") for line in lines if line and not line.startswith("@")]
    return "; ".join(told).replace(str(mine), mine.name) or f"ssh-keygen ended with {ran.returncode} and said nothing"
