"""Manhattan attention by several means, all equal to `plain` within a stated tolerance; `attend` picks one."""

from rmt.model.backends.dispatch import attend
from rmt.model.backends.form import Decay, Form

__all__ = ["Decay", "Form", "attend"]
