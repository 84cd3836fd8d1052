"""The chain of the manifests of a report folder, and whose signatures stand under it. Reads only.

Each manifest names the digest of the one that it replaced and repeats every file of it; so a file that was there when
somebody signed cannot change or leave without the chain breaking.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from recon.approval import NOT_SIGNED, NOT_VERIFIED
from recon.domain import Check
from recon.errors import ReconError, Refused
from recon.reporting.manifest import Manifest, lasting, parse, read_chain
from recon.reporting.names import MANIFEST, SIGNATURE
from recon.signatures import REPORT, signer

ARMOUR = 70
"""How many characters ssh-keygen writes in a line of a signature."""


def chain_findings(folder: Path, last: Manifest) -> Iterator[str]:
    """What is wrong with the chain: manifests must follow each other, and files may only be added."""
    try:
        chain = read_chain(folder, last)
    except OSError as error:
        yield f"{error.strerror}."
        return
    missing = [name for name in last.replaced if name not in chain]
    if missing or list(chain) != [f"manifests/{number}.json" for number in range(1, len(chain) + 1)]:
        yield f"{', '.join(missing) or 'A manifest'} is missing among those that {MANIFEST} replaced."
        return
    previous: str | None = None
    before: dict[str, str] = {}
    facts: dict[str, object] = {}
    for name, manifest in [*chain.items(), (MANIFEST, last)]:
        if manifest.previous != previous:
            yield f"{name} follows {manifest.previous or 'nothing'}, expected {previous or 'nothing'}."
        now = lasting(manifest)
        for file in sorted(before):
            if now.get(file) != before[file]:
                yield f"{file} {'is another' if file in now else 'is no longer there'} in {name}."
        told = {run["report"]: manifest.facts(run["report"]) for run in manifest.runs}
        yield from (
            f"{name} says something else of {report} than before."
            for report in facts
            if told.get(report) != facts[report]
        )
        facts = {report: what for report, what in told.items() if what}
        before, previous = now, manifest.sha256


def signature_check(
    folder: Path, last: Manifest | None, allowed_signers: Path | None, *, is_required: bool = False
) -> Check:
    """By whom the manifest is signed, and each that it replaced; an invalid signature is a failure.

    None is a failure only where one `is_required`, and then a demand, as are one that cannot be verified, a manifest
    of the older form, which carries none, and one that cannot be read (`last` is None).
    """
    wrong: list[str] = []
    if last is None or not last.is_statement:
        what = "the manifest cannot be read" if last is None else "the manifest is of the older form"
        told = [f"{NOT_SIGNED}: {what}"]
    else:
        told, wrong = _signatures(folder, last, allowed_signers)
    is_signed = last is not None and last.is_statement and (folder / SIGNATURE).is_file()
    is_demand = is_required and not wrong and (allowed_signers is None or not is_signed)
    if is_demand:
        name_them = "" if allowed_signers else "name whose signatures count with RECON_ALLOWED_SIGNERS, and "
        wrong.append(
            f"expected a signature of {MANIFEST} by one of the allowed signers, found: {'; '.join(told)}. To sign, "
            f"{name_them}run `recon sign`; if it was signed before, find out who took the signature away"
        )
        told = []
    return Check("signature", not wrong, "; ".join([*wrong, *told]) + going_by(allowed_signers), is_demand)


def going_by(allowed_signers: Path | None) -> str:
    """How a check names the file that says whose signatures count; empty when there is none."""
    return f"; going by {allowed_signers}" if allowed_signers else ""


def _signatures(folder: Path, last: Manifest, allowed_signers: Path | None) -> tuple[list[str], list[str]]:
    """What is told of the signatures, and what is wrong with them."""
    told: list[str] = []
    wrong: list[str] = []
    for name in [*last.replaced, MANIFEST]:
        signature = folder / f"{name}.sig"
        is_last = name == MANIFEST
        named = name if is_last else f"{name}, which was replaced since,"
        if not signature.is_file():
            if is_last:
                told.append(f"{MANIFEST} itself is {NOT_SIGNED}" if told or wrong else NOT_SIGNED)
        elif allowed_signers is None:
            told.append(f"{named} is {NOT_VERIFIED}")
        else:
            try:
                told.append(f"{named} is signed by {_signer(folder / name, signature, allowed_signers)}")
            except ReconError as error:
                wrong.append(f"{signature.relative_to(folder)} does not sign {name}: {error.message}")
            except OSError as error:
                wrong.append(f"{name} or its signature cannot be read: {error.strerror}")
    return told, wrong


def signed_files(folder: Path, last: Manifest) -> set[str] | None:
    """The files of the youngest manifest that has a signature; None when none has."""
    if (folder / SIGNATURE).is_file():
        return set(last.digests)
    chain = read_chain(folder, last)
    for name in reversed(chain):
        if (folder / f"{name}.sig").is_file():
            return set(chain[name].digests)
    return None


def newest(manifest: Manifest) -> datetime | None:
    """When the youngest file that a manifest names was kept: it was signed after that."""
    times = [entry["kept_at"] for entry in manifest.files if entry["kept_at"]]
    return datetime.strptime(max(times), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) if times else None


def _signer(path: Path, signature: Path, allowed_signers: Path) -> str:
    """Who signed; the key counts if it was allowed when the youngest file was kept, as git counts it for a commit."""
    data = path.read_bytes()
    text = signature.read_bytes().decode("utf-8", errors="replace")
    if not _is_plain(text):
        raise Refused("signature_invalid", "The signature is not written as ssh-keygen writes it.")
    try:
        at = newest(parse(data, path.name))
    except (OSError, ValueError):
        at = None
    return signer(data, text, REPORT, allowed_signers, at=at)


def _is_plain(text: str) -> bool:
    """Whether armoured text has the one form that its content has, so that no byte of it can be another."""
    lines = text.split("\n")
    try:
        content = base64.b64encode(base64.b64decode("".join(lines[1:-2]), validate=True)).decode()
    except ValueError:
        return False
    body = [content[at : at + ARMOUR] for at in range(0, len(content), ARMOUR)]
    return lines == ["-----BEGIN SSH SIGNATURE-----", *body, "-----END SSH SIGNATURE-----", ""]
