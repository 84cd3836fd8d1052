"""Whether signed approvals can be made and verified here. Looks, and writes nothing."""

from __future__ import annotations

import shutil

from recon.domain import Check
from recon.errors import ReconError
from recon.settings import Settings
from recon.signatures import readable


def signatures_check(settings: Settings) -> Check:
    """Whether approvals that are to be verified could be: the allowed-signers file, and ssh-keygen; reads only."""
    required, allowed = settings.recon_require_signature, settings.recon_allowed_signers
    rule = "required" if required else "not required"
    if allowed is None:
        if required:
            return Check(
                "signatures",
                False,
                "RECON_REQUIRE_SIGNATURE is true and RECON_ALLOWED_SIGNERS is unset, so every approval would be "
                "refused; set it",
            )
        return Check("signatures", True, f"{rule}; RECON_ALLOWED_SIGNERS is unset, so none is verified")
    try:
        readable(allowed)
    except ReconError as error:
        return Check("signatures", False, f"{error.code}: {error.message}")
    if shutil.which("ssh-keygen") is None:
        return Check("signatures", False, "there is no ssh-keygen on the PATH to verify them; install OpenSSH")
    return Check("signatures", True, f"{rule}; verified against {allowed}")
