"""Takes secrets out of texts before they are recorded or sent.

Values that are known to be secret are replaced first; the rest is searched by families of patterns.
The work is linear in the length of a text: a text is cut before it is searched, no pattern goes
back over what it has passed, and a text with too many possible secrets is redacted whole.
"""

from scalable_runs.redact.names import is_secret_name
from scalable_runs.redact.redactor import MAX_TEXT, Redactor
from scalable_runs.redact.text import REDACTED

__all__ = ["MAX_TEXT", "REDACTED", "Redactor", "is_secret_name"]
