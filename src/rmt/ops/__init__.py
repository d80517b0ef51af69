"""Manhattan attention by several means, all equal to `plain` within a stated tolerance; `attend` picks one."""

from rmt.ops.dispatch import BACKENDS, attend, use_backend
from rmt.ops.form import Decay, Form

__all__ = ["BACKENDS", "Decay", "Form", "attend", "use_backend"]
