"""Signing and checking with the real ssh-keygen: who signed, which bytes, and that nothing waits for a passphrase."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recon.errors import ReconError, Refused, UsageError
from recon.signatures import PLAN, REPORT, fingerprint, sign, signer

DATA = b'{"action":"apply"}'


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "key")


def make_key(path: Path, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", str(path)], check=True)
    return path


def allow(folder: Path, *lines: str, key: Path) -> Path:
    """An allowed-signers file: each line's principals and options, then the key."""
    public = key.with_name(f"{key.name}.pub").read_text().strip()
    file = folder / "allowed_signers"
    file.write_text("".join(f"{line} {public}\n" for line in lines))
    return file


def refusal(code: str, kind: type[ReconError], *call: object, **named: object) -> str:
    function, *arguments = call
    with pytest.raises(kind) as raised:
        function(*arguments, **named)  # type: ignore[operator]
    assert (raised.value.code, type(raised.value)) == (code, kind)
    return raised.value.message


def test_who_signed_is_the_name_that_the_file_gives_the_key(tmp_path: Path, key: Path) -> None:
    signature = sign(DATA, key, PLAN)
    assert signature.startswith("-----BEGIN SSH SIGNATURE-----\n")
    assert signer(DATA, signature, PLAN, allow(tmp_path, "alice", key=key)) == "alice"
    assert signer(DATA, signature, PLAN, allow(tmp_path, f'alice,bob namespaces="{PLAN}"', key=key)) == "alice"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["allowed_signers", "key", "key.pub"]


def test_a_public_key_signs_with_its_private_half(tmp_path: Path, key: Path) -> None:
    signature = sign(DATA, key.with_name("key.pub"), PLAN)
    assert signer(DATA, signature, PLAN, allow(tmp_path, "alice", key=key)) == "alice"
    key.unlink()
    assert "No private key found" in refusal("key_unusable", Refused, sign, DATA, key.with_name("key.pub"), PLAN)


@pytest.mark.parametrize("place", range(len(DATA)))
def test_one_changed_byte_is_refused(tmp_path: Path, key: Path, place: int) -> None:
    changed = bytearray(DATA)
    changed[place] ^= 1
    said = refusal(
        "signature_invalid", Refused, signer, bytes(changed), sign(DATA, key, PLAN), PLAN, allow(tmp_path, "a", key=key)
    )
    assert "incorrect signature" in said


def test_another_namespace_is_refused(tmp_path: Path, key: Path) -> None:
    allowed = allow(tmp_path, "alice", key=key)
    said = refusal("signature_invalid", Refused, signer, DATA, sign(DATA, key, REPORT), PLAN, allowed)
    assert "namespace" in said
    allowed = allow(tmp_path, f'alice namespaces="{REPORT}"', key=key)
    said = refusal("signature_invalid", Refused, signer, DATA, sign(DATA, key, PLAN), PLAN, allowed)
    assert "not permitted" in said


def test_an_unknown_key_is_refused_also_when_the_names_are_equal(tmp_path: Path, key: Path) -> None:
    other = make_key(tmp_path / "other")
    allowed = allow(tmp_path, "alice", key=key)
    said = refusal("signature_invalid", Refused, signer, DATA, sign(DATA, other, PLAN), PLAN, allowed)
    assert "No principal matched" in said
    assert str(allowed) in said


def test_a_key_counts_while_it_is_allowed(tmp_path: Path, key: Path) -> None:
    signature = sign(DATA, key, PLAN)
    allowed = allow(tmp_path, 'alice valid-after="20250101",valid-before="20260101"', key=key)
    assert "expired" in refusal("signature_invalid", Refused, signer, DATA, signature, PLAN, allowed)
    during, before = datetime(2025, 6, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC)
    assert signer(DATA, signature, PLAN, allowed, at=during) == "alice"
    said = refusal("signature_invalid", Refused, signer, DATA, signature, PLAN, allowed, at=before)
    assert "not yet valid" in said
    renewed = allow(tmp_path, 'alice valid-before="20260101"', "alice-2", key=key)
    assert signer(DATA, signature, PLAN, renewed) == "alice-2"


def test_a_pattern_names_nobody(tmp_path: Path, key: Path) -> None:
    allowed = allow(tmp_path, "*@example.com", key=key)
    said = refusal("signature_invalid", Refused, signer, DATA, sign(DATA, key, PLAN), PLAN, allowed)
    assert "pattern" in said


@pytest.mark.parametrize("pattern", ["*", "*@example.com,?lice", '"*,a*"', "  *"])
def test_a_pattern_before_the_name_does_not_hide_who_signed(tmp_path: Path, key: Path, pattern: str) -> None:
    """ssh-keygen itself names whoever stands on the first line that has the key."""
    allowed = allow(tmp_path, pattern, '# of "alice"', '"alice"', "bob", key=key)
    assert signer(DATA, sign(DATA, key, PLAN), PLAN, allowed) == "alice"


def test_a_pattern_does_not_widen_what_the_line_with_the_name_allows(tmp_path: Path, key: Path) -> None:
    allowed = allow(tmp_path, "*", f'alice namespaces="{REPORT}"', key=key)
    signature = sign(DATA, key, PLAN)
    assert "does not verify for alice" in refusal("signature_invalid", Refused, signer, DATA, signature, PLAN, allowed)
    assert signer(DATA, sign(DATA, key, REPORT), REPORT, allowed) == "alice"


@pytest.mark.parametrize("options", ["", f'namespaces="{PLAN}"', 'namespaces="recon-*,cert-authority"'])
def test_a_word_elsewhere_makes_no_certificate_authority(tmp_path: Path, key: Path, options: str) -> None:
    """Such a line of a pattern names nobody, and is passed over."""
    allowed = allow(tmp_path, f"* {options}", "alice", key=key)
    allowed.write_text(allowed.read_text().replace("\n", " of the cert-authority\n", 1))
    assert signer(DATA, sign(DATA, key, PLAN), PLAN, allowed) == "alice"


@pytest.mark.parametrize(
    "line",
    ["* cert-authority", "*@example.com CERT-AUTHORITY", f'"*@example.com"  namespaces="{PLAN}",Cert-Authority',
     f'*@example.com cert-authority,namespaces="{PLAN}"'],
)  # fmt: skip
def test_a_certificate_names_who_signed_where_the_file_gives_a_pattern(tmp_path: Path, key: Path, line: str) -> None:
    authority = make_key(tmp_path / "authority")
    command = ["ssh-keygen", "-q", "-s", str(authority), "-I", "x", "-n", "alice@example.com", f"{key}.pub"]
    subprocess.run(command, check=True)
    allowed = allow(tmp_path, line, key=authority)
    assert signer(DATA, sign(DATA, Path(f"{key}-cert.pub"), PLAN), PLAN, allowed) == "alice@example.com"


@pytest.mark.parametrize("line", [b"zo\xeb", b"\xff\xfe*"])
def test_a_name_that_is_no_utf_8_is_nobodys(tmp_path: Path, key: Path, line: bytes) -> None:
    allowed = allow(tmp_path, "", key=key)
    allowed.write_bytes(line + allowed.read_bytes())
    refusal("signature_invalid", Refused, signer, DATA, sign(DATA, key, PLAN), PLAN, allowed)


@pytest.mark.parametrize("made", ["printf '\\351' > \"$last.sig\"", ': > "$last.sig"'])
def test_what_ssh_keygen_makes_and_is_no_signature_is_refused(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    program = tmp_path / "ssh-keygen"
    program.write_text(f"#!/bin/sh\nfor last; do :; done\nprintf 'schl\\374ssel' >&2\n{made}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "schl\ufffdssel" in refusal("key_unusable", Refused, sign, DATA, key, PLAN)


@pytest.mark.parametrize(
    "text", ["", "junk", "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n", "é\0"]
)
def test_what_is_no_signature_is_refused(tmp_path: Path, key: Path, text: str) -> None:
    refusal("signature_invalid", Refused, signer, DATA, text, PLAN, allow(tmp_path, "alice", key=key))


@pytest.mark.parametrize("text", ["", "junk", "-----BEGIN\nAAAA\n-----END", "-----BEGIN\né\n-----END"])
def test_what_is_no_signature_names_no_key(text: str) -> None:
    assert fingerprint(text) is None


@pytest.mark.parametrize("content", ["", "junk\n", "alice ssh-ed25519 AAAA\n"])
def test_a_file_that_names_nobody_refuses(tmp_path: Path, key: Path, content: str) -> None:
    allowed = tmp_path / "allowed_signers"
    allowed.write_text(content)
    refusal("signature_invalid", Refused, signer, DATA, sign(DATA, key, PLAN), PLAN, allowed)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, key: Path, name: str) -> None:
    signature = sign(DATA, key, PLAN)
    said = refusal("allowed_signers_unreadable", UsageError, signer, DATA, signature, PLAN, tmp_path / name)
    assert str(tmp_path / name) in said


def test_a_key_that_others_can_read_is_refused(key: Path) -> None:
    key.chmod(0o644)
    said = refusal("key_unusable", Refused, sign, DATA, key, PLAN)
    assert "too open" in said
    assert "@" not in said


@pytest.mark.parametrize("content", [None, "", "junk"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "no-key"
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    assert str(file) in refusal("key_unusable", Refused, sign, DATA, file, PLAN)


SIGN = """
import sys
from pathlib import Path
from recon.errors import ReconError
from recon.signatures import PLAN, sign
try:
    print(sign(b"data", Path(sys.argv[1]), PLAN))
except ReconError as error:
    print(error.code, error.message)
"""


@pytest.mark.parametrize("display", [None, ":0"])
def test_a_key_with_a_passphrase_waits_for_nobody(tmp_path: Path, display: str | None) -> None:
    """Without a terminal on standard input, also where the process has one, or where a display could show a window."""
    key = make_key(tmp_path / "key", "correct horse")
    asker = tmp_path / "asker"
    asker.write_text("#!/bin/sh\nsleep 600\n")
    asker.chmod(0o755)
    display_set = {"DISPLAY": display, "SSH_ASKPASS": str(asker)} if display else {}
    reader, writer = os.pipe()  # never written to and never closed: whoever reads it waits
    try:
        ran = subprocess.run(
            [sys.executable, "-c", SIGN, str(key)],
            stdin=reader,
            env=os.environ | display_set,
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert ran.stdout.startswith("key_unusable ")
    assert "passphrase" in ran.stdout
    assert "There is no terminal" in ran.stdout
    assert "gave no answer in" not in ran.stdout, "what waits is ended by recon after a minute"


def test_a_passphrase_is_asked_on_the_terminal(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key", "correct horse")
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, "-c", SIGN, str(key)], dict(os.environ))
    said = b""
    answered = False
    while True:
        try:
            read = os.read(terminal, 4096)
        except OSError:  # how Linux tells the end
            break
        if not read:
            break
        said += read
        if b"passphrase" in said and not answered:
            os.write(terminal, b"correct horse\n")
            answered = True
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0
    assert b"BEGIN SSH SIGNATURE" in said
    assert b"correct horse" not in said


def test_a_machine_without_ssh_keygen_is_told(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signature, allowed = sign(DATA, key, PLAN), allow(tmp_path, "alice", key=key)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ssh-keygen" in refusal("ssh_keygen_missing", ReconError, sign, DATA, key, PLAN)
    refusal("ssh_keygen_missing", ReconError, signer, DATA, signature, PLAN, allowed)
