"""recon finds ghost positions, proves from exchange fills what closed them, and repairs them auditably.

What a notebook imports is here, and nothing more.
"""

from recon.incident import open_incident

__all__ = ["open_incident"]
